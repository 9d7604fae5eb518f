"""docs/openai.md against the code, and both against the fields that OpenAI's own client knows."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from gateway.api.chat.request import ChatRequest
from gateway.api.completions.request import CompletionRequest
from gateway.api.embeddings.request import EmbeddingRequest
from gateway.api.request_model import RequestModel
from gateway.api.responses.request import ResponsesRequest

PAGE = Path(__file__).parents[3] / "docs" / "openai.md"
ROW = re.compile(r"^\| `(?P<field>[\w.]+)` \| (?P<state>done|refused|ignored) \| (?P<how>.+) \|$", re.MULTILINE)

ENDPOINTS = [
    ("/v1/chat/completions", ChatRequest, chat_create_params.CompletionCreateParamsStreaming),
    ("/v1/completions", CompletionRequest, completion_create_params.CompletionCreateParamsStreaming),
    ("/v1/responses", ResponsesRequest, response_create_params.ResponseCreateParamsStreaming),
    ("/v1/embeddings", EmbeddingRequest, embedding_create_params.EmbeddingCreateParams),
]
endpoints = pytest.mark.parametrize(("path", "body", "theirs"), ENDPOINTS, ids=[path for path, *_ in ENDPOINTS])


def documented(path: str) -> dict[str, list[tuple[str, str]]]:
    """Of each state, the fields in an endpoint's table, each with what is said of it."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## `POST {path}`\n")[2].partition("\n## ")[0]
    fields: dict[str, list[tuple[str, str]]] = {"done": [], "refused": [], "ignored": []}
    for row in ROW.finditer(section):
        fields[row["state"]].append((row["field"], row["how"]))
    return fields


@endpoints
def test_the_table_says_what_the_code_does(path: str, body: type[RequestModel], theirs: type) -> None:
    fields = documented(path)
    assert sorted(name for name, _ in fields["done"]) == sorted(body.model_fields)
    assert sorted(name for name, _ in fields["refused"]) == sorted(body.refused)
    assert dict(fields["ignored"]) == body.ignored


@endpoints
def test_every_field_of_openais_client_is_in_the_table(path: str, body: type[RequestModel], theirs: type) -> None:
    known = {name for rows in documented(path).values() for name, _ in rows}
    assert set(typing.get_type_hints(theirs)) <= known
