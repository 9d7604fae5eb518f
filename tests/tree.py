"""`docs/tree.md`, made of the first lines of all modules' docstrings. `make format` writes it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tree.md"

FOLDERS = {
    "gateway": "the program `gateway`: the OpenAI API over a swarm",
    "gateway/api": "HTTP",
    "gateway/api/chat": "chat completions",
    "gateway/api/completions": "completions of raw texts",
    "gateway/api/embeddings": "vectors of texts",
    "gateway/api/responses": "responses, made and stored",
    "gateway/api/schema": "what goes out, as the OpenAPI document describes it",
    "gateway/conversation": "from messages to a prompt, and from text to the parts of an answer",
    "gateway/conversation/tool_formats": "calls of tools as models write them",
    "gateway/generation": "tokens and text",
    "gateway/store": "the database: keys, usage, stored responses",
    "gateway/swarm": "peers, routes, chains",
    "peer": "the program `peer`: holds a range of blocks and serves sessions over it",
    "peer/model": "blocks, their caches and their weights",
    "shared": "what both programs stand on",
    "shared/checkpoint": "models on disk and on hubs",
    "shared/libp2p_node": "the libp2p process",
    "benchmarks": "each prints a table and JSON: docs/benchmarks.md",
    "tests": "they mirror the sources; here is what all of them use, and the tests of whole swarms",
}


def page() -> str:
    """The whole page."""
    sections = (
        f"\n## `{folder}/`: {meaning}\n\n" + "\n".join(_lines(ROOT / folder)) + "\n"
        for folder, meaning in FOLDERS.items()
    )
    return "# The tree\n\nEach file with the first line of its docstring.\n" + "".join(sections)


def _lines(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.py")):
        if path.stat().st_size:
            docstring = ast.get_docstring(ast.parse(path.read_bytes())) or ""
            yield f"- `{path.name}`: {docstring.partition(chr(10))[0]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
