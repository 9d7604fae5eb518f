"""The libp2p process: serves the program at the other end of stdin and stdout until stdin ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator

import trio

from shared.libp2p_node.messages import Command, Failed, Message, Start, Stop, command_reader, encode
from shared.libp2p_node.node import Node

logger = logging.getLogger(__name__)

EVENTS_LIMIT = 8192
READ_BYTES = 256 * 1024
ENDING_S = 1.0


def main() -> None:
    """Signals are left to the program, which says goodbye first and then closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    commands, events = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # whatever prints, prints to stderr
    trio.run(_serve, trio.lowlevel.FdStream(commands), trio.lowlevel.FdStream(events))


async def _serve(stdin: trio.abc.ReceiveStream, stdout: trio.abc.SendStream) -> None:
    send, receive = trio.open_memory_channel[Message](EVENTS_LIMIT)
    commands = _commands(stdin)
    start = await anext(commands, None)
    if not isinstance(start, Start):
        return
    _set_up_logs(start.log_level)

    def report(message: Message) -> None:
        try:
            send.send_nowait(message)
        except trio.WouldBlock:
            logger.warning("the program does not listen: a message to it is dropped")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_write, receive, stdout, nursery.cancel_scope)
        try:
            await Node(start, report).run(commands)
        except Exception as error:  # the program hears of it, and starts another process
            logger.exception("the libp2p process breaks")
            report(Failed("broken", repr(error)[:1000]))
        send.close()


def _set_up_logs(level: int) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # it logs each stranger's every mistake


async def _commands(stdin: trio.abc.ReceiveStream) -> AsyncIterator[Command]:
    reader = command_reader()
    while data := await stdin.receive_some(READ_BYTES):
        for command in reader.feed(data):
            if isinstance(command, Stop):
                _end_soon()
                return
            yield command
    _end_soon()


async def _write(
    messages: trio.MemoryReceiveChannel[Message], stdout: trio.abc.SendStream, process: trio.CancelScope
) -> None:
    try:
        async for message in messages:
            await stdout.send_all(encode(message))
    except trio.BrokenResourceError:
        process.cancel()  # nobody is there any more


def _end_soon() -> None:
    """End, even if the library holds on to something."""
    timer = threading.Timer(ENDING_S, os._exit, (0,))
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    main()
