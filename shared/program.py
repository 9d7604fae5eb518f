"""What both programs do around their work: log lines, signals, blocking work beside the event loop, an ending."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import click
import uvloop

from shared.errors import CorollaError

T = TypeVar("T")

QUIET = ("alembic", "asyncio", "filelock", "httpcore2", "httpx", "httpx2", "huggingface_hub", "transformers", "uvicorn")


def set_up_logs(level: str) -> None:
    """Plain lines on stderr: stdout is for the `ready` line alone."""
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


class Leaving:
    """How a program is told to end: the first signal asks it to, a second one insists.

    A program that has nothing to finish is cancelled by the first.
    """

    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        self._asked = asyncio.Event()
        self._finishes = False

    @contextmanager
    def finishing(self) -> Iterator[asyncio.Event]:
        """Inside, the first signal sets this event: what is inside then finishes what it has begun, and ends."""
        self._finishes = True
        try:
            yield self._asked
        finally:
            self._finishes = False

    def signalled(self) -> None:
        """Somebody wants the program to end."""
        if self._finishes and not self._asked.is_set():
            self._asked.set()
        else:
            self._cancel()


def run(main: Callable[[Leaving], Coroutine[Any, Any, None]]) -> None:
    """Run a program until it ends or is told to by SIGINT or SIGTERM. An expected error ends it with its sentence."""
    try:
        uvloop.run(_until_signals(main))
    except CorollaError as error:
        raise click.ClickException(str(error)) from error
    finally:
        sys.stdout.flush()
        forget_garbage()


def forget_garbage() -> None:
    """The collector will not look again at what exists now. To be called when all that stays is loaded.

    Going through the objects of torch and transformers takes it tenths of a second while serving, and seconds at exit.
    """
    gc.freeze()


async def _until_signals(main: Callable[[Leaving], Coroutine[Any, Any, None]]) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task
    leaving = Leaving(task.cancel)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leaving.signalled)
    with suppress(asyncio.CancelledError):
        await main(leaving)
    logging.getLogger(__name__).info("ended")


async def beside(function: Callable[..., T], *arguments: Any) -> T:
    """Run blocking work in a daemon thread: unlike an executor's, it does not hold up the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            result = function(*arguments)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits
            _tell(loop, future, error=error)
        else:
            _tell(loop, future, result=result)

    threading.Thread(target=work, daemon=True).start()
    return await future


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], **outcome: Any) -> None:
    def settle() -> None:
        if future.done():
            return
        if "error" in outcome:
            future.set_exception(outcome["error"])
        else:
            future.set_result(outcome["result"])

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)


async def together(*work: Awaitable[None]) -> None:
    """Run all until one of them ends or fails, or this is cancelled; then cancel the others and await their end."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def parent_gone() -> None:
    """Return when stdin, a pipe that the parent holds, is closed: by the parent's end too, however it came."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            gone.set()

    loop.add_reader(0, read)
    await gone.wait()
