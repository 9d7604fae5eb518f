"""The models that this gateway serves: what each needs here, and whether the swarm holds all of it."""

from __future__ import annotations

import functools
import logging
import shlex
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from gateway.generation.batches import OnBatch
from gateway.generation.chains import Inputs
from gateway.generation.completion import ServedModel
from gateway.generation.ends import Ends
from gateway.generation.engine import Engine
from gateway.generation.mapped_embedding import embedding_tensor
from gateway.generation.shared_ends import SharedEnds
from gateway.generation.token_trie import TokenTrie
from gateway.generation.tokenizer import TextTokenizer
from gateway.settings import GatewaySettings
from gateway.swarm.chain import Chain
from gateway.swarm.peers import Peers
from gateway.swarm.routing import covered_blocks, first_hole
from gateway.swarm.swarm import Model, Swarm
from shared.checkpoint import Checkpoint
from shared.checkpoint.progress import show_progress
from shared.checkpoint.tensor_names import is_of
from shared.device import choose_device, choose_dtype, free_memory
from shared.errors import NoRoute, NotEnoughMemory, UnknownModel
from shared.partial_model import read_config
from shared.types import Fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a gateway holds of one model, read from disk."""

    checkpoint: Checkpoint
    ends: Ends
    tokenizer: TextTokenizer
    token_trie: TokenTrie | None


def load(checkpoint: Checkpoint, settings: GatewaySettings) -> Ready:
    """Read a model's ends and tokenizer; takes seconds. Raises CheckpointError, NotEnoughMemory, UsageError."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device, checkpoint.config)
    needed, free = bytes_to_hold(checkpoint, dtype.itemsize), free_memory(device)
    if needed > free:
        raise NotEnoughMemory(
            f"the head of {checkpoint.id} takes {needed / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free"
        )
    with checkpoint.prepare("ends") as directory, show_progress(f"Loading embedding and head of {checkpoint.id}"):
        ends = Ends.load(directory, dtype=dtype, device=device, head=settings.head)
        tokenizer = TextTokenizer.load(directory)
        return Ready(checkpoint, ends, tokenizer, _token_trie(tokenizer, ends.vocab_size))


def _token_trie(tokenizer: TextTokenizer, vocab_size: int) -> TokenTrie | None:
    """Made now, since it stops all threads; None for a tokenizer that can have none: requests that need it are told."""
    try:
        return TokenTrie(tokenizer, tokenizer.end_ids, vocab_size)
    except ValueError:
        return None


def bytes_to_hold(checkpoint: Checkpoint, element_size: int) -> int:
    """Of the ends; an embedding that is not the head too stays in its file."""
    bytes_of_all = checkpoint.bytes_of("ends", element_size)
    if read_config(checkpoint.directory).tie_word_embeddings:
        return bytes_of_all
    name = embedding_tensor((name for name in checkpoint.weights if is_of("ends", name)), tied=False)
    return bytes_of_all - checkpoint.files.header(checkpoint.weights[name])[name].bytes_as(element_size)


class Serving:
    """All models of this gateway, by public id. The API asks it what can be answered."""

    def __init__(
        self,
        torch_thread: Executor,
        on_turn: OnBatch = lambda rows, seconds: None,
        on_step: Callable[[str, float], None] = lambda model, seconds: None,
    ) -> None:
        """`on_turn` hears of each turn of the ends: rows, seconds; `on_step` of each decode step: model, seconds."""
        self._torch_thread = torch_thread
        self._on_turn = on_turn
        self._on_step = on_step
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
        ends = SharedEnds(ready.ends, self._torch_thread, self._on_turn)
        open_chain, on_step = functools.partial(self._open_chain, model), functools.partial(self._on_step, name)
        served = ServedModel(
            id=name,
            created=int(time.time()),
            tokenizer=ready.tokenizer,
            engine=Engine(ends, open_chain, on_step),
            context_length=ready.ends.context_length,
            end_ids=ready.tokenizer.end_ids,
            token_trie=ready.token_trie,
            fingerprint=f"{checkpoint.fingerprint} {ready.ends.numerics}",
            hidden_size=ready.ends.hidden_size,
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

    def _open_chain(
        self, model: Model, reserve: int, resuming: bool, inputs: Inputs
    ) -> AbstractAsyncContextManager[Chain]:
        return self._swarm.open_chain(model, reserve, resuming, inputs)


def _peer_flags(source: str, checkpoint: Checkpoint) -> str:
    """What `peer start` takes to serve the same model."""
    name = "" if source == checkpoint.id else f" --model-name {shlex.quote(checkpoint.id)}"
    return f"--model {shlex.quote(source)}{name}"
