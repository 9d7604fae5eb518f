"""The ends of a tiny model, as many sessions use them at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from gateway.generation.ends import Ends
from gateway.generation.sampler import Sampler, draw_tokens
from gateway.generation.sampling import SamplingParams
from gateway.generation.shared_ends import SharedEnds
from shared.errors import HopFailed
from shared.tensors import Encoded, decode_hidden, encode_hidden
from shared.types import PeerId
from tests.gateway.generation.draws import sample
from tests.tiny_models import make_tiny_model

torch.set_num_threads(1)

ROWS = torch.randn(6, 64, generator=torch.Generator().manual_seed(3))
PEERS = [PeerId(f"12D3Koo{number}") for number in range(6)]
ASKED = [
    SamplingParams(temperature, 1, 0, seed=number, max_tokens=1, stop_ids=frozenset())
    for number, temperature in enumerate((0, 1, 0.5, 0, 1, 2))
]


class CountingEnds(Ends):
    """Remembers how many rows each product with the head had, and on which threads it computed."""

    products: ClassVar[list[int]] = []
    threads: ClassVar[set[threading.Thread]] = set()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self.products.append(len(hidden))
        self.threads.add(threading.current_thread())
        return super().logits(hidden)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> CountingEnds:
    directory = make_tiny_model(tmp_path_factory.mktemp("model"), "gpt2", blocks=1)
    loaded = CountingEnds.load(directory, dtype=torch.float32, device=torch.device("cpu"))
    assert isinstance(loaded, CountingEnds)
    return loaded


@pytest.fixture
def busy(ends: CountingEnds) -> Iterator[tuple[SharedEnds, threading.Event]]:
    """Ends whose thread begins when the event is set, so that all that is asked before comes together."""
    go = threading.Event()
    ends.products.clear()
    ends.threads.clear()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(go.wait, 20)
        yield SharedEnds(ends, thread), go
        go.set()


async def choose_all(busy: tuple[SharedEnds, threading.Event], rows: list[Encoded]) -> list:
    shared, go = busy
    places = enumerate(zip(rows, PEERS, ASKED, strict=True), 10)
    tasks = [
        asyncio.create_task(shared.choose(row, peer, Sampler(asked, ()), place)) for place, (row, peer, asked) in places
    ]
    await asyncio.sleep(0)
    go.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_tokens_that_are_ready_together_are_one_product_off_the_event_loop(ends: CountingEnds, busy):
    await choose_all(busy, [encode_hidden(row[None]) for row in ROWS])
    assert ends.products == [6]
    assert threading.main_thread() not in ends.threads


async def test_each_gets_its_own_token_and_the_embedding_of_it_at_its_place(ends: CountingEnds, busy):
    chosen = await choose_all(busy, [encode_hidden(row[None]) for row in ROWS])
    for place, (row, asked, choice) in enumerate(zip(ROWS, ASKED, chosen, strict=True), 10):
        assert choice.token.id == sample(ends.logits(row[None])[0], asked, place)
        torch.testing.assert_close(decode_hidden(choice.hidden, (1, 64)), ends.embed([choice.token.id], place))


@pytest.mark.parametrize(
    ("bad", "code"), [(torch.full((1, 64), torch.nan), "not_finite"), (torch.zeros(1, 63), "protocol")]
)
async def test_a_row_that_is_broken_fails_alone_and_names_its_peer(busy, bad: torch.Tensor, code: str):
    rows = [encode_hidden(row[None]) for row in ROWS]
    expected = [each.token.id for each in await choose_all(busy, rows)]
    *before, broken, after = await choose_all(busy, [*rows[:4], encode_hidden(bad), rows[5]])
    assert [each.token.id for each in (*before, after)] == [*expected[:4], expected[5]]
    assert isinstance(broken, HopFailed)
    assert (broken.peer, broken.code) == (PEERS[4], code)


async def test_a_row_that_fails_changes_no_draw_of_those_who_have_a_history(ends: CountingEnds, busy):
    """What was drawn before the batch failed is drawn again."""
    shared, go = busy
    hidden = [encode_hidden(row[None]) for row in (*ROWS[:5], torch.full((64,), torch.nan))]
    samplers = [Sampler(replace(asked, frequency_penalty=0.5, top_logprobs=1), [3, 5]) for asked in ASKED]
    for sampler in samplers:
        sampler.accept(int(ends.logits(ROWS[:1]).argmax()))
    tasks = [
        asyncio.create_task(shared.choose(row, PEERS[0], each, 9)) for row, each in zip(hidden, samplers, strict=True)
    ]
    go.set()
    *chosen, broken = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(broken, HopFailed)
    for row, sampler, choice in zip(ROWS, samplers, chosen, strict=False):
        assert not isinstance(choice, BaseException)
        assert choice.token == draw_tokens(ends.logits(row[None]), [sampler], [9])[0]


@pytest.mark.parametrize("kind", ["score", "final_sum"])
async def test_a_token_waits_for_few_rows_of_prompts(ends: CountingEnds, busy, kind: str):
    """Prompts of several requests wait, and then a token: it is chosen after one piece of them."""
    shared, go = busy
    rows, over = encode_hidden(torch.randn(8, 64)), list[str]()

    async def work(name: str) -> None:
        if name == "token":
            await shared.choose(encode_hidden(ROWS[:1]), PEERS[0], Sampler(ASKED[0], ()), 9)
        elif kind == "score":
            await shared.score(rows, PEERS[0], [1] * 8, 0)
        else:
            await shared.final_sum(rows, PEERS[0])
        over.append(name)

    tasks = [asyncio.create_task(work(name)) for name in ("prompt", "prompt", "prompt", "prompt", "token")]
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 20)
    assert over == ["prompt", "token", "prompt", "prompt", "prompt"]


async def test_chunks_of_several_prompts_are_embedded_at_their_places(ends: CountingEnds, busy):
    shared, go = busy
    chunks = [([5, 9, 200], 0), ([7], 300), (list(range(40)), 17)]
    tasks = [asyncio.create_task(shared.embed(ids, place)) for ids, place in chunks]
    go.set()
    for (ids, place), hidden in zip(chunks, await asyncio.gather(*tasks), strict=True):
        torch.testing.assert_close(decode_hidden(hidden, (len(ids), 64)), ends.embed(ids, place), atol=0, rtol=0)
