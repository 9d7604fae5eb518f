"""One prefill of a prompt for all choices of a request: one of them runs it, the others fork its chain."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from gateway.generation.chains import Chain, Inputs, OpenChain
from gateway.generation.tokens import OnOpen
from shared.changes import Changes
from shared.errors import HopFailed
from shared.tensors import Encoded
from shared.types import PeerId

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LastRow:
    """What a chain has made of the prompt's last token, (1, hidden), and who has sent it: the row was found right."""

    output: Encoded
    source: PeerId


@dataclass(frozen=True, slots=True)
class Start:
    """Where a choice begins: on an empty chain, or on one that has run the prompt, whose last `row` then is here.

    Whoever runs the prompt tells its row by `share`.
    """

    chain: Chain
    row: LastRow | None
    share: Callable[[LastRow], None]


class SharedPrefill:
    """Which choice is first is not said: it is the one that begins first. When it ends early, the next one is."""

    def __init__(self, length: int, open_chain: OpenChain, on_open: OnOpen) -> None:
        """`length` tokens are the prompt's; `on_open` is called once, when the first chain stands."""
        self._length = length
        self._open_chain = open_chain
        self._on_open = on_open
        self._begun = False
        self._led = False
        """True while a choice runs the prompt, or has and its chain stands."""
        self._prefilled: tuple[Chain, LastRow] | None = None
        self._claims = 0
        self._chains = 0
        """Of choices: those that stand, and empty ones that are being opened."""
        self._rooms = 0
        """Left by chains that have ended, and not taken by another one yet."""
        self._news = Changes()

    @asynccontextmanager
    async def start(self, reserve: int, inputs: Inputs) -> AsyncGenerator[Start, None]:
        """A chain with room for `reserve` tokens, for a choice that has none yet. Raises what opening a chain does.

        A peer that cannot fork costs a prefill. One that lacks the room costs the time until another choice ends too:
        who has yielded nothing yet goes before new requests only with the room that its own request had.
        """
        async with AsyncExitStack() as stack:
            try:
                with self._claimed():
                    prefilled = await self._of_another()
                    start = await self._fork(stack, *prefilled, reserve, inputs) if prefilled else None
            except HopFailed as error:
                logger.info("a choice runs its prompt by itself: %s", error)
                if error.code == "out_of_cache":
                    await self._room_of_another()
                start = await stack.enter_async_context(self.resume(reserve, inputs))
            yield start or await stack.enter_async_context(self._lead(reserve, inputs))

    @asynccontextmanager
    async def resume(self, reserve: int, inputs: Inputs) -> AsyncGenerator[Start, None]:
        """An empty chain, for one choice alone."""
        self._rooms = max(0, self._rooms - 1)
        with self._counted():
            async with self._open_chain(reserve, self._begun, inputs) as chain:
                if not self._begun:
                    self._begun = True
                    self._on_open(chain.numerics)
                yield Start(chain, None, lambda row: None)

    @contextmanager
    def _claimed(self) -> Generator[None]:
        """While a choice waits for the prompt, or forks the chain that has it."""
        self._claims += 1
        try:
            yield
        finally:
            self._claims -= 1
            self._news.notify()

    @contextmanager
    def _counted(self) -> Generator[None]:
        """While a choice has a chain; then its room is another one's."""
        self._chains += 1
        try:
            yield
        finally:
            self._chains -= 1
            self._rooms += 1
            self._news.notify()

    async def _room_of_another(self) -> None:
        """Return when a chain of this request has ended whose room no other choice has taken, or none stands."""
        while self._chains and not self._rooms:
            await self._news.wait()

    async def _of_another(self) -> tuple[Chain, LastRow] | None:
        """The prompt as another choice has run it, once it has; None, and the lead, when nobody is about to."""
        while self._led and not self._prefilled:
            await self._news.wait()
        self._led = True
        return self._prefilled

    @asynccontextmanager
    async def _lead(self, reserve: int, inputs: Inputs) -> AsyncGenerator[Start, None]:
        try:
            async with self.resume(reserve, inputs) as alone:
                try:
                    yield Start(alone.chain, None, lambda row: self._share(alone.chain, row))
                finally:
                    while self._prefilled and self._claims:  # this chain has to stand while it is forked
                        await self._news.wait()
        finally:
            self._led, self._prefilled = False, None
            self._news.notify()

    def _share(self, chain: Chain, row: LastRow) -> None:
        self._prefilled = chain, row
        self._news.notify()

    async def _fork(self, stack: AsyncExitStack, chain: Chain, row: LastRow, reserve: int, inputs: Inputs) -> Start:
        """Raises HopFailed when that is refused."""
        fork = await stack.enter_async_context(chain.fork(self._length, reserve, inputs))
        stack.enter_context(self._counted())
        return Start(fork, row, lambda row: None)
