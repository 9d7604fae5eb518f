"""Where the time of a step goes, from the counters on the gateway's `/metrics`: differences over a phase."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.client import Endpoint, EndpointFailed

STEP, TURN, ROWS = "corolla_step_seconds", "corolla_gateway_turn_seconds", "corolla_gateway_turn_rows"
QUEUE, FORWARD = "corolla_hop_queue_seconds", "corolla_hop_forward_seconds"


@dataclass(frozen=True, slots=True)
class Spent:
    """What a histogram or summary counts: seconds (or rows) in all, over so many times."""

    total: float = 0.0
    times: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.total + other.total, self.times + other.times)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.total - other.total, self.times - other.times)

    @property
    def mean(self) -> float:
        return self.total / self.times if self.times else 0.0


Counters = Mapping[tuple[str, str], Spent]
"""By the counter's name and its label `peer`, empty where it has none."""


@dataclass(frozen=True, slots=True)
class HopTrace:
    """One hop's frames: how many, the seconds they waited for their turn, and the seconds of their forwards."""

    blocks: str
    queue: Spent
    forward: Spent


@dataclass(frozen=True, slots=True)
class Trace:
    """What a phase has spent. `step` is from pushing a token into the chain to its output, `turn` the gateway's own
    embeddings, heads and sampling, and `rows` how many streams shared such a turn."""

    step: Spent
    turn: Spent
    rows: Spent
    hops: list[HopTrace]

    @property
    def hops_s(self) -> float:
        """Mean seconds of a step in the hops' queues and forwards."""
        return sum(hop.queue.mean + hop.forward.mean for hop in self.hops)

    @property
    def wire_s(self) -> float:
        """What is left of a step: links, event loops and codecs of all nodes on its way."""
        return self.step.mean - self.hops_s


class Tracer:
    """Reads the counters of a gateway, and names its peers by their blocks."""

    def __init__(self, endpoint: Endpoint, blocks: dict[str, str]) -> None:
        self._endpoint = endpoint
        self._blocks = blocks

    @classmethod
    async def of(cls, endpoint: Endpoint) -> Tracer | None:
        """None where there are no such counters."""
        counters, swarm = await endpoint.http.get("/metrics"), await endpoint.http.get("/swarm")
        if not (counters.is_success and swarm.is_success):
            return None
        of_model = [peer for peer in swarm.json()["peers"] if peer["model"] == endpoint.model]
        in_order = sorted(of_model, key=lambda peer: peer["blocks"])
        return cls(endpoint, {peer["peer"]: "{}:{}".format(*peer["blocks"]) for peer in in_order})

    async def read(self) -> Counters:
        response = await self._endpoint.http.get("/metrics")
        if not response.is_success:
            raise EndpointFailed(f"{response.url} answered {response.status_code}")
        return parse_counters(response.text)

    def between(self, before: Counters, after: Counters) -> Trace:
        """What was spent between two readings, by all that went through the gateway meanwhile."""

        def spent(name: str, peer: str = "") -> Spent:
            return after.get((name, peer), Spent()) - before.get((name, peer), Spent())

        hops = [HopTrace(blocks, spent(QUEUE, peer), spent(FORWARD, peer)) for peer, blocks in self._blocks.items()]
        return Trace(spent(STEP), spent(TURN), spent(ROWS), [hop for hop in hops if hop.forward.times])


def percentiles(text: str, name: str) -> dict[str, float]:
    """Of a histogram in Prometheus' text format, over all its labels: how many `times`, `p50` and `p99`, each as the
    bound of its bucket. Empty where there is none."""
    counts: Counter[float] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{name}_bucket":
                counts[float(sample.labels["le"])] += int(sample.value)
    times = counts[math.inf]
    marks = {"p50": 0.5, "p99": 0.99} if times else {}
    bounds = {mark: min(at for at, below in counts.items() if below >= share * times) for mark, share in marks.items()}
    return {"times": times, **bounds} if times else {}


def parse_counters(text: str) -> Counters:
    """Prometheus' text format to sums and counts; labels other than `peer` are added up."""
    found: dict[tuple[str, str], Spent] = defaultdict(Spent)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = family.name, sample.labels.get("peer", "")
            if sample.name == f"{family.name}_sum":
                found[key] += Spent(total=sample.value)
            elif sample.name == f"{family.name}_count":
                found[key] += Spent(times=sample.value)
    return dict(found)
