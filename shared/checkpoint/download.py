"""One file over HTTP, kept while it grows: a later try, by any process, goes on where the last one was cut off.

The hub library's own downloads (as of 2.4) start afresh in each process and throw away what was cut off, which for a
shard of some gigabytes over a home connection is an hour. Its client, headers and back-off are used here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx2
from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

from shared.checkpoint.progress import Advance

logger = logging.getLogger(__name__)

FRUITLESS_TRIES = 5  # in a row, before a connection that keeps failing is given up
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Download:
    """A file to come: what grows beside `target` bears the `version`, so that two versions are never mixed."""

    url: str
    headers: Mapping[str, str]
    target: Path
    size: int
    version: str

    @property
    def partial(self) -> Path:
        return self.target.with_name(f".{self.target.name}.{self.version}.partial")

    @property
    def received_bytes(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0


def receive(download: Download, advance: Advance) -> None:
    """Fetches the rest of the file and renames it into place; its hash is the caller's to check.

    Raises the hub library's errors, httpx2's when the connection fails again and again, OSError.
    """
    failures = 0
    download.partial.touch()
    while (before := download.received_bytes) < download.size:
        cut = httpx2.ReadError("the server sent nothing")
        try:
            _receive_rest(download, advance)
        except httpx2.TransportError as error:
            cut = error
        if download.received_bytes >= download.size:
            break
        failures = 1 if download.received_bytes > before else failures + 1
        if failures == FRUITLESS_TRIES:
            raise cut
        logger.info("%s was cut off (%s), going on", download.target.name, cut)
        time.sleep(min(0.25 * 2**failures, 8.0))
    download.partial.replace(download.target)


def _receive_rest(download: Download, advance: Advance) -> None:
    with download.partial.open("ab") as file:
        start = file.tell()
        headers = {**download.headers, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with http_stream_backoff(
            "GET", download.url, headers=headers, timeout=TIMEOUT_S, retry_on_exceptions=()
        ) as response:
            hf_raise_for_status(response)
            if start and response.status_code != httpx2.codes.PARTIAL_CONTENT:
                _start_afresh(file, start, advance)
            _write(response, file, download.size, advance)


def _start_afresh(file: BinaryIO, start: int, advance: Advance) -> None:
    """The server knows no ranges and sends the file from its beginning."""
    file.seek(0)
    file.truncate()
    advance(-start)


def _write(response: httpx2.Response, file: BinaryIO, size: int, advance: Advance) -> None:
    for chunk in response.iter_bytes():  # as they arrive: what gathers in memory would be lost with the connection
        if file.tell() + len(chunk) > size:
            raise httpx2.RemoteProtocolError(f"the server sends more than the {size:,} bytes that it lists")
        file.write(chunk)
        advance(len(chunk))
