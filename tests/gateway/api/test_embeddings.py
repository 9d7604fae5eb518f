"""Embeddings through the real `openai` and `langchain-openai` packages."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import tiktoken
import torch
from langchain_openai import OpenAIEmbeddings
from openai import AsyncOpenAI
from pydantic import SecretStr
from tiktoken import registry

from gateway.generation.completion import ServedModel
from tests.gateway.api.conftest import MODEL, Site
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import byte_tokenizer

TEXTS = ["The cat sat.", "Ein Hund 😀", "z"]


async def embed(openai: AsyncOpenAI, texts: Any, **options: Any) -> np.ndarray:
    answer = await openai.embeddings.create(model=MODEL, input=texts, **options)
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return np.array([each.embedding for each in answer.data])


async def test_an_embedding_is_the_normalized_mean_of_final_hidden_states(
    openai: AsyncOpenAI, model: ServedModel, engine: LocalEngine
):
    ids = await model.tokenizer.encode_text(TEXTS[1])
    with torch.inference_mode():
        states = engine.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    mean = states.double().mean(0).numpy()
    answer = await openai.embeddings.create(model=MODEL, input=TEXTS[1], user="somebody")
    assert answer.data[0].embedding == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert (answer.object, answer.model, answer.data[0].object) == ("list", MODEL, "embedding")
    assert answer.usage.to_dict() == {"prompt_tokens": len(ids), "total_tokens": len(ids)}


async def test_a_batch_gives_what_each_text_gives_alone_in_its_order(openai: AsyncOpenAI):
    batch = await embed(openai, TEXTS * 4)
    single = np.concatenate([await embed(openai, text) for text in TEXTS])
    assert batch == pytest.approx(np.tile(single, (4, 1)), abs=1e-6)
    assert np.linalg.norm(batch, axis=1) == pytest.approx(1)
    assert abs(single[0] - single[1]).max() > 0.01


async def test_numbers_and_base64_say_the_same(http: httpx.AsyncClient):
    body = {"model": MODEL, "input": TEXTS}
    numbers = (await http.post("/v1/embeddings", json=body)).json()["data"]
    packed = (await http.post("/v1/embeddings", json={**body, "encoding_format": "base64"})).json()["data"]
    for one, other in zip(numbers, packed, strict=True):
        assert one["embedding"] == np.frombuffer(base64.b64decode(other["embedding"]), dtype="<f4").tolist()


async def test_token_ids_are_taken_as_they_are(openai: AsyncOpenAI, model: ServedModel):
    ids = [await model.tokenizer.encode_text(text) for text in TEXTS]
    assert (await embed(openai, ids) == await embed(openai, TEXTS)).all()
    assert (await embed(openai, ids[0]) == await embed(openai, TEXTS[0])).all()


async def test_their_own_dimensions_may_be_asked_for(openai: AsyncOpenAI, site: Site, model: ServedModel):
    site.shelf.models[MODEL] = replace(model, hidden_size=64)
    assert (await embed(openai, TEXTS, dimensions=64)).shape == (3, 64)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": ""}, "input"),
    ({"input": ["a", ""]}, "input[1]"),
    ({"input": []}, "input"),
    ({"input": None}, "input"),
    ({"input": [[1], []]}, "input"),
    ({"input": {"text": "a"}}, "input"),
    ({"input": [1, 259]}, "input"),
    ({"input": ["a", "x" * 513]}, "input[1]"),
    ({"input": ["a"] * 2049}, "input"),
    ({"input": ["x" * 512] * 600}, "input"),
    ({"dimensions": 32}, "dimensions"),
    ({"encoding_format": "int8"}, "encoding_format"),
    ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
]


async def test_what_cannot_be_done_is_refused_by_name(http: httpx.AsyncClient):
    for change, param in REFUSED:
        response = await http.post("/v1/embeddings", json={"model": MODEL, "input": "a", **change})
        assert response.status_code == 400, (change, response.text)
        assert response.json()["error"]["param"] == param, change


async def test_the_counters_know_of_embeddings(http: httpx.AsyncClient):
    await http.post("/v1/embeddings", json={"model": MODEL, "input": ["abc", "de"]})
    text = (await http.get("/metrics")).text
    assert f'corolla_prompt_tokens_total{{model="{MODEL}"}} 5.0' in text
    assert f'corolla_requests_total{{model="{MODEL}",outcome="ok"}} 1.0' in text


@pytest.fixture
def byte_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoding that LangChain takes for models that it does not know: here it has the tiny model's ids."""
    vocabulary = byte_tokenizer().get_vocab()
    ranks = {bytes([byte]): vocabulary[symbol] for byte, symbol in _symbols().items()}
    encoding = tiktoken.Encoding("cl100k_base", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setitem(registry.ENCODINGS, "cl100k_base", encoding)


def _symbols() -> dict[int, str]:
    """The symbol by which byte-level vocabularies write each byte: GPT-2's table."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**{byte: chr(byte) for byte in shown}, **{byte: chr(256 + place) for place, byte in enumerate(hidden)}}


@pytest.mark.usefixtures("byte_encoding")
@pytest.mark.parametrize("as_ids", [True, False])
async def test_langchain_embeds_by_token_ids_and_by_text(site: Site, openai: AsyncOpenAI, as_ids: bool):
    client = OpenAIEmbeddings(
        model=MODEL, base_url=f"{site.url}/v1", api_key=SecretStr("none"), check_embedding_ctx_length=as_ids
    )
    documents = np.array(await asyncio.wait_for(client.aembed_documents(TEXTS), 10))
    assert documents == pytest.approx(await embed(openai, TEXTS), abs=1e-6)
    assert np.array(await client.aembed_query(TEXTS[1])) == pytest.approx(documents[1], abs=1e-6)
