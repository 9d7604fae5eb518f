"""`gateway keys` beside a gateway that runs, and what a gateway says of keys and certificates at its start."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.certificates import make_certificate
from tests.swarm import PROGRAMS, Node, Swarm, environment, free_port, running_swarm
from tests.tiny_models import make_tiny_model

MODEL = "tests/Tiny"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0}


def keys(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [PROGRAMS / "gateway", "keys", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=2)


@pytest.fixture(scope="module")
def swarm(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Reachable by others, and so with keys; its peer joins by the URL, without one."""
    with running_swarm(tmp_path_factory.mktemp("swarm"), {MODEL: model}, "--host", "0.0.0.0") as swarm:
        swarm.add_peer("0:2").ready()
        swarm.gateway.ready()
        yield swarm


@pytest.fixture(scope="module")
def state(swarm: Swarm) -> Path:
    return swarm.folder / "state-0"


@pytest.mark.slow
def test_a_key_is_made_used_listed_and_revoked_while_the_gateway_runs(swarm: Swarm, state: Path) -> None:
    made = keys("create", "--name", "laptop", "--requests-per-minute", "100", "--state-dir", state)
    secret = made.stdout.strip()
    assert secret.startswith("sk-corolla-")
    headers = {"Authorization": f"Bearer {secret}"}
    answer = httpx.post(f"{swarm.url}/v1/chat/completions", json=ASKED, headers=headers, timeout=60)
    assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, "99")
    listed = keys("list", "--state-dir", state).stdout
    assert "laptop" in listed
    assert secret not in listed
    id = next(word for word in listed.split() if word.startswith("key_"))
    assert keys("revoke", id, "--state-dir", state).returncode == 0
    swarm.wait_for(lambda: httpx.get(f"{swarm.url}/v1/models", headers=headers).status_code == 401, 5)
    assert "there is no key" in keys("revoke", id, "--state-dir", state).stderr
    assert not any(secret in line for node in swarm.nodes for line in node.errors)


@pytest.mark.slow
def test_nothing_but_health_and_the_page_is_open(swarm: Swarm) -> None:
    statuses = {path: swarm.client.get(path).status_code for path in ("/", "/health", "/metrics", "/swarm")}
    assert statuses == {"/": 200, "/health": 200, "/metrics": 401, "/swarm": 401}
    assert any("gateway keys create" in line for line in swarm.gateway.errors)


@pytest.mark.slow
def test_a_gateway_with_a_certificate_speaks_https_and_keeps_what_was_used(model: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    flags = ("--tls-cert", str(certificate), "--tls-key", str(key), "--require-keys")
    with running_swarm(tmp_path, {MODEL: model}, *flags) as swarm:
        secret = keys("create", "--state-dir", tmp_path / "state-0").stdout.strip()
        client = httpx.Client(
            base_url=f"https://127.0.0.1:{swarm.port}",
            verify=ssl.create_default_context(cafile=str(certificate)),
            headers={"Authorization": f"Bearer {secret}"},
            timeout=60,
        )
        swarm.wait_for(lambda: _answers(client))
        swarm.add_peer("0:2", join=client.get("/health").json()["join"][0]).ready()
        assert swarm.gateway.ready()[1] == f"https://127.0.0.1:{swarm.port}/v1"
        usage = client.post("/v1/chat/completions", json=ASKED).json()["usage"]
        assert swarm.gateway.stop() == 0
    row = keys("usage", "--state-dir", tmp_path / "state-0").stdout.splitlines()[1].split()
    assert row[2:] == ["1", str(usage["prompt_tokens"]), str(usage["completion_tokens"]), MODEL]


def _answers(client: httpx.Client) -> bool:
    try:
        return bool(client.get("/health"))
    except httpx.TransportError:
        return False


def test_a_database_that_cannot_be_used_is_told_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://user:s3cret@127.0.0.1:1/name"
    gateway = Node("gateway", "start", "--database", url, "--state-dir", tmp_path, "--port", str(free_port()))
    assert gateway.wait(60) != 0
    for said in ("\n".join(gateway.errors), keys("list", "--database", url).stderr):
        assert "cannot be used" in said
        assert "Traceback" not in said
        assert "s3cret" not in said
