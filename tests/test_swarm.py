"""One swarm of real processes with two tiny models: what clients see of it, in good times and bad."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api.schema.swarm import SwarmReply
from tests.reference import Reference
from tests.streams import Stream
from tests.swarm import Swarm, running_swarm
from tests.tiny_models import make_tiny_model

MODELS = ("org/one", "two")
MESSAGES = [{"role": "user", "content": "Tell me about petals."}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        MODELS[0]: make_tiny_model(folder / "one", "llama", blocks=6, seed=1, context=8192),
        MODELS[1]: make_tiny_model(folder / "two", "qwen3", blocks=4, seed=2),
    }


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Iterator[Swarm]:
    with running_swarm(tmp_path_factory.mktemp("swarm"), models, "--wait-for-coverage", "1") as swarm:
        peers = [swarm.add_peer(blocks) for blocks in ("0:2", "2:4", "4:6")] + [swarm.add_peer("0:4", model=MODELS[1])]
        for peer in peers:
            peer.ready()
        swarm.gateway.ready()
        swarm.wait_for(lambda: len(swarm.client.get("/v1/models").json()["data"]) == 2)
        yield swarm


def ask(swarm: Swarm, model: str = MODELS[0], **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": MESSAGES, "temperature": 0, "max_tokens": 16, **fields}
    return swarm.client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("model", MODELS)
def test_two_models_are_listed_and_answer_as_in_one_place(swarm: Swarm, models: dict[str, Path], model: str) -> None:
    assert {each["id"] for each in swarm.client.get("/v1/models").json()["data"]} == set(MODELS)
    assert swarm.client.get(f"/v1/models/{model}").json()["id"] == model
    answer = ask(swarm, model).json()
    said = answer["choices"][0]["message"]["content"]
    wanted = Reference(models[model]).answer(MESSAGES, 16).text
    assert wanted.startswith(said.rstrip("\ufffd"))  # at the end of 16 tokens a character may be incomplete
    assert answer["usage"]["completion_tokens"] == 16


def test_many_at_once_get_what_each_gets_alone(swarm: Swarm, models: dict[str, Path]) -> None:
    conversations = [[{"role": "user", "content": f"Petals, {'and more ' * number}please."}] for number in range(12)]
    alone = Reference(models[MODELS[0]])
    with ThreadPoolExecutor(12) as clients:
        together = list(clients.map(lambda messages: ask(swarm, messages=messages, max_tokens=24), conversations))
    for messages, response in zip(conversations, together, strict=True):
        expected = alone.answer(messages, 24)
        assert expected.gap > 1e-4  # so that no rounding decides
        said = response.json()["choices"][0]["message"]["content"]
        assert expected.text.startswith(said.rstrip("\ufffd"))
    turns = [
        line for line in swarm.client.get("/metrics").text.splitlines() if line.startswith("corolla_gateway_turn_rows")
    ]
    counts = {line.split("{")[0].split()[0]: float(line.split()[-1]) for line in turns if "bucket" not in line}
    assert counts["corolla_gateway_turn_rows_sum"] > counts["corolla_gateway_turn_rows_count"]  # some shared a turn


def test_the_swarm_tells_who_serves_what(swarm: Swarm) -> None:
    text = swarm.client.get("/swarm").text
    shown = json.loads(text)
    assert SwarmReply.model_validate_json(text, strict=True).model_dump(mode="json") == shown  # as OpenAPI describes it
    assert [(each["id"], each["blocks"], each["whole"]) for each in shown["models"]] == [
        (MODELS[0], 6, True),
        (MODELS[1], 4, True),
    ]
    assert sorted((each["model"], each["blocks"]) for each in shown["peers"]) == [
        (MODELS[0], [0, 2]),
        (MODELS[0], [2, 4]),
        (MODELS[0], [4, 6]),
        (MODELS[1], [0, 4]),
    ]
    assert all(each["state"] == "online" and each["tokens_per_s"] > 0 for each in shown["peers"])
    assert all("/p2p/" in address for address in shown["join"])


def test_a_client_that_leaves_frees_every_cache(swarm: Swarm) -> None:
    body = {"model": MODELS[0], "messages": MESSAGES, "stream": True, "max_tokens": 4000, "temperature": 0}
    with swarm.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert any('"content":"' in line and '"content":""' not in line for line in lines)
        swarm.wait_for(lambda: not swarm.all_cache_free(), 2)
    swarm.wait_for(swarm.all_cache_free, 2)


def test_a_prompt_of_many_chunks_is_answered(swarm: Swarm, models: dict[str, Path]) -> None:
    long = [{"role": "user", "content": "petal " * 70}]
    answer = ask(swarm, messages=long, max_tokens=4).json()
    assert answer["usage"]["prompt_tokens"] > 420


def test_a_new_peer_is_seen_at_once_and_gone_at_once_when_it_ends(swarm: Swarm) -> None:
    peer = swarm.add_peer("1:5")
    name = peer.ready()[1]
    swarm.wait_for(lambda: name in {each["peer"] for each in swarm.peers()}, 2)
    assert peer.stop() == 0
    swarm.wait_for(lambda: name not in {each["peer"] for each in swarm.peers()}, 1)


def test_a_killed_peer_that_the_gateway_is_linked_to_is_gone_at_once(swarm: Swarm) -> None:
    peer = swarm.add_peer("1:5")
    name = peer.ready()[1]
    swarm.wait_for(lambda: name in {each["peer"] for each in swarm.peers()}, 2)
    swarm.wait_for(lambda: swarm.free_cache()[name][0] is not None, 5)
    peer.kill()
    swarm.wait_for(lambda: name not in {each["peer"] for each in swarm.peers()}, 2)


def test_a_peer_that_is_killed_in_mid_answer_costs_no_token(swarm: Swarm, models: dict[str, Path]) -> None:
    wanted = Reference(models[MODELS[0]]).answer(MESSAGES, 200)
    copies = {node.ready()[1]: node for node in (swarm.add_peer("4:6"), swarm.add_peer("4:6"))}
    next(node for node in swarm.nodes if "4:6" in node.command).kill()  # one that has not told its peer ID here
    swarm.wait_for(lambda: sum(each["blocks"] == [4, 6] for each in swarm.peers()) == len(copies))
    stream = Stream(swarm.url, model=MODELS[0], messages=MESSAGES, temperature=0, max_tokens=200)
    stream.until(50)
    copies[next(each["peer"] for each in swarm.peers() if each["blocks"] == [4, 6] and each["sessions"])].kill()
    stream.finish()
    assert wanted.gap > 1e-4  # so that no rounding decides
    assert (stream.error, stream.ids) == (None, wanted.ids)
    swarm.wait_for(swarm.all_cache_free, 5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_peer_that_dies_with_no_other_in_its_place_ends_the_stream_with_an_error(
    swarm: Swarm, number: signal.Signals
) -> None:
    """The first hop goes while a stream runs, and nobody else has its blocks; then a new peer makes the model whole."""
    first = next(node for node in swarm.nodes if "0:2" in node.command and node.process.poll() is None)
    body = {"model": MODELS[0], "messages": MESSAGES, "stream": True, "max_tokens": 4000, "temperature": 0}
    events: list[str] = []
    died_at = 0.0
    with swarm.client.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            events += [line] if line.startswith("data: ") else []
            if len(events) == 3 and not died_at:
                os.kill(first.process.pid, number)
                died_at = time.monotonic()
    assert time.monotonic() - died_at < 10
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error["message"]
    assert error["type"] == "server_error"
    first.kill()
    swarm.wait_for(lambda: ask(swarm).status_code == 503, 5)
    answer = ask(swarm)
    assert "0:2" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) > 0
    swarm.add_peer("0:2").ready()
    swarm.wait_for(lambda: ask(swarm).status_code == 200, 10)
    swarm.wait_for(swarm.all_cache_free, 5)


@pytest.mark.slow
def test_models_with_one_name_and_other_weights_are_never_mixed(swarm: Swarm, tmp_path: Path) -> None:
    """A peer of other weights under the same name holds the very blocks that are missing: no route takes it."""
    swarm.models["impostor"] = make_tiny_model(tmp_path / "impostor", "llama", blocks=6, seed=9)
    source, name = swarm.models.pop("impostor"), MODELS[0]
    last = next(node for node in swarm.nodes if "4:6" in node.command and node.process.poll() is None)
    original, swarm.models[name] = swarm.models[name], source
    impostor = swarm.add_peer("4:6")
    swarm.models[name] = original
    peer = impostor.ready()[1]
    swarm.wait_for(lambda: peer in {each["peer"] for each in swarm.peers()}, 5)
    last.stop()
    swarm.wait_for(lambda: ask(swarm).status_code == 503, 5)
    assert {each["id"] for each in swarm.client.get("/swarm").json()["models"]} >= {name}
    swarm.add_peer("4:6").ready()
    swarm.wait_for(lambda: ask(swarm).status_code == 200, 10)
    impostor.stop()
