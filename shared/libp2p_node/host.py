"""The libp2p host of one node: TCP, Noise and yamux, nothing else, with limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from shared.addresses import Address
from shared.libp2p_node.containment import contain_handlers, running

CONNECTIONS_LIMIT = 256
TRIM_ABOVE, TRIM_TO = 192, 172
"""Long before nobody can connect any more, connections are ended: who is trimmed has other neighbours by then."""
STREAMS_LIMIT = 4096
DIAL_S = 5.0
HANDSHAKE_S = 5.0


def make_host(seed: bytes) -> tuple[BasicHost, Swarm]:
    """A host with the identity of `seed` that does not listen yet, and its network."""
    keys = create_new_key_pair(seed)
    host = new_host(
        key_pair=keys,
        sec_opt={NOISE: NoiseTransport(keys, noise_privkey=create_noise_key().private_key)},
        muxer_opt={TProtocol(YAMUX): Yamux},
        resource_manager=_limits(),
        connection_config=ConnectionConfig(
            max_connections=CONNECTIONS_LIMIT,
            high_watermark=TRIM_ABOVE,
            low_watermark=TRIM_TO,
            min_connections=0,
            dial_timeout=DIAL_S,
            inbound_upgrade_timeout=HANDSHAKE_S,
            outbound_upgrade_timeout=HANDSHAKE_S,
            outbound_stream_protocol_negotiation_timeout=HANDSHAKE_S,
            inbound_stream_protocol_negotiation_timeout=HANDSHAKE_S,
        ),
        disable_identify_address_discovery=True,
    )
    network = host.get_network()
    assert isinstance(host, BasicHost)
    assert isinstance(network, Swarm)
    network.retry_config = RetryConfig(max_retries=0)  # `neighbours` tries again, with its own back-off
    contain_handlers(host)
    return host, network


@asynccontextmanager
async def listening(network: Swarm, host: str, ports: Sequence[int]) -> AsyncIterator[int | None]:
    """Run the network on the first port that is free, which is yielded, or None when none is."""
    async with running(network):
        for port in ports:
            if await network.listen(Multiaddr(str(Address(host, port)))):
                yield port
                return
        yield None


def _limits() -> ResourceManager:
    """Bounds, without the library's breaker, which would refuse everybody after a burst of failures."""
    return ResourceManager(
        limits=ResourceLimits(max_connections=CONNECTIONS_LIMIT, max_streams=STREAMS_LIMIT),
        enable_metrics=False,
        enable_memory_limits=False,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
    )
