"""Sessions with steps that wait, as a scheduler sees them: real windows, no link behind them."""

from __future__ import annotations

from typing import Any, Literal, cast

from peer.batch import DECODE_TOKENS
from peer.cursor import Cursor
from peer.model.cache import SessionCache
from peer.sessions import Session, Waiting
from shared.edges import Outlet
from shared.links import Link
from shared.types import BlockRange, PeerId, SessionId
from shared.wire import Step

WIDTH = 4  # bytes of one token's hidden states


class NoLink:
    """Takes frames and forgets them."""

    def send(self, *frame: Any) -> None: ...


def session(name: str, *counts: int, blocks: str = "0:2", last: bool = False) -> Session:
    """A session with waiting steps of so many tokens, one behind the other, in one round."""
    used = BlockRange.parse(blocks)
    made = Session(
        id=SessionId(name),
        gateway=PeerId("gateway"),
        upstream=PeerId("gateway"),
        downstream=PeerId("gateway" if last else "next"),
        blocks=used,
        reserve=100_000,
        cursor=Cursor(epoch=1),
        cache=SessionCache(used, [], 100_000),
        outlet=Outlet(cast(Link, NoLink()), on_room=lambda: None),
    )
    for count in counts:
        wait(made, count)
    return made


def wait(session: Session, count: int, *, round_: int = 1, returns: Literal["none", "last"] | None = None) -> None:
    """One more step behind those that wait: of a prompt, or with few tokens one that decodes, unless `returns` says."""
    last = session.queue[-1].step if session.queue else None
    position = last.position + last.count if last else 0
    step = Step(
        session=session.id,
        epoch=1,
        round=round_,
        position=position,
        count=count,
        returns=returns or ("last" if count <= DECODE_TOKENS else "none"),
        tensors=(),
    )
    session.queue.append(Waiting(step, memoryview(bytes(count * WIDTH)), since=0.0))


def fill_window(session: Session, left: int) -> None:
    """Leave room for so many bytes in the session's outgoing window."""
    assert session.outlet
    session.outlet.send(cast(Any, None), bytes(session.outlet.room - left))
