"""Counters of real processes: what a gateway and a peer tell Prometheus of an answer."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.swarm import free_port, running_swarm
from tests.tiny_models import make_tiny_model

PROMPT = "Tell me about petals. " * 20
TOKENS = 40


def scraped(url: str) -> dict[str, float]:
    """Sums of all samples of one name, whatever their labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


@pytest.mark.slow
def test_an_answer_is_counted_by_everyone_who_worked_on_it(tmp_path: Path) -> None:
    model, port = make_tiny_model(tmp_path / "model", blocks=2, seed=3, context=2048), str(free_port())
    with running_swarm(tmp_path, {"tiny": model}) as swarm:
        peer = swarm.add_peer("0:2", "--metrics-port", port).ready()[1]
        swarm.gateway.ready()
        body = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": TOKENS, "seed": 1}
        usage = swarm.client.post("/v1/chat/completions", json=body).json()["usage"]
        gateway, holder = scraped(swarm.url), scraped(f"http://127.0.0.1:{port}")
        assert f'corolla_hop_forward_seconds_count{{peer="{peer}"}}' in swarm.client.get("/metrics").text
    assert gateway["corolla_completion_tokens_total"] == usage["completion_tokens"] > 5
    assert gateway["corolla_gateway_turn_rows_sum"] == usage["completion_tokens"]
    assert gateway["corolla_step_seconds_count"] == usage["completion_tokens"] - 1
    assert min(gateway["corolla_step_seconds_sum"], gateway["corolla_gateway_turn_seconds_sum"]) > 0
    assert gateway["corolla_queue_wait_seconds_count"] == 1
    assert holder["corolla_peer_tokens_total"] == usage["total_tokens"] - 1  # the last token goes nowhere
    assert holder["corolla_peer_forward_seconds_count"] >= usage["completion_tokens"]
    assert holder["corolla_peer_wire_bytes_total"] > 2 * usage["total_tokens"] * 64 * 2
