"""What a whole model in one place answers: transformers' own `generate`, greedy, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids and their text; `gap` is the smallest distance between the best and the second score on the way."""

    ids: list[int]
    text: str
    gap: float


class Reference:
    """A model of a directory, loaded once."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self._model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)

    def answer(self, messages: list[dict[str, str]], tokens: int) -> Answer:
        inputs = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = self._model.generate(
            **inputs, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        best = torch.stack(output.logits)[:, 0].topk(2).values
        gap = float((best[:, 0] - best[:, 1]).min())
        return Answer(ids, self._tokenizer.decode(ids, skip_special_tokens=True), gap)
