"""Formats that chat completions keep to, and what reasoning models think before them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

import httpx
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict

from gateway.generation.completion import ServedModel
from gateway.generation.tokenizer import TextTokenizer
from tests.gateway.api.conftest import MODEL, Site
from tests.gateway.api.reciting import Reciting
from tests.schemas import TOO_WIDE
from tests.tiny_models import CHAT_TEMPLATE, byte_tokenizer

ASKED: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hi"}],
    "seed": 3,
    "max_tokens": 300,
}


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sky: Literal["clear", "cloudy"]
    windy: bool


async def test_openais_parse_helper_gets_what_it_asks_for(openai: AsyncOpenAI):
    answer = await openai.chat.completions.parse(**ASKED, response_format=Weather, n=3)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, Weather)


async def test_a_stream_keeps_to_a_schema_too(openai: AsyncOpenAI):
    async with openai.chat.completions.stream(**ASKED, response_format=Weather) as stream:
        answer = await stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Weather)


async def test_a_schema_is_kept_to_whether_it_is_strict_or_not(openai: AsyncOpenAI):
    named = {"name": "weather", "schema": Weather.model_json_schema()}
    asked: Any = {"type": "json_schema", "json_schema": named}
    answer = await openai.chat.completions.create(**ASKED, response_format=asked)
    Weather.model_validate_json(answer.choices[0].message.content or "")
    answer = await openai.chat.completions.create(**ASKED, extra_body={"guided_json": Weather.model_json_schema()})
    Weather.model_validate_json(answer.choices[0].message.content or "")


async def test_a_json_object_is_one_or_is_cut_by_the_length(openai: AsyncOpenAI):
    answer = await openai.chat.completions.create(**ASKED, response_format={"type": "json_object"}, n=3)
    for choice in answer.choices:
        text = choice.message.content or ""
        assert text.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(text), dict)


async def test_a_schema_that_cannot_be_kept_to_is_refused_by_its_field(http: httpx.AsyncClient):
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": []}}}
    response = await http.post("/v1/chat/completions", json={**ASKED, "response_format": asked})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("response_format.json_schema.schema")


@pytest.fixture
def thinking(model: ServedModel) -> ServedModel:
    """One whose template knows of thinking, and of a switch for it."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    return replace(model, tokenizer=TextTokenizer(tokenizer, model.end_ids))


async def test_thinking_is_told_apart_from_the_answer(site: Site, openai: AsyncOpenAI, thinking: ServedModel):
    site.serve(thinking, Reciting(thinking, "<think>\nHm, Paris?\n</think>\n\nParis."))
    answer = await openai.chat.completions.create(**ASKED)
    message = answer.choices[0].message
    assert message.content == "Paris."
    assert message.to_dict()["reasoning_content"] == "Hm, Paris?"
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    thought = answer.usage.completion_tokens_details.reasoning_tokens or 0
    assert len("Hm, Paris?") <= thought < answer.usage.completion_tokens - len("Paris.")


async def test_a_stream_tells_thinking_apart_too(site: Site, openai: AsyncOpenAI, thinking: ServedModel):
    site.serve(thinking, Reciting(thinking, "<think>\nHm, Paris?\n</think>\n\nParis."))
    said, thought = "", ""
    async for chunk in await openai.chat.completions.create(**ASKED, stream=True):
        delta = chunk.choices[0].delta.to_dict()
        said += str(delta.get("content") or "")
        thought += str(delta.get("reasoning_content") or "")
    assert (said, thought) == ("Paris.", "Hm, Paris?")


async def test_template_switches_reach_the_prompt(site: Site, openai: AsyncOpenAI, thinking: ServedModel):
    async def prompt_tokens(**asked: Any) -> int:
        answer = await openai.chat.completions.create(**ASKED, **asked)
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    site.serve(thinking, Reciting(thinking, "Paris."))
    usual = await prompt_tokens()
    off = await prompt_tokens(extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert off == usual + len("<think>\n\n</think>\n\n") == await prompt_tokens(reasoning_effort="none")
    assert await prompt_tokens(reasoning_effort="high") == usual


async def test_a_schema_that_no_answer_can_follow_is_not_the_gateways_fault(http: httpx.AsyncClient):
    response = await http.post("/v1/chat/completions", json={**ASKED, "guided_json": TOO_WIDE})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (400, "grammar_failed", "invalid_request_error")
    assert response.headers["x-should-retry"] == "false"
