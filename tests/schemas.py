"""Twenty JSON schemas as people send them: each with a question to which its instances are answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    name: str
    question: str
    schema: dict[str, Any]


def text(longest: int = 30, **keywords: Any) -> dict[str, Any]:
    return {"type": "string", "maxLength": longest, **keywords}


def whole(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def array(items: dict[str, Any], most: int, least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def record(required: tuple[str, ...] | None = None, /, **properties: Any) -> dict[str, Any]:
    """An object with these properties and no others; all are required, unless it is said which."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


_POINT = record(
    x={"type": "number", "minimum": -10, "maximum": 10}, y={"type": "number", "minimum": -10, "maximum": 10}
)
_CAT = record(kind={"const": "cat"}, lives=whole(1, 9))
_DOG = record(kind={"const": "dog"}, breed=text(20))
_TREE = record(("label",), label=text(10), left=ref("tree"), right=ref("tree"))
_STEP = record(explanation=text(60), output=text(30))

EXAMPLES = (
    Example("flat", "Who was Ada Lovelace?", record(name=text(), born=whole(1700, 2000))),
    Example(
        "nested",
        "Where is the Eiffel Tower?",
        record(place=record(city=text(20), country=record(name=text(20), code=text(2, minLength=2)))),
    ),
    Example(
        "enum", "What colour is the sky?", record(colour={"enum": ["red", "green", "blue"]}, sure={"type": "boolean"})
    ),
    Example(
        "enum of values", "How many moons has the earth?", record(answer={"enum": [0, 1, 2.5, None, "many", [1, 2]]})
    ),
    Example("array", "Name some fruits.", record(fruits=array(text(12), 4, least=2))),
    Example("array of objects", "List two people.", array(record(name=text(15), age=whole(0, 120)), 2, least=1)),
    Example(
        "tuple", "Where is the treasure?", {"type": "array", "prefixItems": [text(10), whole(0, 99)], "items": False}
    ),
    Example("union of types", "How old is the moon?", record(age={"type": ["integer", "null"], "maximum": 10**9})),
    Example("anyOf", "Describe a pet.", record(pet={"anyOf": [_CAT, _DOG]})),
    Example(
        "oneOf with references",
        "Describe an animal.",
        {"$defs": {"cat": _CAT, "dog": _DOG}, **record(animal={"oneOf": [ref("cat"), ref("dog")]})},
    ),
    Example(
        "allOf",
        "Describe a book.",
        {
            "allOf": [
                {"type": "object", "properties": {"title": text()}, "required": ["title"]},
                {"properties": {"pages": whole(1, 5000)}, "required": ["pages"]},
            ],
            "properties": {"title": True, "pages": True},
            "additionalProperties": False,
        },
    ),
    Example("references", "Draw a line.", {"$defs": {"point": _POINT}, **record(start=ref("point"), end=ref("point"))}),
    Example("recursive", "Draw a small tree.", {"$defs": {"tree": _TREE}, **ref("tree")}),
    Example(
        "recursive list",
        "Count to three.",
        {"$defs": {"node": record(value=whole(1, 3), next={"anyOf": [{"type": "null"}, ref("node")]})}, **ref("node")},
    ),
    Example(
        "patterns",
        "Give me a licence plate and a phone number.",
        record(
            plate=text(10, pattern="^[A-Z]{2}-[0-9]{3}$"), phone={"type": "string", "pattern": r"^\+\d{2} \d{3,9}$"}
        ),
    ),
    Example(
        "bounds",
        "How warm is it?",
        record(
            celsius={"type": "number", "exclusiveMinimum": -273.15, "maximum": 60},
            humidity={**whole(0, 100), "multipleOf": 5},
        ),
    ),
    Example(
        "formats",
        "When and where did it happen?",
        record(
            day={"type": "string", "format": "date"},
            time={"type": "string", "format": "time"},
            id={"type": "string", "format": "uuid"},
            address={"type": "string", "format": "ipv4"},
        ),
    ),
    Example("optional", "Describe a car.", record(("brand",), brand=text(15), colour=text(10), doors=whole(2, 5))),
    Example(
        "map",
        "How many of each?",
        {"type": "object", "additionalProperties": whole(0, 99), "maxProperties": 3},
    ),
    Example(
        "steps",
        "Solve 8x + 7 = -23.",
        {"$defs": {"step": _STEP}, **record(steps=array(ref("step"), 2, least=1), final_answer=text(20))},
    ),
)

TOO_WIDE: dict[str, Any] = {
    "anyOf": [{"type": "object", "properties": {f"p{name}": {"type": "integer"} for name in range(240)}}] * 9
}
"""A schema that is taken, and that no answer can follow beyond its first brace: each property may come there."""
