"""What a choice remembers while the engine makes it: over chains that come and go, and beside other choices."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gateway.generation.grammars import InTurn, InTurnMatcher
from tests.gateway.generation.test_engine import BLOCKS, PROMPT, SAMPLED, Bench, whole_model
from tests.tiny_models import END_ID, VOCAB_SIZE, make_tiny_model

PENALIZED = replace(SAMPLED, presence_penalty=0.5, frequency_penalty=0.3, repetition_penalty=1.2)
DIGITS = frozenset(range(15, 25))  # ids of ASCII digits in the byte tokenizer
MANY_DIGITS = InTurn((DIGITS,) * 1100, frozenset({END_ID}), VOCAB_SIZE)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=BLOCKS, context=8192)


@pytest.fixture
def bench(directory: Path) -> Bench:
    return Bench(directory)


@pytest.mark.parametrize(
    "asked",
    [
        replace(PENALIZED, max_tokens=40),
        replace(PENALIZED, temperature=0, max_tokens=40),
        replace(SAMPLED, min_p=0.1, logit_bias={7: 3.0}, min_tokens=9, max_tokens=40),
        replace(SAMPLED, grammar=MANY_DIGITS, max_tokens=40),
    ],
)
async def test_a_chain_gives_what_the_whole_model_gives(directory: Path, bench: Bench, asked):
    plain = await bench.run(replace(SAMPLED, temperature=asked.temperature, max_tokens=40))
    made = await bench.run(asked)
    assert made == await whole_model(directory, PROMPT, asked)
    assert made != plain


@pytest.mark.slow
async def test_penalties_and_grammars_go_on_over_another_chain(directory: Path, bench: Bench):
    bench.chains.grants = lambda reserve: False
    asked = replace(PENALIZED, grammar=MANY_DIGITS, stop_ids=frozenset({END_ID}), max_tokens=1400)
    made = await bench.run(asked)
    assert len(bench.chains.opened) == 2
    assert made == await whole_model(directory, PROMPT, asked)
    assert (len(made), made[-1], set(made[:-1])) == (1101, END_ID, DIGITS)


async def test_choices_that_share_turns_do_not_share_what_they_remember(bench: Bench):
    grammar = InTurn((DIGITS,) * 20, frozenset({END_ID}), VOCAB_SIZE)
    asked = [replace(each, choice=choice) for choice, each in enumerate((PENALIZED, SAMPLED) * 3)]
    asked = [replace(each, grammar=grammar if each.choice % 3 else None) for each in asked]
    alone = [await bench.run(params) for params in asked]
    bench.turns.clear()
    assert await asyncio.gather(*(bench.run(params) for params in asked)) == alone
    assert max(bench.turns) > 2


class Contradiction(InTurn):
    """A grammar that forbids what it has allowed."""

    def matcher(self) -> ContradictingMatcher:
        return ContradictingMatcher(self)


class ContradictingMatcher(InTurnMatcher):
    def accept(self, token: int) -> None:
        raise ValueError("the grammar has lost its place")


async def test_a_grammar_that_fails_ends_its_own_text_alone(bench: Bench):
    broken = replace(SAMPLED, grammar=Contradiction((DIGITS,), frozenset(), VOCAB_SIZE))
    failed, whole = await asyncio.gather(bench.run(broken), bench.run(SAMPLED), return_exceptions=True)
    assert isinstance(failed, ValueError)
    assert whole == await bench.run(SAMPLED)
    assert bench.chains.running == 0
