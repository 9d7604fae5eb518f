"""A node's state folder, which one process uses at a time."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from shared.errors import UsageError
from shared.identity import Identity


class StateFolder:
    """A locked folder that holds the node's identity. Raises UsageError when another process has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = FileLock(path / "lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                f"{path} is in use by another process: pass --state-dir with another folder to run a second one"
            ) from error
        except OSError as error:
            raise UsageError(
                f"{path} cannot be used as the state folder: {error.strerror}; pass --state-dir"
            ) from error

    def identity(self) -> Identity:
        """The node's identity, made at first use."""
        return Identity.load_or_create(self.path / "identity.key")
