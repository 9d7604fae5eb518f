"""How much a model is to think, in the words that its own chat template knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import jinja2
from jinja2 import meta

from gateway.generation.completion import ServedModel
from shared.errors import InvalidRequest

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

_SWITCHES = ("enable_thinking", "thinking")  # Qwen3, GLM 4.5 and others; DeepSeek V3.1 and Granite
_MARKS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # a tag of transformers' own, which changes nothing here


def effort_variables(model: ServedModel, effort: Effort) -> dict[str, Any] | None:
    """What the model's chat template is told; None for a model to which no effort can be told.

    Some templates take the word as it is (gpt-oss), others know only whether to think at all. A model that does not
    think takes `none`.
    """
    known = template_variables(model.tokenizer.chat_template(with_tools=True))
    told: dict[str, Any] = {"reasoning_effort": effort} if "reasoning_effort" in known else {}
    told |= {name: effort != "none" for name in _SWITCHES if name in known}
    return told if told or effort == "none" else None


def with_effort(kwargs: Mapping[str, Any], told: Mapping[str, Any], param: str) -> dict[str, Any]:
    """All that a chat template is told: what the request says itself, and of the effort in its field `param`.

    Raises InvalidRequest where the two differ.
    """
    for name, value in told.items():
        if kwargs.get(name, value) != value:
            raise InvalidRequest(f"{param} and chat_template_kwargs.{name} differ: send one of them", param)
    return {**kwargs, **told}


@lru_cache(maxsize=64)
def template_variables(template: str) -> frozenset[str]:
    """The names that a chat template takes from outside."""
    try:
        parsed = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_MARKS.sub("", template))
    except jinja2.TemplateError:
        return frozenset()
    return frozenset(meta.find_undeclared_variables(parsed))
