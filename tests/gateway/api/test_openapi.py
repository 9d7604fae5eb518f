"""The OpenAPI document: that it is one, that clients can be generated from it, and that its requests are the API's."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from jsonschema import Draft202012Validator

from gateway.api.body import check
from gateway.api.chat.request import ChatRequest
from gateway.api.completions.request import CompletionRequest
from gateway.api.embeddings.request import EmbeddingRequest
from gateway.api.request_model import RequestModel
from gateway.api.responses.items import checked
from gateway.api.responses.request import ResponsesRequest
from gateway.api.responses.tools import toolbox
from gateway.store.responses import ResponseStore
from shared.errors import InvalidRequest
from tests.gateway.api.conftest import Board, Shelf, app_over

USER: dict[str, Any] = {"role": "user", "content": "Hi"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "f"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
CHAT, TEXT, INPUT = {"model": "m", "messages": [USER]}, {"model": "m", "prompt": "Hi"}, {"model": "m", "input": "Hi"}
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

TAKEN: list[tuple[type[RequestModel], dict[str, Any]]] = [
    (ChatRequest, CHAT),
    (ChatRequest, {**CHAT, "messages": [{"role": "developer", "content": PARTS}, USER]}),
    (ChatRequest, {**CHAT, "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]}),
    (ChatRequest, {**CHAT, "messages": [USER, {"role": "tool", "content": "1", "tool_call_id": "call_1"}]}),
    (ChatRequest, {**CHAT, "messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]}]}),
    (ChatRequest, {**CHAT, "stop": "a", "logit_bias": {"5": -100}, "tool_choice": "auto", "unknown": 1}),
    (ChatRequest, {**CHAT, "stop": ["a", "b"], "tools": [TOOL], "tool_choice": NAMED, "response_format": FORMAT}),
    (
        ChatRequest,
        {**CHAT, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}},
    ),
    (ChatRequest, {**CHAT, **dict.fromkeys(("stop", "logit_bias", "tools", "tool_choice", "response_format", "n"))}),
    (CompletionRequest, {"model": "m"}),
    (CompletionRequest, {**TEXT, "prompt": ["a", "b"], "stop": "a"}),
    (CompletionRequest, {**TEXT, "prompt": [1, 2]}),
    (CompletionRequest, {**TEXT, "prompt": [[1], [2, 3]], "response_format": {"type": "json_object"}}),
    (EmbeddingRequest, {**INPUT, "input": [[1], [2, 3]], "dimensions": None}),
    (EmbeddingRequest, {**INPUT, "input": ["a", "b"], "encoding_format": "base64"}),
    (ResponsesRequest, INPUT),
    (ResponsesRequest, {**INPUT, "input": [USER, {"role": "assistant", "content": "Ho"}, {"id": "msg_1"}]}),
    (ResponsesRequest, {**INPUT, "input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}]}),
    (ResponsesRequest, {**INPUT, "input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}),
    (ResponsesRequest, {**INPUT, "input": [{"type": "reasoning", "summary": [], "encrypted_content": None}]}),
    (ResponsesRequest, {**INPUT, "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}),
    (ResponsesRequest, {**INPUT, "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}),
]
REFUSED: list[tuple[type[RequestModel], dict[str, Any]]] = [
    (ChatRequest, {**CHAT, "messages": []}),
    (ChatRequest, {**CHAT, "messages": [{"role": "function", "name": "f", "content": "1"}]}),
    (ChatRequest, {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
    (ChatRequest, {**CHAT, "messages": [{"role": "tool", "content": "1"}]}),
    (ChatRequest, {**CHAT, "stop": ["a"] * 5}),
    (ChatRequest, {**CHAT, "logit_bias": {"a": 1}}),
    (ChatRequest, {**CHAT, "tool_choice": "always"}),
    (ChatRequest, {**CHAT, "response_format": {"type": "json_schema"}}),
    (CompletionRequest, {**TEXT, "prompt": []}),
    (CompletionRequest, {**TEXT, "prompt": ["a"] * 129}),
    (EmbeddingRequest, {**INPUT, "input": ["a"] * 2049}),
    (ResponsesRequest, {**INPUT, "input": [{"type": "computer_call"}]}),
    (ResponsesRequest, {**INPUT, "input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
    (ResponsesRequest, {**INPUT, "tools": [{"type": "function"}]}),
    (ResponsesRequest, {**INPUT, "tool_choice": "always"}),
]


@pytest.fixture
def document(store: ResponseStore) -> dict[str, Any]:
    return app_over(Shelf(), Board(), store).openapi()


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for methods in document["paths"].values() for operation in methods.values()]


def parse(model: type[RequestModel], body: dict[str, Any]) -> None:
    """As the handlers do. Raises InvalidRequest."""
    asked = check(model, body)
    if isinstance(asked, ResponsesRequest):
        checked(asked.input)
        toolbox(asked.tools or (), asked.tool_choice or "auto")


def test_it_is_an_openapi_document_and_its_schemas_are_schemas(document: dict[str, Any]):
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_operations_have_names_of_their_own_and_say_what_they_do(document: dict[str, Any]):
    names = [operation["operationId"] for operation in operations(document)]
    assert len(set(names)) == len(names)
    assert {"createChatCompletion", "createCompletion", "createEmbedding", "createResponse", "listModels"} <= set(names)
    assert all(name.isidentifier() and "_" not in name for name in names)
    assert all(operation["summary"] and len(operation["tags"]) == 1 for operation in operations(document))


def test_only_open_paths_need_no_key_ever(document: dict[str, Any]):
    free = {path for path, methods in document["paths"].items() for each in methods.values() if not each["security"]}
    assert free == {"/", "/health"}


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest, EmbeddingRequest, ResponsesRequest])
def test_what_is_refused_or_ignored_is_not_offered(document: dict[str, Any], model: type[RequestModel]):
    offered = set(document["components"]["schemas"][model.__name__]["properties"])
    assert offered == set(model.model_fields)
    assert not offered & {*model.refused, *model.ignored}


@pytest.mark.parametrize(("model", "body"), TAKEN)
def test_what_is_taken_may_be_sent(document: dict[str, Any], model: type[RequestModel], body: dict[str, Any]):
    parse(model, body)
    validator_of(document, model).validate(body)


@pytest.mark.parametrize(("model", "body"), REFUSED)
def test_what_is_of_no_shape_that_is_taken_may_not_be_sent(
    document: dict[str, Any], model: type[RequestModel], body: dict[str, Any]
):
    with pytest.raises(InvalidRequest):
        parse(model, body)
    assert not validator_of(document, model).is_valid(body)


def validator_of(document: dict[str, Any], model: type[RequestModel]) -> Draft202012Validator:
    return Draft202012Validator({**document, "$ref": f"#/components/schemas/{model.__name__}"})
