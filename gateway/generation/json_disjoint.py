"""Whether JSON schemas exclude each other, so that exactly one of them is the same as any of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

_SCHEMAS_LIMIT = 100  # each is compared with each
_DEPTH_LIMIT = 4
_TYPES = {"null", "boolean", "number", "string", "array", "object"}


def all_disjoint(schemas: Sequence[Any], definitions: Mapping[str, Any]) -> bool:
    """True only where that is certain. References lead to `definitions`, as `#/$defs/` and a name."""
    if len(schemas) > _SCHEMAS_LIMIT:
        return False
    return all(_disjoint(one, other, definitions, _DEPTH_LIMIT) for one, other in combinations(schemas, 2))


def _disjoint(one: Any, other: Any, definitions: Mapping[str, Any], depth: int) -> bool:
    one, other = _resolved(one, definitions), _resolved(other, definitions)
    if not depth or not isinstance(one, dict) or not isinstance(other, dict):
        return one is False or other is False
    if not _types(one) & _types(other):
        return True
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return not values & others
    if _types(one) & _types(other) != {"object"}:
        return False
    return _lacks(one, other) or _lacks(other, one) or _some_property_disjoint(one, other, definitions, depth)


def _resolved(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """What a reference leads to; what stands beside it only makes it narrower."""
    for _ in range(_DEPTH_LIMIT):
        if not isinstance(schema, dict) or "$ref" not in schema:
            break
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


def _types(schema: dict[str, Any]) -> set[str]:
    types = schema.get("type", list(_TYPES))
    return {"number" if each == "integer" else each for each in ([types] if isinstance(types, str) else types)}


def _values(schema: dict[str, Any]) -> set[str] | None:
    """Those that it lists, as JSON: strings only, since 1 equals 1.0."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is None or not all(isinstance(each, str) for each in values):
        return None
    return {json.dumps(each) for each in values}


def _lacks(closed: dict[str, Any], other: dict[str, Any]) -> bool:
    """True when `other` requires a property that `closed` does not have."""
    if closed.get("additionalProperties") is not False or "patternProperties" in closed:
        return False
    return bool(set(other.get("required", ())) - set(closed.get("properties", {})))


def _some_property_disjoint(
    one: dict[str, Any], other: dict[str, Any], definitions: Mapping[str, Any], depth: int
) -> bool:
    """True when a property that either requires can never fit both."""
    required = {*one.get("required", ()), *other.get("required", ())}
    properties, others = one.get("properties", {}), other.get("properties", {})
    both = [name for name in required if name in properties and name in others]
    return any(_disjoint(properties[name], others[name], definitions, depth - 1) for name in both)
