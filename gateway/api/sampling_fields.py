"""The fields that say how tokens are drawn and where a text ends: chat, completions and responses share them."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Annotated

from pydantic import BeforeValidator, Field

from gateway.api.request_model import Strict
from gateway.generation.completion import ServedModel
from gateway.generation.grammar import Grammar
from gateway.generation.sampling import SamplingParams
from shared.errors import InvalidRequest

STOP_STRINGS, STOP_CHARACTERS = 4, 256
STOP_IDS = 128
BIASES, ID_DIGITS = 1024, 9


def _listed(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


def _by_id(biases: object) -> object:
    """JSON's keys are strings: those of `logit_bias` are token ids."""
    if not isinstance(biases, dict):
        return biases
    if len(biases) > BIASES:
        raise ValueError(f"may name at most {BIASES} tokens, not {len(biases)}")
    return {_token_id(key): bias for key, bias in biases.items()}


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) <= ID_DIGITS and str(int(key)) == key):
        raise ValueError(f'the keys must be token ids, such as "50", not {key[:40]!r}')
    return int(key)


StopString = Annotated[str, Field(min_length=1, max_length=STOP_CHARACTERS)]
StopList = Annotated[list[StopString], Field(max_length=STOP_STRINGS)]
StopField = Annotated[StopList | None, BeforeValidator(_listed, json_schema_input_type=StopString | StopList | None)]
"""`stop`: a string, or a list of some; null and absent are the same."""

Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Biases = Annotated[dict[int, Bias], Field(max_length=BIASES)]
WrittenBiases = Annotated[
    dict[Annotated[str, Field(pattern=rf"^(0|[1-9][0-9]{{0,{ID_DIGITS - 1}}})$")], Bias],
    Field(max_length=BIASES, json_schema_extra={"additionalProperties": False}),
]
BiasField = Annotated[Biases | None, BeforeValidator(_by_id, json_schema_input_type=WrittenBiases | None)]
"""`logit_bias`: what is added to the logits of some tokens."""

Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0)]


class SamplingFields(Strict):
    """Null means the default, as it does at OpenAI. Beside OpenAI's fields are those that other servers have."""

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2, allow_inf_nan=False)] | None = None  # it divides logits
    logit_bias: BiasField = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=STOP_IDS)] | None = None
    ignore_eos: bool | None = None

    def choices(
        self,
        model: ServedModel,
        max_tokens: int,
        count: int = 1,
        *,
        top_logprobs: int | None = None,
        grammar: Grammar | None = None,
        stop_ids: frozenset[int] = frozenset(),
    ) -> list[SamplingParams]:
        """How each choice of the answer is sampled: all with one seed, which is a new one where none is given.

        `max_tokens` is what `room_for` gives; `stop_ids` end a text beside the model's own. Raises InvalidRequest.
        """
        self._check_against(model, max_tokens, grammar)
        seed = secrets.randbits(64) if self.seed is None else self.seed
        ends = frozenset() if self.ignore_eos else model.end_ids | stop_ids
        return [
            SamplingParams(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                top_k=max(self.top_k or 0, 0),
                min_p=self.min_p or 0.0,
                seed=seed,
                choice=choice,
                presence_penalty=self.presence_penalty or 0.0,
                frequency_penalty=self.frequency_penalty or 0.0,
                repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
                logit_bias=self.logit_bias or {},
                min_tokens=self.min_tokens or 0,
                max_tokens=max_tokens,
                stop_ids=ends | frozenset(self.stop_token_ids or ()),
                top_logprobs=top_logprobs,
                grammar=grammar,
            )
            for choice in range(count)
        ]

    def _check_against(self, model: ServedModel, max_tokens: int, grammar: Grammar | None) -> None:
        for name, ids in (("logit_bias", self.logit_bias or ()), ("stop_token_ids", self.stop_token_ids or ())):
            refuse_foreign_ids(model, ids, name)
        if (self.min_tokens or 0) > max_tokens:
            reason = f"min_tokens: at most {max_tokens} tokens may come here, which is fewer: lower it"
            raise InvalidRequest(reason, "min_tokens")
        for name, asked in (("min_tokens", self.min_tokens), ("ignore_eos", self.ignore_eos)):
            if grammar is not None and asked:
                reason = f"{name} cannot be kept where a format or a tool call says where the answer ends: drop one"
                raise InvalidRequest(reason, name)


def refuse_foreign_ids(model: ServedModel, ids: Collection[int], param: str) -> None:
    """Raises InvalidRequest where one of `ids` is none of the model's tokens."""
    size = model.tokenizer.vocab_size if ids else 0
    if any(not 0 <= each < size for each in ids):
        raise InvalidRequest(f"{param}: this model's token ids are those from 0 to {size - 1}", param)


def room_for(model: ServedModel, prompt_tokens: int, limit: int | None, param: str) -> int:
    """How many tokens an answer may have: `limit`, or to the context's end where that is nearer or there is none.

    A limit beyond the context is no promise of that many tokens, and clients send fixed ones to models of any size:
    it is cut, and the answer's finish reason says `length`. Raises InvalidRequest, naming the prompt's field, where
    the prompt leaves no room at all.
    """
    room = model.context_length - prompt_tokens
    if room < 1:
        reason = (
            f"{param}: the prompt comes to {prompt_tokens} tokens, and this model's context is "
            f"{model.context_length} tokens, the answer's included: shorten it"
        )
        raise InvalidRequest(reason, param, "context_length_exceeded")
    return room if limit is None else min(limit, room)
