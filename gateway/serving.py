"""The models that this gateway serves: what each needs here, and whether the swarm holds all of it."""

from __future__ import annotations

import functools
import logging
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from gateway.generation.completion import ServedModel
from gateway.generation.ends import Ends
from gateway.generation.engine import Engine
from gateway.generation.tokenizer import TextTokenizer
from gateway.settings import GatewaySettings
from gateway.swarm.chain import Chain
from gateway.swarm.peers import Peers
from gateway.swarm.routing import covered_blocks, first_hole
from gateway.swarm.swarm import Model, Swarm
from shared.checkpoint import Checkpoint
from shared.checkpoint.progress import show_progress
from shared.device import choose_device, choose_dtype, free_memory
from shared.errors import NoRoute, NotEnoughMemory, UnknownModel
from shared.types import Fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a gateway holds of one model, read from disk."""

    checkpoint: Checkpoint
    ends: Ends
    tokenizer: TextTokenizer


def load(checkpoint: Checkpoint, settings: GatewaySettings) -> Ready:
    """Read a model's ends and tokenizer; takes seconds. Raises CheckpointError, NotEnoughMemory, UsageError."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device, checkpoint.config)
    needed, free = checkpoint.bytes_of("ends", dtype.itemsize), free_memory(device)
    if needed > free:
        raise NotEnoughMemory(
            f"embedding and head of {checkpoint.id} take {needed / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free"
        )
    with checkpoint.prepare("ends") as directory, show_progress(f"Loading embedding and head of {checkpoint.id}"):
        ends = Ends.load(directory, dtype=dtype, device=device)
        return Ready(checkpoint, ends, TextTokenizer.load(directory))


class Serving:
    """All models of this gateway, by public id. The API asks it what can be answered."""

    def __init__(self, torch_thread: Executor) -> None:
        self._torch_thread = torch_thread
        self._served: dict[str, tuple[ServedModel, Model]] = {}
        self._whole_once: set[str] = set()

    def connect(self, swarm: Swarm, peers: Peers) -> None:
        """Where chains come from."""
        self._swarm = swarm
        self._peers = peers

    def add(self, ready: Ready, source: str) -> None:
        """Serve one more model, which came from `source`. A second fingerprint under one id gets a longer id."""
        checkpoint = ready.checkpoint
        name = checkpoint.id
        if name in self._served:
            name = f"{name}@{checkpoint.fingerprint[:12]}"
        model = Model(name, checkpoint.fingerprint, checkpoint.blocks, _peer_flags(source, checkpoint))
        engine = Engine(ready.ends, functools.partial(self._open_chain, model), self._torch_thread)
        served = ServedModel(
            id=name,
            created=int(time.time()),
            tokenizer=ready.tokenizer,
            engine=engine,
            context_length=ready.ends.context_length,
            end_ids=ready.tokenizer.end_ids,
        )
        self._served[name] = (served, model)

    def serves(self, fingerprint: Fingerprint) -> bool:
        return any(model.fingerprint == fingerprint for _, model in self._served.values())

    @property
    def models(self) -> list[Model]:
        return [model for _, model in self._served.values()]

    def get(self, model: str, /) -> ServedModel:
        """The model to answer with. Raises UnknownModel, or NoRoute while a part of it is missing."""
        if model not in self._served:
            raise UnknownModel(model)
        served, key = self._served[model]
        if hole := first_hole(self._peers.ranges(key.fingerprint), key.blocks):
            raise NoRoute(model, hole)
        return served

    def list(self) -> Sequence[ServedModel]:
        """Those whose blocks have all been seen at one time."""
        return [served for served, model in self._served.values() if model.id in self._whole_once]

    def covered(self, model: Model) -> int:
        """How many of the model's blocks linked peers hold now."""
        return covered_blocks(self._peers.ranges(model.fingerprint), model.blocks)

    def whole(self, model: Model) -> bool:
        """True when linked peers hold all of it; it is listed from then on."""
        if self.covered(model) == model.blocks:
            self._whole_once.add(model.id)
            return True
        return False

    def _open_chain(self, model: Model, reserve: int) -> AbstractAsyncContextManager[Chain]:
        return self._swarm.open_chain(model, reserve)


def _peer_flags(source: str, checkpoint: Checkpoint) -> str:
    """What `peer start` takes to serve the same model."""
    name = "" if source == checkpoint.id else f" --model-name {shlex.quote(checkpoint.id)}"
    return f"--model {shlex.quote(source)}{name}"
