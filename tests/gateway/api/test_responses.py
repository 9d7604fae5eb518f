"""Responses through the real `openai` package: what they consist of, and what they go on from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
import torch
from openai import AsyncOpenAI, BadRequestError
from openai.types.responses import Response

from gateway.api.responses import history
from gateway.api.responses.conversation import messages_of
from gateway.api.responses.items import checked
from gateway.api.responses.prompt import prompt_of
from gateway.api.responses.request import ResponsesRequest
from gateway.api.responses.tools import toolbox
from gateway.generation.completion import ServedModel
from gateway.generation.tokenizer import TextTokenizer
from gateway.store.responses import ResponseStore, StoredResponse
from tests.gateway.api.conftest import MODEL
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import END_ID

GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 12}


async def expected(model: ServedModel, engine: LocalEngine, *messages: tuple[str, str]) -> str:
    """What transformers itself generates, greedily."""
    prompt = await model.tokenizer.encode_chat([{"role": role, "content": text} for role, text in messages])
    ids = torch.tensor([prompt])
    seen = torch.ones_like(ids)  # else `generate` hides what looks like padding: here a "!"
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "attention_mask": seen}
    ids = engine.model.generate(ids, **options)  # pyright: ignore[reportCallIssue]
    return model.tokenizer.decode(ids[0, len(prompt) :].tolist())


async def test_a_response_is_complete(http: httpx.AsyncClient, model: ServedModel, engine: LocalEngine):
    body = {**GREEDY, "input": "Hi 😀", "instructions": "Be brief.", "metadata": {"a": "b"}, "user": "me"}
    given = (await http.post("/v1/responses", json=body)).json()
    response = Response.model_validate(given)
    assert set(Response.model_fields) - set(given) == NOT_GIVEN
    assert response.output_text == await expected(model, engine, ("system", "Be brief."), ("user", "Hi 😀"))
    assert (response.status, response.completed_at) == ("incomplete", None)
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 12
    assert response.usage.total_tokens == response.usage.input_tokens + 12
    assert (response.instructions, response.metadata, response.user) == ("Be brief.", {"a": "b"}, "me")


NOT_GIVEN = {
    "access_programs",
    "conversation",
    "image",
    "input_transformations",
    "moderation",
    "prompt",
    "prompt_cache_diagnostics",
    "prompt_cache_options",
    "prompt_cache_retention",
    "tool_usage",
}
"""What is said of things that Corolla refuses or has not."""


async def test_a_whole_answer_is_completed(openai: AsyncOpenAI):
    soon: Any = {"logit_bias": {str(END_ID): 100}, "min_tokens": 3}
    response = await openai.responses.create(**GREEDY, input="Hi", extra_body=soon)
    (message,) = response.output
    assert (response.status, response.incomplete_details) == ("completed", None)
    assert response.completed_at is not None
    assert message.type == "message"
    assert message.status == "completed"
    assert response.output_text
    assert response.usage is not None
    assert response.usage.output_tokens == 4  # the end is one


INPUTS: dict[str, list[Any]] = {
    "easy": [{"role": "user", "content": "Hi"}],
    "typed": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
    "resent": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
    ],
}


async def test_the_forms_of_an_input_mean_the_same(openai: AsyncOpenAI):
    plain = await openai.responses.create(**GREEDY, input="Hi")
    for items in INPUTS.values():
        other = await openai.responses.create(**GREEDY, input=items)
        assert other.output_text == plain.output_text
        assert other.usage == plain.usage


async def test_roles_and_parts_reach_the_template(openai: AsyncOpenAI, model: ServedModel, engine: LocalEngine):
    items: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": []}]},
        {"role": "user", "content": "d"},
    ]
    response = await openai.responses.create(**GREEDY, input=items, instructions="Speak.")
    told = [("system", "Speak.\n\nBe brief."), ("user", "a\nb"), ("assistant", "c"), ("user", "d")]
    assert response.output_text == await expected(model, engine, *told)


async def test_a_response_goes_on_from_the_one_before(openai: AsyncOpenAI, model: ServedModel, engine: LocalEngine):
    first = await openai.responses.create(**GREEDY, input="Hi", instructions="Once.")
    second = await openai.responses.create(**GREEDY, input="And?", previous_response_id=first.id)
    third = await openai.responses.create(**GREEDY, input="So?", previous_response_id=second.id)
    told = [("user", "Hi"), ("assistant", first.output_text), ("user", "And?")]  # instructions are for one turn
    assert second.output_text == await expected(model, engine, *told)
    told += [("assistant", second.output_text), ("user", "So?")]
    assert third.output_text == await expected(model, engine, *told)
    assert third.previous_response_id == second.id


async def test_an_item_may_be_referred_to(openai: AsyncOpenAI):
    first = await openai.responses.create(**GREEDY, input="Hi")
    said: Any = {"type": "item_reference", "id": first.output[0].id}
    heard: Any = (await openai.responses.input_items.list(first.id)).data[0]
    referring = await openai.responses.create(
        **GREEDY, input=[{"id": heard.id}, said, {"role": "user", "content": "?"}]
    )
    chained = await openai.responses.create(**GREEDY, input="?", previous_response_id=first.id)
    assert referring.output_text == chained.output_text
    assert referring.usage == chained.usage


async def test_an_item_is_referred_to_once(openai: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch):
    first = await openai.responses.create(**GREEDY, input="Hi")
    said: Any = {"type": "item_reference", "id": first.output[0].id}
    with pytest.raises(BadRequestError, match="already") as refused:
        await openai.responses.create(**GREEDY, input=[said, said])
    assert refused.value.param == "input[1].id"
    monkeypatch.setattr(history, "REFERRED_BYTES", 100)
    with pytest.raises(BadRequestError, match="over 100 bytes"):
        await openai.responses.create(**GREEDY, input=[said])


async def test_what_is_not_stored_cannot_be_continued(openai: AsyncOpenAI, store: ResponseStore):
    first = await openai.responses.create(**GREEDY, input="Hi", store=False)
    assert not first.store  # pyright: ignore[reportAttributeAccessIssue]  the type does not know it
    others = StoredResponse("resp_other", "key_2", 0, MODEL, None, {"status": "completed", "output": []}, [])
    await store.put(others)
    for id in (first.id, "resp_other", "resp_\x00", "x" * 200):
        with pytest.raises(BadRequestError) as refused:
            await openai.responses.create(**GREEDY, input="And?", previous_response_id=id)
        assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
    for id in (first.output[0].id, "msg_1", "msg_other"):
        with pytest.raises(BadRequestError) as refused:
            await openai.responses.create(**GREEDY, input=[{"type": "item_reference", "id": id}])
        assert (refused.value.code, refused.value.param) == ("item_not_found", "input[0]")


async def test_the_probabilities_of_tokens_are_told(openai: AsyncOpenAI, model: ServedModel):
    asked: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = await openai.responses.create(**GREEDY, **asked, input="Hi")
    (message,) = response.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert len(part.logprobs) == 12
    assert bytes(byte for each in part.logprobs for byte in each.bytes).decode(errors="replace") == part.text
    assert all(each.top_logprobs[0].logprob == each.logprob and len(each.top_logprobs) == 2 for each in part.logprobs)


async def test_a_too_long_conversation_is_shortened_only_when_that_is_allowed(openai: AsyncOpenAI):
    items: Any = [{"role": "user", "content": f"{number} {'x' * 90}"} for number in range(8)]
    with pytest.raises(BadRequestError) as refused:
        await openai.responses.create(**GREEDY, input=items)
    assert refused.value.code == "context_length_exceeded"
    shortened = await openai.responses.create(**GREEDY, input=items, truncation="auto")
    fewest = await openai.responses.create(**GREEDY, input=items[4:])
    assert shortened.output_text == fewest.output_text
    assert shortened.usage == fewest.usage
    longer = await openai.responses.create(**GREEDY, input=items[3:], truncation="auto")
    assert longer.usage == fewest.usage


async def test_what_cannot_be_shortened_enough_is_not_tried_at_every_length(model: ServedModel):
    tokenizer = Counting(model.tokenizer)
    items = [{"role": "system", "content": "x" * 600}, *({"role": "user", "content": str(each)} for each in range(64))]
    request = ResponsesRequest.model_validate({"model": MODEL, "input": items, "truncation": "auto"})
    messages = messages_of(checked(request.input), None)
    counted = replace(model, tokenizer=cast(TextTokenizer, tokenizer))
    await prompt_of(counted, request, toolbox((), "auto"), messages)
    assert tokenizer.encoded == 2


class Counting:
    """A tokenizer that counts the prompts it has made."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self.encoded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    async def encode_chat(self, *told: Any) -> list[int]:
        self.encoded += 1
        return await self._tokenizer.encode_chat(*told)
