"""Fields of OpenAI's API, and of servers like this one, that change an answer's meaning and are not built yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidRequest

# Each with the values, besides null, that ask for nothing; any other is refused rather than dropped in silence.
_HARMLESS: dict[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest that names the first field which asks for something that is not built yet."""
    for name, harmless in _HARMLESS.items():
        value = body.get(name)
        if value is not None and not any(_same(value, default) for default in harmless):
            reason = f"{name} is not supported yet" + (", except with its default" if harmless else "")
            raise InvalidRequest(reason, name, "unsupported_parameter")


def _same(value: object, default: object) -> bool:
    """Equality in JSON's sense, where `true` is not 1."""
    return value == default and isinstance(value, bool) == isinstance(default, bool)
