"""The body of a chat completion request, as OpenAI has it and as far as it is built."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

STOP_STRINGS, STOP_CHARACTERS = 4, 256


def _text_of(content: object) -> object:
    """A message's content as one string; parts are joined by line breaks."""
    if not isinstance(content, list):
        return content
    if not content:
        raise ValueError("must hold at least one part")
    return "\n".join(_text_of_part(number, part) for number, part in enumerate(content))


def _text_of_part(number: int, part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise ValueError(f"part {number} has type {str(kind)[:40]!r}; only 'text' is supported yet")
    text = part.get("text") if isinstance(part, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"part {number} must have a 'text' that is a string")
    return text


def _listed(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", hide_input_in_errors=True)


class Message(_Strict):
    """One message of a conversation; `content` is its text."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str | None, BeforeValidator(_text_of)] = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: list[Any] | None = None
    function_call: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _only_text(self) -> Message:
        if self.role in ("tool", "function") or self.tool_calls or self.function_call:
            raise ValueError("tool calls and their results are not supported yet")
        if self.audio:
            raise ValueError("audio is not supported yet")
        if self.content is None:
            raise ValueError("content must be a string, or a list of parts")
        return self

    def for_template(self) -> dict[str, str]:
        """As chat templates know it: to them, `developer` is what `system` was called before."""
        role = "system" if self.role == "developer" else self.role
        named = {} if self.name is None else {"name": self.name}
        return {"role": role, "content": self.content or "", **named}


StopString = Annotated[str, Field(min_length=1, max_length=STOP_CHARACTERS)]
StopList = Annotated[list[StopString], Field(max_length=STOP_STRINGS)]


class StreamOptions(_Strict):
    include_usage: bool | None = None


class ChatRequest(_Strict):
    """What is asked for. Null means the default, as it does at OpenAI."""

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Annotated[StopList | None, BeforeValidator(_listed)] = None
    return_token_ids: bool | None = None  # vLLM's: the ids of prompt and answer beside their text

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: send one of them")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens
