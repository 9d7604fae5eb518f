"""What the gateway shows of its swarm: `/health`, `/swarm`, `/swarm/events`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any

from gateway.serving import Serving
from gateway.swarm.peers import Peers
from gateway.swarm.routing import covered_blocks
from shared.announcement import Announcement
from shared.network import Network
from shared.types import Fingerprint


class View:
    """The swarm's state in JSON shapes, as `docs/interfaces.md` has them."""

    def __init__(self, serving: Serving, peers: Peers, network: Network) -> None:
        self._serving = serving
        self._peers = peers
        self._network = network

    def health(self) -> dict[str, Any]:
        models = {
            model.id: {"blocks": model.blocks, "covered": self._serving.covered(model)}
            for model in self._serving.models
        }
        whole = any(each["covered"] == each["blocks"] for each in models.values())
        return {"status": "ok" if whole else "waiting", "models": models, "join": list(self._network.addresses)}

    def snapshot(self) -> dict[str, Any]:
        announced = self._peers.announced()
        return {
            "models": [*self._served(), *self._others(announced)],
            "peers": [self._peer(each) for each in sorted(announced, key=lambda each: (each.blocks, each.peer))],
            "join": list(self._network.addresses),
        }

    def changed(self) -> AsyncGenerator[None, None]:
        return self._peers.changes.follow()

    def _served(self) -> Iterable[dict[str, Any]]:
        for model in self._serving.models:
            whole = self._serving.covered(model) == model.blocks
            yield {"id": model.id, "fingerprint": model.fingerprint, "blocks": model.blocks, "whole": whole}

    def _others(self, announced: list[Announcement]) -> Iterable[dict[str, Any]]:
        """Models of the swarm that this gateway does not serve."""
        others: dict[Fingerprint, list[Announcement]] = {}
        for each in announced:
            if not self._serving.serves(each.fingerprint):
                others.setdefault(each.fingerprint, []).append(each)
        for fingerprint, peers in others.items():
            blocks = peers[0].model_blocks
            whole = covered_blocks((each.blocks for each in peers if each.blocks), blocks) == blocks
            yield {"id": peers[0].model, "fingerprint": fingerprint, "blocks": blocks, "whole": whole}

    def _peer(self, announced: Announcement) -> dict[str, Any]:
        control = self._peers.controls.get(announced.peer)
        pong = control.pong if control else None
        assert announced.blocks
        return {
            "peer": announced.peer,
            "name": announced.name,
            "model": announced.model,
            "fingerprint": announced.fingerprint,
            "blocks": [announced.blocks.start, announced.blocks.end],
            "state": "draining" if pong and pong.draining else announced.state,
            "quantization": announced.numerics.quantization if announced.numerics else "none",
            "dtype": announced.numerics.dtype if announced.numerics else "",
            "tokens_per_s": round(announced.tokens_per_s, 2),
            "cache_tokens": announced.cache_tokens,
            "free_cache_tokens": pong.free_cache_tokens if pong else None,
            "room_tokens": pong.room_tokens if pong else None,
            "sessions": pong.sessions if pong else None,
            "addresses": list(announced.addresses),
            "version": announced.version,
        }
