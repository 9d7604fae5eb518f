"""Whether a JSON schema has a finite instance: one that requires itself within itself has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTAINERS = {"array", "object"}


def is_finite(schema: Any, definitions: Mapping[str, Any]) -> bool:
    """False only where that is certain. References lead to `definitions`, as `#/$defs/` and a name.

    The least fixed point: nothing is known to be finite until it is shown by what is.
    """
    known: set[str] = set()
    grown = True
    while grown:
        grown = False
        for name in reversed(tuple(definitions)):  # most refer to later ones
            if name not in known and _is_finite(definitions[name], known):
                known.add(name)
                grown = True
    return _is_finite(schema, known)


def _is_finite(schema: Any, known: set[str]) -> bool:
    if not isinstance(schema, dict):
        return schema is not False
    return (
        ("$ref" not in schema or schema["$ref"].rpartition("/")[2] in known)
        and all(_is_finite(each, known) for each in schema.get("allOf", ()))
        and all(_any_finite(schema[choice], known) for choice in ("anyOf", "oneOf") if choice in schema)
        and _type_is_finite(schema, known)
    )


def _any_finite(schemas: list[Any], known: set[str]) -> bool:
    return any(_is_finite(each, known) for each in schemas)


def _type_is_finite(schema: dict[str, Any], known: set[str]) -> bool:
    types = schema.get("type", "null")
    types = {types} if isinstance(types, str) else set(types)
    if types - _CONTAINERS or "const" in schema or "enum" in schema:
        return True
    return ("array" in types and _array_is_finite(schema, known)) or (
        "object" in types and _object_is_finite(schema, known)
    )


def _array_is_finite(schema: dict[str, Any], known: set[str]) -> bool:
    least, first = schema.get("minItems", 0), schema.get("prefixItems", [])
    needed = [*first[:least], *([schema.get("items", True)] if least > len(first) else [])]
    return all(_is_finite(each, known) for each in needed)


def _object_is_finite(schema: dict[str, Any], known: set[str]) -> bool:
    properties = schema.get("properties", {})
    return all(_is_finite(properties.get(name, True), known) for name in schema.get("required", ()))
