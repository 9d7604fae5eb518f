"""Announcements by gossipsub: one topic per swarm, and only what was checked is passed on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.abc import IHost
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb.rpc_pb2 import Message, PeerInfo
from libp2p.pubsub.pubsub import Pubsub

from shared.libp2p_node.containment import running
from shared.types import PeerId

logger = logging.getLogger(__name__)

PROTOCOL = TProtocol("/meshsub/1.1.0")
RPC_LIMIT = 1024 * 1024
FLUSH_S = 0.5
FLUSH_LOOKS = 10

Judge = Callable[[bytes, PeerId], bool]
Admit = Callable[[PeerId], bool]


class Gossip:
    """`judge(record, source)` takes in a record from a neighbour, and says whether it is passed on.

    `admits(source)` is asked before: nothing is spent, not even on signatures, for a neighbour that is not heard now.
    """

    def __init__(self, host: IHost, swarm: str, judge: Judge, admits: Admit = lambda source: True) -> None:
        self.topic = f"corolla/1/{swarm}"
        self._judge = judge
        self._router = _Router(
            [PROTOCOL],
            degree=8,
            degree_low=6,
            degree_high=12,
            heartbeat_interval=1,
            adaptive_gossip_enabled=False,  # it would raise the heartbeat's interval to a minute
        )
        self._pubsub = _Pubsub(host, self._router, admits, max_inbound_rpc_size=RPC_LIMIT, allowed_topics={self.topic})
        self._pubsub.set_topic_validator(self.topic, self._validate, False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with running(self._router), running(self._pubsub):
            await self._pubsub.wait_until_ready()
            await self._pubsub.subscribe(self.topic)
            yield

    def neighbours(self) -> set[PeerId]:
        """Nodes that are connected and follow this swarm's topic."""
        subscribed = self._pubsub.peer_topics.get(self.topic, set())
        return {PeerId(peer.to_string()) for peer in subscribed if peer in self._pubsub.peers}

    async def publish(self, record: bytes) -> None:
        await self._pubsub.publish(self.topic, record)

    async def flush(self) -> None:
        """Return when what was published has been written to the neighbours, or after half a second."""
        for _ in range(FLUSH_LOOKS):
            await trio.sleep(FLUSH_S / FLUSH_LOOKS)  # first of all: what was taken from a queue may be half written
            if not any(len(queue) for queue in self._pubsub.peer_queues.values()):
                return

    def _validate(self, forwarder: ID, message: Message) -> bool:
        if forwarder == self._pubsub.my_id:
            return True
        try:
            return list(message.topicIDs) == [self.topic] and self._judge(message.data, PeerId(forwarder.to_string()))
        except Exception as error:  # noqa: BLE001 - a validator that raises would lose the message unseen
            logger.warning("a message could not be judged: %r", error)
            return False


class _Router(GossipSub):
    """Gossipsub that dials nobody because a neighbour says so: addresses come from announcements alone."""

    async def _do_px(self, px_peers: list[PeerInfo]) -> None:
        logger.debug("a neighbour names %s peers to dial: ignored", len(px_peers))


class _Pubsub(Pubsub):
    """Pubsub that spends no time on signatures for a neighbour that is not heard."""

    def __init__(self, host: IHost, router: GossipSub, admits: Admit, **options: Any) -> None:
        super().__init__(host, router, strict_signing=True, **options)
        self._admits = admits

    async def push_msg(self, msg_forwarder: ID, msg: Message) -> None:
        if msg_forwarder == self.my_id or self._admits(PeerId(msg_forwarder.to_string())):
            await super().push_msg(msg_forwarder, msg)

    def notify_subscriptions(self, publish_message: Message) -> None:
        """Nobody reads the subscription: the validator has taken the record already."""
