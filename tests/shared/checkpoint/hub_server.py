"""A hub on loopback: serves folders the way huggingface_hub's client expects, and can refuse or cut off on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_INFO = re.compile(r"/api/models/(?P<id>[^/]+/[^/?]+)(/revision/(?P<revision>[^?]+))?")
_RESOLVE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>[^/?]+)")
_STORAGE = re.compile(r"/storage/(?P<id>[^/]+/[^/]+)/(?P<file>[^/?]+)")
TOKEN = "hf_admitted"


@dataclass
class Hub:
    """What is served, and what was asked for: each file with its Range header, in order; `leaks` must stay empty.

    Like the real one it sends whoever asks for a shard on to a storage host, which must not be told the token.
    """

    models: dict[str, Path]
    endpoint: str = ""
    gated: bool = False
    knows_ranges: bool = True
    cut_at: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    def fetched(self) -> set[str]:
        """Files whose bytes were asked for, header reads aside."""
        return {file for file, range_ in self.asked if range_ != "bytes=0-100000"}


@contextmanager
def serve_hub(**models: Path) -> Iterator[Hub]:
    """A hub with `tiny__llama=folder` as the model `tiny/llama`."""
    hub = Hub({name.replace("__", "/"): folder for name, folder in models.items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests read `hub.asked`."""

    def do_GET(self) -> None:
        if info := _INFO.match(self.path):
            self._answer_info(info["id"], info["revision"])
        elif file := _RESOLVE.match(self.path):
            self._resolve(file["id"], file["file"])
        elif file := _STORAGE.match(self.path):
            self.hub.leaks.extend(self.headers.get_all("Authorization", []))
            self._answer_file(file["id"], file["file"])
        else:
            self._refuse(404, "EntryNotFound")

    def _answer_info(self, model: str, revision: str | None) -> None:
        if model not in self.hub.models:
            return self._refuse(404, "RepoNotFound")
        if revision not in (None, "main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        siblings = [_sibling(path) for path in sorted(self.hub.models[model].iterdir())]
        body = json.dumps({"id": model, "sha": COMMIT, "siblings": siblings}).encode()
        return self._send(200, {"Content-Type": "application/json"}, body)

    def _resolve(self, model: str, name: str) -> None:
        if self.hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(403, "GatedRepo")
        if not name.endswith(".safetensors"):
            return self._answer_file(model, name)
        storage = self.hub.endpoint.replace("127.0.0.1", "localhost")
        return self._send(302, {"Location": f"{storage}/storage/{model}/{name}", "X-Repo-Commit": COMMIT}, b"")

    def _answer_file(self, model: str, name: str) -> None:
        asked_range = self.headers.get("Range")
        self.hub.asked.append((name, asked_range))
        content = (self.hub.models[model] / name).read_bytes()
        asked_range = asked_range if self.hub.knows_ranges else None
        start, end = _span(asked_range, len(content))
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        self._send(206 if asked_range else 200, headers, content[start:end], self.hub.cut_at.pop(name, None))

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, {"X-Error-Code": code}, b"")

    def _send(self, status: int, headers: dict[str, str], body: bytes, cut_at: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut_at])
        self.close_connection = cut_at is not None


def _sibling(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    entry: dict[str, Any] = {"rfilename": path.name, "size": len(content)}
    if path.suffix == ".safetensors":
        sha256 = hashlib.sha256(content).hexdigest()
        return {**entry, "blobId": "0" * 40, "lfs": {"size": len(content), "sha256": sha256, "pointerSize": 134}}
    blob = b"blob %d\0" % len(content) + content
    return {**entry, "blobId": hashlib.sha1(blob, usedforsecurity=False).hexdigest()}


def _span(asked: str | None, size: int) -> tuple[int, int]:
    if asked is None:
        return 0, size
    first, last = asked.removeprefix("bytes=").split("-")
    return int(first), min(int(last) + 1, size) if last else size
