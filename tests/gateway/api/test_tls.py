"""The gateway over TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from gateway.generation.completion import ServedModel
from tests.certificates import make_certificate
from tests.gateway.api.conftest import DEADLINE_S, MODEL, Board, Shelf, app_over, running


async def test_a_client_that_trusts_the_certificate_is_answered(model: ServedModel, tmp_path: Path):
    certificate, key = make_certificate(tmp_path)
    trusting = DefaultAsyncHttpxClient(verify=ssl.create_default_context(cafile=str(certificate)))
    app = app_over(Shelf(model), Board())
    async with running(app, ssl_certfile=certificate, ssl_keyfile=key) as server, trusting:
        url = f"https://localhost:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        client = AsyncOpenAI(base_url=url, api_key="none", http_client=trusting, max_retries=0, timeout=DEADLINE_S)
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=3, stream=True
        )
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason
