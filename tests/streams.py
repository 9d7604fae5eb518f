"""A streamed answer, read while it comes: its token ids, when they came, and how it ended."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx

SILENCE_S = 20.0  # a gateway that waits says so by comments more often
LIMIT_S = 90.0  # no test's answer takes so long, not even one that waits for a peer


class Stream:
    """One request for a stream, read by a thread of its own. `error` is what it ended with; None after `[DONE]`."""

    def __init__(self, url: str, **body: Any) -> None:
        self.prompt: list[int] = []
        self.ids: list[int] = []
        self.error: dict[str, Any] | None = {"message": "the stream has not ended"}
        self.comments = 0
        self._came_at = [time.monotonic()]
        self._news = threading.Condition()
        self._ended = False
        self._url = url
        self._body = {**body, "stream": True, "return_token_ids": True}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def longest_pause(self) -> float:
        """The longest time that the client saw no new token, in seconds; that to the first one counts too."""
        return max(later - earlier for earlier, later in zip(self._came_at, self._came_at[1:], strict=False))

    def until(self, tokens: int, timeout_s: float = LIMIT_S) -> None:
        """Return when so many tokens have come. AssertionError when it ends before, or takes too long."""
        with self._news:
            self._news.wait_for(lambda: len(self.ids) >= tokens or self._ended, timeout_s)
            assert len(self.ids) >= tokens, f"{len(self.ids)} of {tokens} tokens came; {self.error}"

    def finish(self) -> None:
        """Return when the stream has ended."""
        self._reader.join(LIMIT_S)
        assert not self._reader.is_alive(), f"it hangs after {len(self.ids)} tokens"

    def _read(self) -> None:
        try:
            with httpx.stream(
                "POST", f"{self._url}/v1/chat/completions", json=self._body, timeout=SILENCE_S
            ) as response:
                if response.status_code != 200:
                    self.error = json.loads(response.read())["error"]
                else:
                    self._read_events(response)
        except httpx.HTTPError as error:
            self.error = {"message": f"the connection failed: {error!r}"}
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()

    def _read_events(self, response: httpx.Response) -> None:
        for line in response.iter_lines():
            self.comments += line.startswith(":")
            data = line.removeprefix("data: ") if line.startswith("data: ") else ""
            if data == "[DONE]":
                self.error = None
            elif data:
                self._take(json.loads(data))

    def _take(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self.error = chunk["error"]
            return
        self.prompt = chunk.get("prompt_token_ids", self.prompt)
        ids = [token for choice in chunk["choices"] for token in choice["token_ids"]]
        with self._news:
            self.ids += ids
            self._came_at += [time.monotonic()] if ids else []
            self._news.notify_all()
