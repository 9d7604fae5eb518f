"""What runs in one forward: every waiting decode step of a group of sessions, and some of their prompts. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peer.model.slab import SLACK
from peer.sessions import Session, Waiting

DECODE_TOKENS = 16
"""A step of at most so many tokens is a decode step (several tokens are speculation); a longer one is a prompt's."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens [start, end) of a step that waits."""

    waiting: Waiting
    start: int
    end: int

    @property
    def payload_bytes(self) -> int:
        """The slice's share of the step's bytes."""
        return len(self.waiting.payload) // self.waiting.step.count * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Share:
    """What one session puts into a forward: slices that follow each other without a gap."""

    session: Session
    slices: tuple[Slice, ...]

    @property
    def tokens(self) -> int:
        return sum(part.end - part.start for part in self.slices)

    @property
    def prefills(self) -> bool:
        """True when these are a prompt's tokens."""
        return not is_decode(self.slices[0].waiting)


def is_decode(waiting: Waiting) -> bool:
    """A small slice of a prompt is none, as the hop before may send them: nothing is asked back for it."""
    return waiting.step.count <= DECODE_TOKENS and waiting.step.returns != "none"


def is_rebuilt(session: Session) -> bool:
    """True when what waits was run before, by a hop whose place this one has taken: no hop after it waits for it."""
    if not session.queue:
        return False
    step = session.queue[0].step
    return step.round == 0 or step.position < session.forward_from


def plan(sessions: Iterable[Session], prefill_tokens: int, token_bytes: int) -> list[Share]:
    """The shares of the next forward: all decode steps, and of prompts `prefill_tokens` together, in the order given.

    Steps of several tokens may have as many further tokens together; then the next of them wait for their turn.

    A session takes part as far as its outgoing edge has room for the result, at `token_bytes` a token, and with at
    most SLACK tokens of a prompt: then no sliding layer holds more rows than were counted for it.
    """
    shares: list[Share] = []
    further_tokens = prefill_tokens
    for session in sessions:
        if not session.queue or session.outlet is None or session.replay_from is not None:
            continue
        room = session.outlet.room // token_bytes
        if is_decode(session.queue[0]):
            slices = _decode_slice(session, further_tokens, room)
            further_tokens -= sum(part.end - part.start - 1 for part in slices)
        else:
            slices = _prompt_slices(session, min(prefill_tokens, SLACK), room)
            prefill_tokens -= sum(part.end - part.start for part in slices)
        if slices:
            shares.append(Share(session, tuple(slices)))
    return shares


def _decode_slice(session: Session, further_tokens: int, room: int) -> list[Slice]:
    """The step that waits, whole; beyond its first token it is charged to `further_tokens`, which it may use up."""
    waiting = session.queue[0]
    affordable = waiting.step.count == 1 or further_tokens > 0
    return [Slice(waiting, 0, waiting.step.count)] if affordable and room >= _rows_out(session, waiting) else []


def _prompt_slices(session: Session, tokens: int, room: int) -> list[Slice]:
    """The first `tokens` tokens, at most, of the prompt that waits at the head of the queue, and of steps behind it."""
    slices: list[Slice] = []
    head = session.queue[0]
    end = head.step.position + head.done
    for waiting in session.queue:
        step = waiting.step
        if is_decode(waiting) or step.round != head.step.round or step.position + waiting.done != end:
            break
        if _rows_out(session, waiting) == step.count:
            count = min(waiting.left, tokens, room)
            room -= count
        else:
            count = min(waiting.left, tokens) if room else 0
            room -= count == waiting.left  # the row of its last token
        if not count:
            break
        slices.append(Slice(waiting, waiting.done, waiting.done + count))
        tokens -= count
        end += count
    return slices


def _rows_out(session: Session, waiting: Waiting) -> int:
    """Rows of hidden states that a whole step sends on."""
    return waiting.step.count if not session.last or waiting.step.returns == "all" else 1
