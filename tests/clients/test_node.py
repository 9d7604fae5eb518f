"""The npm packages `openai` and the AI SDK against a gateway: `node/client.mjs` says what is done with them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from filelock import FileLock

from gateway.generation.completion import ServedModel
from gateway.generation.tokenizer import TextTokenizer
from gateway.store.address import database_url
from gateway.store.database import Database
from gateway.store.responses import ResponseStore
from tests.gateway.api.conftest import MODEL, Board, Shelf, app_over, running
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import make_tiny_model

FILES = Path(__file__).parent / "node"
NODE = 20
INSTALL_S, RUN_S = 120, 90
CONTEXT = 2048  # tokens, which are bytes here: a prompt that describes tools has many

pytestmark = pytest.mark.timeout(INSTALL_S + RUN_S)


def node() -> str:
    """The program. Skips without one that the packages run on."""
    program = shutil.which("node")
    if program is None or shutil.which("npm") is None:
        pytest.skip("Node and npm are not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < NODE:
        pytest.skip(f"Node {version.strip()} is older than {NODE}")
    return program


@pytest.fixture(scope="module")
def script(request: pytest.FixtureRequest) -> Path:
    """The script beside its packages, which are installed once for each lock file. Skips where npm cannot get them."""
    node()
    lock = (FILES / "package-lock.json").read_bytes()
    assert request.config.cache
    folder = request.config.cache.mkdir(f"node-{hashlib.sha256(lock).hexdigest()[:12]}")
    with FileLock(folder / "lock"):
        if not (folder / "installed").exists():
            install(folder)
        return Path(shutil.copy(FILES / "client.mjs", folder))


def install(folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(FILES / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm cannot install the packages: {error}")
    (folder / "installed").touch()


@pytest.fixture(scope="module")
def told(script: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each task of the script has given; `outcomes` are how many requests have ended how."""
    directory = make_tiny_model(tmp_path_factory.mktemp("checkpoint"), blocks=2, context=CONTEXT)
    tokenizer, engine = TextTokenizer.load(directory), LocalEngine.load(directory)
    model = ServedModel(MODEL, 1_700_000_000, tokenizer, engine, CONTEXT, tokenizer.end_ids, hidden_size=64)
    database = Database.open(database_url(None, directory))
    try:
        return asyncio.run(run(script, model, engine, ResponseStore(database)))
    finally:
        database.close()


async def run(script: Path, model: ServedModel, engine: LocalEngine, store: ResponseStore) -> dict[str, Any]:
    async with running(app_over(Shelf(model), Board(), store)) as server:
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            node(), script, url, model.id, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            async with asyncio.timeout(RUN_S):
                out, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, errors.decode()
        async with asyncio.timeout(RUN_S), httpx.AsyncClient() as client:
            while engine.running:
                engine.ended.clear()
                await engine.ended.wait()
            return {**json.loads(out), "metrics": (await client.get(f"{url}/metrics")).text}


def test_models(told: dict[str, Any]) -> None:
    assert told["models"] == {"ids": [MODEL], "one": MODEL}


def test_a_chat_and_its_stream(told: dict[str, Any]) -> None:
    whole, stream = told["chat"], told["chat_stream"]
    assert whole["fingerprint"].startswith("fp_")
    assert whole["request"].startswith("req_")
    assert (whole["tokens"], whole["usage"]) == (12, 24)
    assert whole["texts"] == [stream["text"]] * 2
    assert stream["joined"] == stream["text"]
    assert (stream["role"], stream["finish"], stream["usage"]) == ("assistant", "length", 12)


def test_answers_that_keep_to_a_schema(told: dict[str, Any]) -> None:
    for name in ("parsed", "ai_object"):
        assert told[name]["colour"] in ("red", "green"), told[name]
        assert told[name]["shiny"] in (True, False)


def test_tool_calls(told: dict[str, Any]) -> None:
    for name in ("tools", "tools_stream", "responses_tools"):
        assert told[name]["name"] == "get_weather", told[name]
        assert told[name]["arguments"]["unit"] in ("celsius", "fahrenheit")
        assert told[name]["arguments"]["exact"] in (True, False)
    assert told["tools"]["finish"] == "tool_calls"
    assert told["tools"]["next"] == "string"
    assert told["tools_stream"]["id"]
    assert (told["ai_tools"]["whole"], told["ai_tools"]["streamed"]) == ("get_weather", "get_weather")
    assert len(told["ai_tools"]["seen"]) == 2


def test_completions(told: dict[str, Any]) -> None:
    assert told["completions"]["tokens"] == 8
    assert told["completions"]["joined"] == told["completions"]["texts"]
    assert len(set(told["completions"]["texts"])) == 2
    assert told["ai_completion"] > 0


def test_embeddings(told: dict[str, Any]) -> None:
    assert told["embeddings"]["equal"]
    assert told["embeddings"]["size"] == 64
    assert told["embeddings"]["norms"] == told["ai_embeddings"] == pytest.approx([1, 1])


def test_responses(told: dict[str, Any]) -> None:
    whole, stream = told["responses"], told["responses_stream"]
    assert (whole["next"], whole["same"], whole["gone"]) == (True, True, 404)
    assert stream["joined"] == stream["text"] == whole["text"] != ""
    assert stream["kinds"][0] == "response.created"
    assert stream["kinds"][-1] in ("response.completed", "response.incomplete")


def test_errors_have_the_classes_of_the_package(told: dict[str, Any]) -> None:
    assert told["errors"]["unknown"] == ["NotFoundError", 404, "model_not_found", "model", "string"]
    assert told["errors"]["bad"][0] == "BadRequestError"
    assert told["errors"]["bad"][3] == "temperature"
    status, message = told["ai_errors"]
    assert status == 404
    assert "no/such" in message


def test_requests_that_are_aborted_end(told: dict[str, Any]) -> None:
    assert told["aborted"] == "APIUserAbortError"
    assert f'corolla_requests_total{{model="{MODEL}",outcome="client_gone"}} 2.0' in told["metrics"]


def test_the_ai_sdk_says_the_same(told: dict[str, Any]) -> None:
    assert told["ai_text"]["text"] == told["ai_stream"]["joined"] == told["chat"]["texts"][0]
    for name in ("ai_text", "ai_stream"):
        assert (told[name]["tokens"], told[name]["finish"]) == (12, "length")
