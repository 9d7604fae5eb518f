"""What a hub's refusals and failures mean for the person who asked for a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)

from shared.errors import CheckpointError, HubOffline, ModelGated, ModelNotFound

_LIBRARY_ERRORS = (
    HfHubHTTPError,
    HFValidationError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    SafetensorsParsingError,
    httpx2.HTTPError,
)


@contextmanager
def asking_hub(endpoint: str, repository: str) -> Iterator[None]:
    """Turns the hub library's errors into ours, each a sentence that says what to do."""
    try:
        yield
    except _LIBRARY_ERRORS as error:
        raise _explained(error, endpoint, repository) from error


def _explained(error: Exception, endpoint: str, repository: str) -> CheckpointError:
    page = f"{endpoint}/{repository}"
    if isinstance(error, GatedRepoError):
        return ModelGated(f"{repository} is gated: accept its terms at {page}, then set HF_TOKEN to your access token")
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFound(f"{repository} has no such revision: see {page}/tree/main for its branches and tags")
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return ModelNotFound(
            f"there is no directory {repository}, and {endpoint} has no such model that you may see: check the "
            "spelling (ORG/NAME); for a private model set HF_TOKEN"
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return CheckpointError(f"a file of {repository} has vanished from {endpoint}: start again")
    if isinstance(error, (NotASafetensorsRepoError, SafetensorsParsingError)):
        return CheckpointError(f"a shard of {repository} on {endpoint} is not a safetensors file: {error}")
    return _unreachable(error, endpoint, repository)


def _unreachable(error: Exception, endpoint: str, repository: str) -> CheckpointError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        return ModelGated(f"{endpoint} refuses {repository} ({status}): check that HF_TOKEN is valid and may read it")
    reason = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else str(error).strip() or repr(error)
    return HubOffline(
        f"{endpoint} cannot be reached, and {repository} is not whole in the cache ({reason}): "
        "connect, or pass --model with a local directory"
    )
