from __future__ import annotations

import click
import pytest

from peer.__main__ import start
from peer.memory import GB, LEAST_TOKENS, TOKENS_LIMIT, MemoryCap, MemoryLimit, cache_tokens, outbox_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("8", 8 * GB), ("7.5GB", 7.5 * GB), ("0.25 gb", 0.25 * GB), ("50%", 10 * GB), ("100 %", 20 * GB)],
)
def test_a_cap_is_gigabytes_or_a_share_of_the_whole_device(text: str, size: float) -> None:
    assert MemoryCap.parse(text).size(20 * GB) == size


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1", "1e3", "8MB", "many", "nan", "9" * 400, "½", "٣"])
def test_a_cap_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="50%"):
        MemoryCap.parse(text)


def test_a_fifth_of_the_free_memory_is_left_alone_whatever_the_cap() -> None:
    assert MemoryLimit.of(10 * GB, 20 * GB, None).size == 8 * GB
    assert MemoryLimit.of(10 * GB, 20 * GB, MemoryCap.parse("75%")).size == 8 * GB
    capped = MemoryLimit.of(10 * GB, 20 * GB, MemoryCap.parse("30%"))
    assert (capped.size, capped.why) == (6 * GB, "--memory 30% allows 6.00 GB")


@pytest.mark.parametrize(
    ("left", "enough_bytes", "tokens"),
    [
        (100_000, 10**9, 10_000),  # all that is left
        (100_009, 10**9, 10_000),
        (10**9, 500_000, 50_000),  # no more than is of use
        (10**9, 20, LEAST_TOKENS),  # a model of tiny context
        (10**15, 10**15, TOKENS_LIMIT),
        (5_000, 10**9, 500),
        (-1, 10**9, 0),
    ],
)
def test_the_cache_takes_what_is_left_and_of_use(left: int, enough_bytes: int, tokens: int) -> None:
    assert cache_tokens(left, 10, enough_bytes) == tokens


def test_the_flags_are_parsed_from_words() -> None:
    def told(*flags: str) -> tuple[int | None, MemoryCap | None]:
        params = start.make_context("start", ["--model", "m", *flags]).params
        return params["cache_tokens"], params["memory"]

    assert told() == (None, None)
    assert told("--cache-tokens", "auto", "--memory", "50%") == (None, MemoryCap(50, "%"))
    assert told("--cache-tokens", "4096", "--memory", "7.5GB") == (4096, MemoryCap(7.5, "GB"))
    for flags in (("--memory", "150%"), ("--cache-tokens", "0"), ("--cache-tokens", "many")):
        with pytest.raises(click.BadParameter):
            told(*flags)


def test_outboxes_take_what_they_need_of_a_tenth_or_what_they_are_told() -> None:
    assert outbox_bytes(100 * GB, 200 * GB, GB, None) == GB
    assert outbox_bytes(100 * GB, 200 * GB, 50 * GB, None) == 10 * GB
    assert outbox_bytes(100 * GB, 200 * GB, GB, MemoryCap.parse("1%")) == 2 * GB
