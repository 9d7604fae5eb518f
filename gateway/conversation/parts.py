"""What an answer consists of, piece by piece: text, thinking, calls of tools."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """More of what the user is told."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what a reasoning model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallBegins:
    """A call of a tool: the answer's `index`th, from 0; `id` is new and unique."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of the arguments of a call that has begun; all of a call's together are a JSON text."""

    index: int
    text: str


Part = Content | Reasoning | ToolCallBegins | ToolCallArguments
