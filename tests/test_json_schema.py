"""A real model under twenty JSON schemas: whatever it says keeps to them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack

import pytest
import torch
from jsonschema import Draft202012Validator
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from gateway.demo_model import fetch_demo_model
from gateway.generation.completion import Piece, ServedModel, complete
from gateway.generation.sampler import Sampler, draw_tokens
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokenizer import TextTokenizer
from gateway.generation.tokens import OnOpen, Token
from shared.options import default_cache_dir
from tests.gateway.local_engine import LocalEngine
from tests.schemas import EXAMPLES, Example

CHOICES = 10
MAX_TOKENS = 200
BY_LENGTH_LIMIT = 30
"""Of all: more, and the schemas would show little."""
SYSTEM = "Answer in JSON, in one line, as short as you can."

logger = logging.getLogger(__name__)


class Together(LocalEngine):
    """All choices in one forward: on two cores ten of them take little more time than one."""

    def generate_each(
        self, prompt: list[int], choices: Sequence[SamplingParams], on_open: OnOpen = lambda numerics: None
    ) -> Sequence[AsyncGenerator[Token, None]]:
        queues: list[asyncio.Queue[Token | None]] = [asyncio.Queue() for _ in choices]
        running = asyncio.ensure_future(self._run(prompt, choices, queues))
        running.add_done_callback(lambda _: [queue.put_nowait(None) for queue in queues])

        async def tokens(queue: asyncio.Queue[Token | None]) -> AsyncGenerator[Token, None]:
            while token := await queue.get():
                yield token
            await running  # raises what it has raised

        return [tokens(queue) for queue in queues]

    async def _run(
        self, prompt: list[int], choices: Sequence[SamplingParams], queues: Sequence[asyncio.Queue[Token | None]]
    ) -> None:
        async with AsyncExitStack() as samplers:
            rows = [
                (await samplers.enter_async_context(Sampler(params, prompt)), queue)
                for params, queue in zip(choices, queues, strict=True)
            ]
            ids, cache = [prompt] * len(rows), DynamicCache()
            for made in range(choices[0].max_tokens):
                logits = await asyncio.to_thread(self._forward_all, ids, cache)
                tokens = [
                    await _drawn(sampler, scores, len(prompt) + made)
                    for (sampler, _), scores in zip(rows, logits, strict=True)
                ]
                live = [row for row, (sampler, _) in enumerate(rows) if tokens[row].id not in sampler.params.stop_ids]
                for token, (_, queue) in zip(tokens, rows, strict=True):
                    queue.put_nowait(token)
                if not live:
                    break
                for row in live:
                    rows[row][0].accept(tokens[row].id)
                rows, ids = [rows[row] for row in live], [[tokens[row].id] for row in live]
                cache.batch_select_indices(torch.tensor(live))

    @torch.inference_mode()
    def _forward_all(self, ids: list[list[int]], cache: DynamicCache) -> torch.Tensor:
        """(choices, vocabulary): the scores after each one's last token."""
        output = self.model(input_ids=torch.tensor(ids), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].float()


async def _drawn(sampler: Sampler, scores: torch.Tensor, position: int) -> Token:
    await sampler.ready()
    return draw_tokens(scores[None], [sampler], [position])[0]


@pytest.fixture(scope="module")
def model() -> ServedModel:
    directory = fetch_demo_model(default_cache_dir())
    tokenizer = TextTokenizer.load(directory)
    whole: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    torch.set_num_threads(2)
    return ServedModel("smollm2", 0, tokenizer, Together(whole), 2048, tokenizer.end_ids)


async def answers(model: ServedModel, example: Example) -> list[tuple[str, str | None]]:
    """The text of each choice, and how it ended."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": example.question}]
    prompt = await model.tokenizer.encode_chat(messages)
    grammar = await model.grammars.json_schema(example.schema, "response_format")
    choices = [
        SamplingParams(1.0, 1.0, 0, 20, MAX_TOKENS, model.end_ids, choice=choice, grammar=grammar)
        for choice in range(CHOICES)
    ]
    pieces: list[list[Piece]] = [[] for _ in choices]
    async for piece in complete(model, prompt, choices):
        pieces[piece.choice].append(piece)
    return [("".join(piece.text for piece in each), each[-1].finish) for each in pieces]


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_two_hundred_answers_keep_to_twenty_schemas_or_end_by_length(model: ServedModel) -> None:
    by_length = 0
    for example in EXAMPLES:
        validator = Draft202012Validator(example.schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        found = await answers(model, example)
        assert len(found) == CHOICES
        for text, finish in found:
            if finish == "length":
                by_length += 1
                continue
            assert finish == "stop", example.name
            validator.validate(json.loads(text))
        logger.info("%s: %s", example.name, found[0])
    assert len(EXAMPLES) * CHOICES == 200
    assert by_length <= BY_LENGTH_LIMIT, f"{by_length} answers ended by length"
    logger.info("%d of 200 answers ended by length", by_length)
