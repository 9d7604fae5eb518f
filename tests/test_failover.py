"""Peers that are killed, frozen or sent away while a stream runs: it pauses, and not one token is lost or wrong."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.teacher import EPSILON, Teacher
from gateway.generation.sampling import SamplingParams
from tests.streams import Stream
from tests.swarm import READY_S, Swarm, free_port, running_swarm
from tests.tiny_models import make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]  # the first test starts seven processes

MODEL = "tiny"
HOPS = FIRST, MIDDLE, LAST = "0:2", "2:4", "4:6"
PAUSE_S = 10.0
FREE_S = 10.0  # a peer that was frozen frees what its gateway has stopped to name for 15 s
MARGIN = 1e-4  # a token that is less ahead of the second best may change with the order of additions
PREFILL = 0  # tokens that have come when a fault falls into the prefill
IN_PREFILL = 512  # tokens of a prompt that a hop has run by then

GREEDY = SamplingParams(temperature=0, top_p=1, top_k=0, seed=0, max_tokens=300, stop_ids=frozenset())
SAMPLED = SamplingParams(temperature=1, top_p=1, top_k=0, seed=7, max_tokens=100, stop_ids=frozenset())
SHORT_PROMPT = "Tell me about petals."
_letters = random.Random(1)
LONG_PROMPT = " ".join("".join(_letters.choices("aeioulnrst", k=_letters.randint(2, 8))) for _ in range(800))


def request(prompt: str, params: SamplingParams) -> dict[str, Any]:
    sampling = {"temperature": params.temperature, "seed": params.seed, "max_tokens": params.max_tokens}
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **sampling}


class Copy:
    """A peer that holds one range of the model, as others do."""

    def __init__(self, swarm: Swarm, blocks: str, number: int) -> None:
        self.blocks, self.name = blocks, f"copy-{number}"
        self._told_to_leave = False
        port = free_port()
        self._metrics = f"http://127.0.0.1:{port}/metrics"
        self.node = swarm.add_peer(blocks, "--name", self.name, "--metrics-port", str(port), "--cache-tokens", "65536")

    @property
    def stays(self) -> bool:
        return self.node.process.poll() is None and not self._told_to_leave

    def signal(self, number: signal.Signals) -> None:
        self._told_to_leave |= number == signal.SIGTERM
        self.node.process.send_signal(number)

    def prefilled(self) -> float:
        """Tokens of prompts that have been through its blocks since it started."""
        lines = httpx.get(self._metrics).text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith('corolla_peer_tokens_total{work="pre'))


class Copies:
    """At least two peers for each range: whoever is used by a session has a spare, and who ends is replaced."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._all: list[Copy] = []

    def of(self, *hops: str) -> list[Copy]:
        return [copy for copy in self._all if copy.blocks in hops and copy.stays]

    def replace(self) -> None:
        """Start a peer for each one that is missing, and wait for none."""
        for hop in HOPS:
            for _ in range(2 - len(self.of(hop))):
                self.add(hop)

    def add(self, hop: str) -> None:
        self._all.append(Copy(self._swarm, hop, len(self._all)))

    def until_spared(self, *hops: str, copies: int = 2) -> None:
        """Return when the gateway has links to so many peers for each of these ranges."""
        self._swarm.wait_for(lambda: all(len(self._shown(hop)) >= copies for hop in hops), READY_S)

    def in_use(self, hop: str) -> Copy:
        """The peer that runs a session's blocks."""
        self._swarm.wait_for(lambda: any(each["sessions"] for each in self._shown(hop).values()), 20)
        shown = self._shown(hop)
        return next(copy for copy in self.of(hop) if shown.get(copy.name, {}).get("sessions"))

    def _shown(self, hop: str) -> dict[str, dict[str, Any]]:
        """What the gateway shows of living peers that it is linked to, by name."""
        living = {copy.name for copy in self.of(hop)}
        peers = [each for each in self._swarm.peers() if each["name"] in living and each["state"] == "online"]
        return {each["name"]: each for each in peers if each["free_cache_tokens"] is not None}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=6, seed=1, context=8192)


@pytest.fixture(scope="module")
def teacher(directory: Path) -> Teacher:
    return Teacher(directory)


@pytest.fixture(scope="module")
def swarm(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with running_swarm(tmp_path_factory.mktemp("swarm"), {MODEL: directory}) as swarm:
        swarm.until_listening()
        yield swarm


@pytest.fixture(scope="module")
def all_copies(swarm: Swarm) -> Copies:
    copies = Copies(swarm)
    copies.replace()
    copies.until_spared(*HOPS)
    return copies


@pytest.fixture
def copies(swarm: Swarm, all_copies: Copies) -> Copies:
    """The peers of all tests, idle. Those that one test has ended start again while the next one runs."""
    for copy in all_copies.of(*HOPS):
        copy.signal(signal.SIGCONT)
    all_copies.replace()
    swarm.wait_for(swarm.all_cache_free)
    return all_copies


@pytest.fixture(scope="module")
def undisturbed(swarm: Swarm, all_copies: Copies, teacher: Teacher) -> dict[str, list[int]]:
    """What is answered when nothing happens: by float32 and these margins, what is always answered."""
    answers = {}
    for prompt, params in ((SHORT_PROMPT, GREEDY), (LONG_PROMPT, SAMPLED)):
        stream = Stream(swarm.url, **request(prompt, params))
        stream.finish()
        assert stream.error is None
        verdict = teacher.judge(stream.prompt, stream.ids, params)
        assert verdict.worst == 0
        assert verdict.margin > MARGIN
        assert len(stream.ids) == params.max_tokens, "choose a prompt or a seed that does not end early"
        answers[prompt] = stream.ids
    return answers


class Trial:
    """One stream, and what must be true of it whatever happens to peers."""

    def __init__(self, swarm: Swarm, teacher: Teacher, undisturbed: dict[str, list[int]]) -> None:
        self._swarm = swarm
        self._teacher = teacher
        self._undisturbed = undisturbed

    def begin(self, prompt: str = SHORT_PROMPT, params: SamplingParams = GREEDY, url: str | None = None) -> Stream:
        self._prompt, self._params = prompt, params
        self.stream = Stream(url or self._swarm.url, **request(prompt, params))
        return self.stream

    def until(self, moment: int, hop: Copy) -> None:
        """Return when so many tokens have come; for PREFILL, when `hop` has run some of the prompt and not all."""
        if moment == PREFILL:
            before = hop.prefilled()
            self._swarm.wait_for(lambda: hop.prefilled() >= before + IN_PREFILL)
            assert not self.stream.ids, "the prefill was over too soon"
        self.stream.until(moment)

    def passes(self, pause_s: float = PAUSE_S) -> None:
        """The stream ends in good order, with the right tokens, without a long pause; and every cache is free."""
        self.stream.finish()
        assert self.stream.error is None
        assert len(self.stream.ids) == self._params.max_tokens
        assert self._teacher.judge(self.stream.prompt, self.stream.ids, self._params).worst < EPSILON
        assert self.stream.ids == self._undisturbed[self._prompt]
        assert self.stream.longest_pause < pause_s
        self._swarm.wait_for(self._swarm.all_cache_free, FREE_S)


@pytest.fixture
def trial(swarm: Swarm, teacher: Teacher, undisturbed: dict[str, list[int]]) -> Trial:
    return Trial(swarm, teacher, undisturbed)


def prompt_for(moment: int) -> tuple[str, SamplingParams]:
    return (LONG_PROMPT, SAMPLED) if moment == PREFILL else (SHORT_PROMPT, GREEDY)


@pytest.mark.parametrize("hop", HOPS)
@pytest.mark.parametrize("moment", [PREFILL, 1, 50])
def test_a_killed_hop_costs_a_pause_and_no_token(copies: Copies, trial: Trial, hop: str, moment: int) -> None:
    copies.until_spared(hop)
    trial.begin(*prompt_for(moment))
    victim = copies.in_use(hop)
    trial.until(moment, victim)
    victim.node.kill()
    trial.passes()


@pytest.mark.parametrize("hop", HOPS)
def test_a_frozen_hop_is_replaced_and_changes_nothing_when_it_wakes(copies: Copies, trial: Trial, hop: str) -> None:
    copies.until_spared(hop)
    stream = trial.begin()
    victim = copies.in_use(hop)
    trial.until(50, victim)
    victim.signal(signal.SIGSTOP)
    stream.until(len(stream.ids) + 60)  # more than were on their way
    victim.signal(signal.SIGCONT)
    trial.passes()
    copies.until_spared(hop)


@pytest.mark.parametrize("hop", HOPS)
def test_a_hop_that_is_told_to_leave_hands_its_session_over(copies: Copies, trial: Trial, hop: str) -> None:
    copies.until_spared(hop)
    trial.begin()
    victim = copies.in_use(hop)
    trial.until(50, victim)
    victim.signal(signal.SIGTERM)
    copies.in_use(hop)  # another one
    trial.passes()
    assert victim.node.wait(20) == 0


@pytest.mark.parametrize("hops", [(FIRST, LAST), (MIDDLE, LAST)])
def test_two_hops_at_once_are_replaced(copies: Copies, trial: Trial, hops: tuple[str, str]) -> None:
    copies.until_spared(*hops)
    trial.begin()
    victims = [copies.in_use(hop) for hop in hops]
    trial.until(50, victims[0])
    for victim in victims:
        victim.signal(signal.SIGKILL)
    trial.passes()


def test_a_replacement_that_dies_during_recovery_is_replaced_itself(copies: Copies, trial: Trial) -> None:
    copies.add(MIDDLE)
    copies.until_spared(MIDDLE, copies=3)
    trial.begin(LONG_PROMPT, SAMPLED)  # whose replay takes a while
    victim = copies.in_use(MIDDLE)
    trial.until(1, victim)
    victim.node.kill()
    copies.in_use(MIDDLE).node.kill()
    trial.passes()


def test_without_a_spare_a_stream_waits_for_a_new_peer_or_ends_saying_what_is_missing(
    swarm: Swarm, copies: Copies, trial: Trial
) -> None:
    impatient, url = swarm.add_gateway("--wait-for-coverage", "2")
    impatient.ready()
    copies.until_spared(*HOPS)
    streams = Stream(url, **request(SHORT_PROMPT, GREEDY)), trial.begin()
    for stream in streams:
        stream.until(20)
    for copy in copies.of(MIDDLE):
        copy.node.kill()
    killed_at = time.monotonic()
    copies.replace()
    streams[0].finish()
    assert time.monotonic() - killed_at < 2 + PAUSE_S / 2
    assert streams[0].error
    assert MIDDLE in streams[0].error["message"]
    trial.passes(pause_s=40)
    assert impatient.stop() == 0


def test_a_stream_that_waits_for_a_peer_is_kept_alive_by_comments(swarm: Swarm, copies: Copies, trial: Trial) -> None:
    copies.until_spared(*HOPS)
    stream = trial.begin()
    stream.until(20)
    for copy in copies.of(FIRST):
        copy.node.kill()
    swarm.wait_for(lambda: stream.comments, 20)
    copies.replace()
    trial.passes(pause_s=40)
