from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.generation.grammars import Grammars
from gateway.generation.json_schema import DEPTH_LIMIT, SCHEMA_BYTES_LIMIT, enforceable
from gateway.generation.tokenizer import TextTokenizer
from shared.errors import InvalidRequest
from tests.gateway.generation.test_grammars import takes
from tests.tiny_models import END_ID

END = frozenset({END_ID})
INTEGER = {"type": "integer"}
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}


def kind(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"const": name}, **more}, "required": ["kind"]}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = INTEGER
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"if": {"type": "string"}, "then": {"minLength": 1}}, "if"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": INTEGER}, "contains"),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "dependencies": {"a": ["b"]}}, "dependencies"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "object", "minProperties": 2, "required": 1}, "list of at most"),
        ({"properties": {"a": {"items": {"not": {}}}}}, "/properties/a/items/not"),
        ({"oneOf": [{"type": "integer", "minimum": 0}, {"type": "integer", "maximum": 9}]}, "oneOf"),
        ({"type": "string", "pattern": "(?!a)b"}, "look-around"),
        ({"$ref": "http://example.com/schema.json"}, r"\$ref"),
        ({"$ref": "file:///etc/passwd"}, r"\$ref"),
        ({"$ref": "#/$defs/a"}, r"\$ref leads to nothing"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", **INTEGER}, r"\$schema"),
        ({"items": {"$id": "http://example.com/", **INTEGER}}, r"\$id"),
        ({"const": 2**53 + 1}, "2\\*\\*53"),
        ({"type": "integer", "multipleOf": 99_991}, "multipleOf"),
        ({"allOf": [{"type": "integer", "multipleOf": 997}, {"multipleOf": 991}]}, "multipleOf"),
        ({"type": "strin"}, "/type must be one"),
        ({"type": "string", "minLength": "3"}, "minLength"),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, "exclusiveMinimum"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "pattern": "a" * 5000}, "pattern"),
        ({"const": "a\ud800"}, "no answer can be held"),
        ({"properties": 3}, "properties must be"),
        ({"anyOf": []}, "anyOf must be"),
        ({"required": "a"}, "required must be"),
        (nested(DEPTH_LIMIT + 2), "nested deeper"),
        (nested(5000), "nested"),
        ({"const": "a" * SCHEMA_BYTES_LIMIT}, "bytes"),
        ({"properties": {f"a{number}": INTEGER for number in range(1001)}}, "1001 entries"),
        ("integer", "is an object"),
    ],
)
async def test_what_cannot_be_enforced_is_refused_with_its_name(grammars: Grammars, schema: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        await grammars.json_schema(schema, "response_format.json_schema.schema")
    assert caught.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": []},
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"type": "array", "minItems": 3, "maxItems": 2},
        {"type": "array", "items": False, "minItems": 1},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "string", "pattern": "^ab$", "minLength": 5},
        {"allOf": [{"type": "string"}, INTEGER]},
        {"type": "integer", "enum": ["a"]},
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1},
        {"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 1}]},
    ],
)
async def test_a_schema_that_no_finite_json_fits_is_refused(grammars: Grammars, schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await grammars.json_schema(schema, "response_format")


async def test_annotations_and_unknown_keywords_and_formats_change_nothing(
    grammars: Grammars, tokenizer: TextTokenizer
) -> None:
    annotations = {"title": "T", "description": "D", "default": 3, "examples": [1], "$comment": "C", "deprecated": True}
    schema = {"type": "string", "format": "phone", "readOnly": True, "x-order": 1, "discriminator": {}, **annotations}
    assert await takes(grammars, tokenizer, schema, '"any"')
    assert not await takes(grammars, tokenizer, schema, "3")


async def test_the_user_cannot_make_the_compiler_lenient(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    schema = {"x-guidance": {"lenient": True, "whitespace_flexible": True}, "type": "object"}
    assert not await takes(grammars, tokenizer, schema, '{ "a": 1}')
    with pytest.raises(InvalidRequest):
        await grammars.json_schema({**schema, "not": {}}, "response_format")


async def test_tuples_of_the_older_drafts_are_tuples(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [INTEGER, {"type": "string"}],
        "additionalItems": False,
    }
    assert await takes(grammars, tokenizer, schema, '[1, "a"]')
    for text in ('["a"]', '[1, "a", 2]'):
        assert not await takes(grammars, tokenizer, schema, text), text


@pytest.mark.parametrize("day", ["2023-02-29", "1900-02-29", "2024-02-30", "2024-13-01", "0000-01-01"])
async def test_days_that_never_were_do_not_come(grammars: Grammars, tokenizer: TextTokenizer, day: str) -> None:
    schema = {"type": "string", "format": "date"}
    assert await takes(grammars, tokenizer, schema, '"2024-02-29"')
    assert await takes(grammars, tokenizer, schema, '"2000-02-29"')
    assert not await takes(grammars, tokenizer, schema, f'"{day}"')


@pytest.mark.parametrize("least", [{}, {"minimum": 0}, {"minimum": -1.5}])
async def test_an_exclusive_bound_of_numbers_is_exclusive(
    grammars: Grammars, tokenizer: TextTokenizer, least: dict[str, Any]
) -> None:
    schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5, **least}
    assert not await takes(grammars, tokenizer, schema, "0")
    assert await takes(grammars, tokenizer, schema, "0.001")
    assert await takes(grammars, tokenizer, {"type": "integer", "exclusiveMinimum": 0, **least}, "1")


@pytest.mark.parametrize(
    "schemas",
    [
        [{"type": "string"}, INTEGER, {"type": "null"}],
        [{"enum": ["a", "b"]}, {"const": "c"}],
        [kind("a"), kind("b")],
        [
            {"type": "object", "properties": {"a": INTEGER}, "required": ["a"], "additionalProperties": False},
            {"type": "object", "properties": {"b": INTEGER}, "required": ["b"]},
        ],
    ],
)
def test_one_of_schemas_that_exclude_each_other_is_any_of_them(schemas: list[dict[str, Any]]) -> None:
    rewritten = json.loads(enforceable({"oneOf": schemas}, "response_format"))
    assert rewritten["anyOf"] == schemas
    assert "oneOf" not in rewritten


@pytest.mark.parametrize(
    "schemas",
    [
        [INTEGER, {"type": "number"}],
        [{"type": "string"}, {"const": "a"}],
        [{"const": 1}, {"const": 1.0}],
        [kind("a"), {"type": "object", "properties": {"kind": {"type": "string"}}}],
        [{"type": "object", "properties": {"a": INTEGER}}, {"type": "object", "properties": {"a": {"type": "null"}}}],
        [{"type": "object"}, {}],
    ],
)
def test_one_of_schemas_that_may_both_fit_stays_what_it_is(schemas: list[dict[str, Any]]) -> None:
    assert "oneOf" in json.loads(enforceable({"oneOf": schemas}, "response_format"))


async def test_one_of_references_that_lead_back_is_enforced(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    schema = {
        "components": {
            "leaf": kind("leaf"),
            "pair": {**kind("pair", left={"$ref": "#/components/tree"}), "required": ["kind", "left"]},
            "tree": {"oneOf": [{"$ref": "#/components/leaf"}, {"$ref": "#/components/pair"}]},
        },
        "$ref": "#/components/tree",
    }
    assert await takes(grammars, tokenizer, schema, '{"kind": "pair", "left": {"kind": "leaf"}}')
    assert not await takes(grammars, tokenizer, schema, '{"kind": "pair"}')


async def test_a_reference_may_lead_anywhere_in_the_schema(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    schema = {
        "properties": {"a/b": {"type": "integer"}, "c": {"$ref": "#/properties/a~1b"}},
        "type": "object",
        "required": ["c"],
    }
    assert await takes(grammars, tokenizer, schema, '{"c": 1}')
    assert not await takes(grammars, tokenizer, schema, '{"c": "x"}')
