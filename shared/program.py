"""What both programs do around their work: log lines, signals, blocking work beside the event loop, an ending."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click
import uvloop

from shared.errors import CorollaError

T = TypeVar("T")

QUIET = ("asyncio", "filelock", "httpcore2", "httpx", "httpx2", "huggingface_hub", "transformers", "uvicorn")


def set_up_logs(level: str) -> None:
    """Plain lines on stderr: stdout is for the `ready` line alone."""
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a program until it ends or is told to by SIGINT or SIGTERM. An expected error ends it with its sentence."""
    try:
        uvloop.run(_until_signal(main()))
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


async def _until_signal(main: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
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


async def together(*work: Coroutine[Any, Any, None]) -> None:
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
