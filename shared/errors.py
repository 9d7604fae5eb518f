"""Every error that Corolla raises on purpose. They carry data and a sentence; nothing here acts."""

from __future__ import annotations

from shared.types import BlockRange, PeerId


class CorollaError(Exception):
    """Root of the tree. Its text is written for the person who reads it: what is wrong, and what to do."""


class UsageError(CorollaError):
    """A flag, an environment variable or a state folder is wrong: the program ends with this sentence."""


class NotEnoughMemory(UsageError):
    """The blocks or ends asked for do not fit into the memory that is free."""


class CheckpointError(CorollaError):
    """A model cannot be found, read, downloaded or converted."""


class ModelNotFound(CheckpointError):
    """No such directory, file or hub repository."""


class ModelGated(CheckpointError):
    """The hub wants a token, or an accepted licence, for this model."""


class HubOffline(CheckpointError):
    """The hub cannot be reached, and what is needed is not in the cache."""


class DiskFull(CheckpointError):
    """There is no room left for the model's files."""


class UnsupportedFamily(CheckpointError):
    """The model's family is not among those that are known to split exactly."""


class ProtocolError(CorollaError):
    """The other side broke the protocol: what it sent cannot be accepted."""


class FrameError(ProtocolError):
    """A frame's lengths, message or tensors are malformed or over a limit."""


class BadIdentity(ProtocolError):
    """A certificate, a signature or a peer ID does not prove what it should."""


class VersionMismatch(ProtocolError):
    """No protocol version, or swarm name, in common."""


class Untimely(ProtocolError):
    """What was sent may have been right a moment before: the link ends, and its sender is not shunned for it."""


class IsShunned(ProtocolError):
    """Somebody broke the protocol lately, and is left alone for so many `seconds` more."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"you broke the protocol and are shunned: come back in {seconds:.0f} s")
        self.seconds = seconds


class Refused(ProtocolError):
    """The other side refuses this node."""


class LinkLost(CorollaError):
    """A link ended, or could not be made."""


class DeadlinePassed(CorollaError):
    """A remote wait took longer than its deadline."""


class OutOfCache(CorollaError):
    """A peer has too few free cache tokens for a reservation."""


class CacheFull(OutOfCache):
    """What is missing is held by other sessions now: it may become free."""


class QueueFull(CorollaError):
    """As many requests as the gateway lets wait for cache are waiting already."""


class QueueTimeout(CorollaError):
    """A request waited for cache as long as the gateway lets one wait."""


class CacheOverrun(CorollaError):
    """A session grew beyond what it reserved."""


class CropTooDeep(CorollaError):
    """A sliding layer no longer holds what a crop would need: the session's tokens must be replayed."""


class PositionGap(ProtocolError):
    """A step starts above the length of the cache: tokens between are missing."""


class HopFailed(CorollaError):
    """A hop of a chain failed; `peer` is the one at fault, `code` one word for programs.

    `teller` is the node that says so, None where this node has seen it itself.
    """

    def __init__(self, peer: PeerId, code: str, reason: str, teller: PeerId | None = None) -> None:
        super().__init__(reason)
        self.peer = peer
        self.code = code
        self.reason = reason
        self.teller = teller


class ChainLost(CorollaError):
    """A chain cannot be repaired hop by hop; another one over other spans may go on with its text."""


class NoRoute(CorollaError):
    """No spans of live peers cover all blocks; `hole` is the first range that none serves."""

    def __init__(self, model: str, hole: BlockRange | None) -> None:
        missing = f"blocks {hole} are served by no peer" if hole else "no peer has room for another session"
        super().__init__(f"{model}: {missing}")
        self.model = model
        self.hole = hole


class InvalidRequest(CorollaError):
    """A request cannot be served as it stands; `param` names the field at fault, `code` is one word for programs."""

    def __init__(self, reason: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(reason)
        self.param = param
        self.code = code


class GrammarFailed(CorollaError):
    """An answer can no longer be held to its grammar: following it became too costly, or nothing may come."""


class UnknownModel(CorollaError):
    """No model of this name is served here."""

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {model[:200]!r} is not served here: GET /v1/models lists those that are")
        self.model = model


class NotStored(CorollaError):
    """Nothing of this id is stored for whoever asks."""


class InvalidKey(CorollaError):
    """A request came without a key where one is needed, or with one that is none."""


class HostRefused(CorollaError):
    """A request called this gateway by a name that may be somebody else's."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"this gateway asks for no key, and so answers only under its own addresses and not as {name[:200]!r}: "
            "call it by its address, or start it with --host-name NAME or --require-keys"
        )


class TooManyRequests(CorollaError):
    """As many requests as the gateway answers at once are being answered."""


class RateLimited(CorollaError):
    """A key has used up what it may ask for in a minute; `kind` of it is `requests` or `tokens`."""

    def __init__(self, kind: str, per_minute: int, retry_after_s: float) -> None:
        super().__init__(f"this key may use {per_minute} {kind} a minute: try again in {retry_after_s:.1f} s")
        self.kind = kind
        self.retry_after_s = retry_after_s


class StoreUnavailable(CorollaError):
    """The gateway's database does not answer."""


class ShuttingDown(CorollaError):
    """The program ends, and with it what it was doing."""
