"""How deep JSON is nested: what walks through it must not run out of stack."""

from __future__ import annotations

from collections.abc import Mapping


def nested_deeper_than(value: object, levels: int) -> bool:
    """Are there more than `levels` objects and lists in one another?"""
    layer = [value]
    for _ in range(levels):
        layer = [item for each in layer for item in _items(each)]
    return any(isinstance(each, Mapping | list | tuple) for each in layer)


def _items(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
