"""How a program ends: at the first signal, or at the second when it has something to finish."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shared.program import Leaving

PROGRAM = """
import asyncio, sys
from shared.program import run

async def main(leaving):
    try:
        print("idle", flush=True)
        if "finishes" in sys.argv:
            with leaving.finishing() as asked:
                print("working", flush=True)
                await asked.wait()
                print("asked", flush=True)
                if "for-ever" in sys.argv:
                    await asyncio.Event().wait()
        else:
            await asyncio.Event().wait()
    finally:
        print("cleaned", flush=True)

run(main)
"""


class Program:
    """A process of `PROGRAM`, and what it says."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, text=True)

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        return self.process.wait(20)


@pytest.fixture
def start() -> Iterator[type[Program]]:
    started: list[Program] = []

    class Started(Program):
        def __init__(self, *words: str) -> None:
            super().__init__(*words)
            started.append(self)

    yield Started
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_with_nothing_to_finish_ends_at_the_first_signal(start: type[Program], number: signal.Signals):
    program = start()
    assert program.says() == "idle"
    program.process.send_signal(number)
    assert program.says() == "cleaned"
    assert program.end() == 0


def test_a_program_that_finishes_is_asked_first_and_ends_by_itself(start: type[Program]):
    program = start("finishes")
    assert [program.says(), program.says()] == ["idle", "working"]
    program.process.send_signal(signal.SIGTERM)
    assert [program.says(), program.says()] == ["asked", "cleaned"]
    assert program.end() == 0


def test_a_second_signal_ends_what_does_not_finish(start: type[Program]):
    program = start("finishes", "for-ever")
    assert [program.says(), program.says()] == ["idle", "working"]
    program.process.send_signal(signal.SIGTERM)
    assert program.says() == "asked"
    program.process.send_signal(signal.SIGINT)
    assert program.says() == "cleaned"
    assert program.end() == 0


async def test_what_has_been_finished_holds_up_no_later_signal():
    cancelled = asyncio.Event()
    leaving = Leaving(cancelled.set)
    with leaving.finishing() as asked:
        pass
    leaving.signalled()
    assert cancelled.is_set()
    assert not asked.is_set()
