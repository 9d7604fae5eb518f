"""`/`: a page for people who open the gateway's address in a browser."""

from __future__ import annotations

from importlib.resources import files

from fastapi import Response
from fastapi.responses import HTMLResponse

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'"


class FrontPage:
    """Handler of the front page, read once when the program starts."""

    def __init__(self) -> None:
        self._html = files("webui").joinpath("static", "index.html").read_text(encoding="utf-8")

    async def show(self) -> Response:
        return HTMLResponse(self._html, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"})
