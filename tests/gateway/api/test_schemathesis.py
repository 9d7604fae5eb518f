"""schemathesis over Corolla's own OpenAPI document: no 500, and no answer that the document does not describe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from gateway.generation.completion import ServedModel
from gateway.generation.tokenizer import TextTokenizer
from gateway.store.address import database_url
from gateway.store.database import Database
from gateway.store.responses import ResponseStore
from tests.gateway.api.conftest import MODEL, Board, Shelf, app_over
from tests.gateway.local_engine import LocalEngine
from tests.server_thread import serving
from tests.tiny_models import VOCAB_SIZE, make_tiny_model

CONTEXT = 1024  # tokens, which are bytes
EXAMPLES, MANY = 25, 600
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
WITH_BODIES = [
    ("/v1/chat/completions", "post"),
    ("/v1/completions", "post"),
    ("/v1/embeddings", "post"),
    ("/v1/responses", "post"),
]
OTHERS = [
    ("/v1/models", "get"),
    ("/v1/models/{model}", "get"),
    ("/v1/responses/{id}", "get"),
    ("/v1/responses/{id}", "delete"),
    ("/v1/responses/{id}/input_items", "get"),
    ("/v1/responses/{id}/cancel", "post"),
    ("/health", "get"),
    ("/swarm", "get"),
    ("/metrics", "get"),
    ("/", "get"),
]
ENDLESS = ("/swarm/events", "get")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = make_tiny_model(tmp_path_factory.mktemp("checkpoint"), blocks=2, context=CONTEXT)
    tokenizer, engine = TextTokenizer.load(directory), LocalEngine.load(directory)
    model = ServedModel(MODEL, 1_700_000_000, tokenizer, engine, CONTEXT, tokenizer.end_ids, hidden_size=64)
    database = Database.open(database_url(None, directory))
    with serving(app_over(Shelf(model), Board(), ResponseStore(database))) as url:
        yield url
    database.close()


@pytest.fixture(scope="module")
def document(url: str) -> OpenApiSchema:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def meant(body: dict[str, Any]) -> dict[str, Any]:
    """A body with what its schema cannot say: the served model, its token ids, fields that agree, a short answer."""
    body = {**_whole(body), "model": MODEL}
    limit = "max_output_tokens" if "input" in body else "max_tokens"
    body |= {name: min(body.get(name) or least, most) for name, least, most in (("n", 1, 2), (limit, 4, 4))}
    body |= {
        "seed": body.get("seed") or 1,
        "min_tokens": None,
        "best_of": None,
        "max_completion_tokens": None,
        "dimensions": None,
    }
    body |= {"reasoning_effort": None, "previous_response_id": None}
    if not body.get("stream"):
        body["stream_options"] = None
    if body.get("response_format"):
        body["guided_json"] = None
    if not body.get("tools"):
        body["tool_choice"] = None
    if isinstance(body.get("logprobs"), bool | None):
        body["top_logprobs"] = body.get("top_logprobs") if body.get("logprobs") or "messages" not in body else None
    if biases := body.get("logit_bias"):
        body["logit_bias"] = {str(int(token) % VOCAB_SIZE): bias for token, bias in biases.items()}
    if ids := body.get("stop_token_ids"):
        body["stop_token_ids"] = [token % VOCAB_SIZE for token in ids]
    text = "prompt" if "input" not in body and "messages" not in body else "input"
    body[text] = _known(body.get(text)) or "Hi"
    for message in body.get("messages", ()):
        if message["role"] == "assistant" and not message.get("content"):
            message["content"] = "Hm."
    return body


def _whole(value: Any) -> Any:
    """Whole numbers may be written as 1.0 by a JSON schema, which the API takes for no token id and no count."""
    match value:
        case dict():
            return {name: _whole(each) for name, each in value.items()}
        case list():
            return [_whole(each) for each in value]
        case float() if value.is_integer():
            return int(value)
    return value


def _known(texts: Any) -> Any:
    """Token ids of the model, and texts that come to some."""
    match texts:
        case list():
            return [_known(each) for each in texts]
        case "":
            return "Hi"
        case {"type": None | "item_reference"}:  # of an item that nobody has stored
            return {"role": "user", "content": "Hi"}
        case int():
            return texts % VOCAB_SIZE
    return texts


def outcomes(url: str, operation: APIOperation, mode: GenerationMode, examples: int) -> Counter[int]:
    """The statuses of so many requests, each of whose answers has been checked. The same ones each time."""
    seen: Counter[int] = Counter()
    response = httpx.post(f"{url}/v1/responses", json={"model": MODEL, "input": "Hi", "max_output_tokens": 2}).json()

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        if mode is GenerationMode.POSITIVE:
            if isinstance(case.body, dict):
                case.body = meant(case.body)
            case.path_parameters = {**case.path_parameters, "model": MODEL, "id": response["id"]}
        seen[case.call_and_validate(base_url=url, checks=CHECKS, timeout=60).status_code] += 1

    ask()
    return seen


@pytest.mark.parametrize(("path", "method"), WITH_BODIES)
def test_what_the_document_allows_is_answered_as_it_says(
    url: str, document: OpenApiSchema, path: str, method: str
) -> None:
    seen = outcomes(url, document[path][method], GenerationMode.POSITIVE, EXAMPLES)
    assert seen[200] > EXAMPLES / 2


@pytest.mark.parametrize(("path", "method"), WITH_BODIES)
def test_what_it_does_not_allow_is_refused_as_it_says(
    url: str, document: OpenApiSchema, path: str, method: str
) -> None:
    seen = outcomes(url, document[path][method], GenerationMode.NEGATIVE, EXAMPLES)
    assert set(seen) <= {400, 404}


@pytest.mark.parametrize(("path", "method"), OTHERS)
def test_what_is_only_read_is_told_as_it_says(url: str, document: OpenApiSchema, path: str, method: str) -> None:
    assert outcomes(url, document[path][method], GenerationMode.POSITIVE, EXAMPLES)


def test_every_operation_but_the_endless_one_is_tried(document: OpenApiSchema) -> None:
    known = {(path, method) for path, operations in document.items() for method in operations}
    assert known == {*WITH_BODIES, *OTHERS, ENDLESS}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("path", "method"), WITH_BODIES)
def test_many_requests_get_answers_as_described(
    url: str, document: OpenApiSchema, path: str, method: str, mode: GenerationMode
) -> None:
    seen = outcomes(url, document[path][method], mode, MANY)
    assert sum(seen.values()) >= MANY / 2
