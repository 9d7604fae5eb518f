"""What constrained decoding costs a gateway: `python -m benchmarks.grammar`.

For the demo model's vocabulary and for one of 128k tokens, which is the same with pairs of tokens joined: the time and
memory of the trie of tokens, of compiling each of the schemas of tests/schemas.py, and of the mask before each token of
random answers to them. Then whole steps of the demo model in this process, with a grammar and without, in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from benchmarks.publish import publish
from benchmarks.report import number, row
from benchmarks.rounds import turns
from gateway.demo_model import fetch_demo_model
from gateway.generation.compiled_grammar import CompiledGrammar
from gateway.generation.grammars import Grammars
from gateway.generation.json_schema import enforceable
from gateway.generation.sampling import SamplingParams
from gateway.generation.token_trie import TokenTrie
from gateway.generation.tokenizer import TextTokenizer
from shared.options import default_cache_dir
from tests.gateway.local_engine import LocalEngine
from tests.schemas import EXAMPLES

LARGE = 128 * 1024
ANSWERS, TOKENS = 10, 100
STEPS = 96
STRUCTURE = frozenset('"{}[],: ')
ENDLESS = {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}, "minItems": 1000}
"""A schema whose answers do not end while steps are measured."""


def enlarged(tokenizer: TextTokenizer, size: int) -> TextTokenizer:
    """With so many tokens: the further ones are pairs, never produced by encoding."""
    whole = json.loads(tokenizer.backend.to_str())
    vocabulary = whole["model"]["vocab"]
    words = [word for word in vocabulary if 2 < len(word) < 8]
    for one, other in product(words, words[:: len(words) // 40]):
        if len(vocabulary) >= size:
            break
        vocabulary.setdefault(one + other.lstrip("Ġ"), len(vocabulary))
    large = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(whole)))
    return TextTokenizer(large, tokenizer.end_ids)


def measure_trie(tokenizer: TextTokenizer) -> tuple[TokenTrie, dict[str, float]]:
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    trie = TokenTrie(tokenizer, tokenizer.end_ids)
    seconds = time.perf_counter() - started
    return trie, {"seconds": seconds, "mb": (psutil.Process().memory_info().rss - before) / 1e6}


def measure_grammars(tokenizer: TextTokenizer, trie: TokenTrie) -> dict[str, Any]:
    """Milliseconds to compile each schema, with the first mask, and of each later token."""
    structure = np.array([set(tokenizer.token_text(token)) <= STRUCTURE for token in range(trie.vocab_size)])
    before = psutil.Process().memory_info().rss
    compiling: list[float] = []
    tokens: list[float] = []
    rng = np.random.default_rng(0)
    kept: list[CompiledGrammar] = []  # as Grammars keeps them
    compiler = ThreadPoolExecutor(1)  # never used: no lexer gets full here
    for example in EXAMPLES:
        started = time.perf_counter()
        kept.append(CompiledGrammar(trie, f"start: %json {enforceable(example.schema, 'schema')}", compiler))
        compiling.append(1e3 * (time.perf_counter() - started))
        for _ in range(ANSWERS):
            tokens += _token_times(kept[-1], structure, rng, tokenizer.end_ids)
    return {
        "tokens": len(tokens),
        "compile_ms": _spread(compiling),
        "token_ms": _spread(tokens),
        "mb": (psutil.Process().memory_info().rss - before) / 1e6,
    }


def _token_times(
    grammar: CompiledGrammar, structure: np.ndarray, rng: np.random.Generator, end_ids: frozenset[int]
) -> Iterator[float]:
    """Of one random answer, half of whose tokens are JSON's own where those may come."""
    matcher = grammar.matcher()
    allowed = matcher.allowed()
    for _ in range(TOKENS):
        likely = np.flatnonzero(allowed & structure)
        token = int(rng.choice(likely if len(likely) and rng.random() < 0.5 else np.flatnonzero(allowed)))
        if token in end_ids:
            return
        started = time.perf_counter()
        matcher.accept(token)
        allowed = matcher.allowed()
        yield 1e3 * (time.perf_counter() - started)


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "p99": float(np.percentile(values, 99)),
        "highest": max(values),
    }


async def measure_steps(directory: Path, tokenizer: TextTokenizer, trie: TokenTrie, limit_s: float) -> dict[str, Any]:
    """Milliseconds between two tokens of one stream, with a grammar and without."""
    engine = LocalEngine.load(directory)
    grammar = await Grammars(tokenizer, tokenizer.end_ids, trie).json_schema(ENDLESS, "schema")
    prompt = await tokenizer.encode_chat([{"role": "user", "content": "List people and what they are, in JSON."}])
    taken: dict[str, list[float]] = {"free": [], "constrained": []}
    for turn in turns(7, limit_s):
        for name in sorted(taken, reverse=bool(turn % 2)):
            held_to = grammar if name == "constrained" else None
            params = SamplingParams(1.0, 1.0, 0, turn, STEPS, frozenset(), grammar=held_to)
            times = [time.perf_counter() async for _ in engine.generate(prompt, params)]
            taken[name].append(1e3 * statistics.fmean(np.diff(times)))
    medians = {name: statistics.median(each) for name, each in taken.items()}
    return {"ms": taken, "medians_ms": medians, "rate_ratio": medians["free"] / medians["constrained"]}


def tables(figures: dict[str, Any]) -> Iterator[str]:
    yield row("vocabulary", "trie s", "trie MB", "compile ms", "highest", "token ms", "p99", "highest", "grammars MB")
    for size, each in figures["vocabularies"].items():
        trie, found = each["trie"], each["grammars"]
        compiling, token = found["compile_ms"], found["token_ms"]
        cells = (
            trie["seconds"],
            compiling["median"],
            compiling["highest"],
            *(token[of] for of in ("mean", "p99", "highest")),
        )
        seconds, *rest = (number(cell, 2 if place < 3 else 3) for place, cell in enumerate(cells))
        yield row(f"{size:,}", seconds, number(trie["mb"], 0), *rest, number(found["mb"], 0))
    steps = figures["steps"]
    free, constrained = steps["medians_ms"]["free"], steps["medians_ms"]["constrained"]
    yield f"\na step of one stream: {free:.1f} ms free, {constrained:.1f} ms held; rate {steps['rate_ratio']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2, help="how long steps are measured at most")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    directory = fetch_demo_model(default_cache_dir())
    usual = TextTokenizer.load(directory)
    vocabularies: dict[int, Any] = {}
    for tokenizer in (enlarged(usual, LARGE), usual):
        trie, made = measure_trie(tokenizer)
        vocabularies[trie.vocab_size] = {"trie": made, "grammars": measure_grammars(tokenizer, trie)}
    steps = asyncio.run(measure_steps(directory, usual, trie, 60 * arguments.minutes))
    figures = {"vocabularies": vocabularies, "steps": steps}
    publish(tables(figures), figures, arguments.json)


if __name__ == "__main__":
    main()
