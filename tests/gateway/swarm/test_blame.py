from __future__ import annotations

import pytest

from gateway.swarm.blame import Blame, blame_for
from shared.errors import HopFailed
from shared.types import PeerId

ANN, EVE = PeerId("ann"), PeerId("eve")


def blame(code: str, teller: PeerId | None = None) -> Blame | None:
    return blame_for(HopFailed(EVE, code, "x", teller))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("not_finite", "not_finite"),
        ("protocol", "protocol"),
        ("wrong_model", "false_claim"),
        ("wrong_blocks", "false_claim"),
        ("deadline", "failed"),
        ("forward", "failed"),
        ("refused", "failed"),
    ],
)
@pytest.mark.parametrize("teller", [None, EVE])
def test_what_a_hop_did_or_says_of_itself_is_grave(code: str, kind: str, teller: PeerId | None) -> None:
    assert blame(code, teller) == Blame(frozenset({EVE}), kind, grave=True)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("code", ["out_of_cache", "cache_overrun", "leaving", "draining", "closed", "stale"])
@pytest.mark.parametrize("teller", [None, EVE, ANN])
def test_nobody_is_blamed_for_what_may_happen_to_anybody(code: str, teller: PeerId | None) -> None:
    assert blame(code, teller) is None


@pytest.mark.parametrize("code", ["lost", "edge_lost", "unreachable", "unheard of"])
def test_what_may_be_nobodys_fault_is_slight_and_no_other_hops_word_counts(code: str) -> None:
    assert blame(code) == Blame(frozenset({EVE}), "failed", grave=False)
    assert blame(code, ANN) is None


@pytest.mark.parametrize("code", ["not_finite", "protocol"])
def test_what_one_hop_says_of_anothers_bytes_stands_against_both(code: str) -> None:
    told = blame(code, ANN)
    assert told
    assert (told.peers, told.grave) == ({ANN, EVE}, True)


@pytest.mark.parametrize("code", ["deadline", "refused"])
def test_a_hop_that_says_that_another_failed_it_is_held_against_both_when_it_happens_often(code: str) -> None:
    assert blame(code, ANN) == Blame(frozenset({ANN, EVE}), "failed", grave=False)


@pytest.mark.parametrize(("teller", "peers"), [(None, {EVE}), (ANN, {ANN, EVE})])
def test_a_gap_may_be_left_by_orders_that_were_overtaken(teller: PeerId | None, peers: set[PeerId]) -> None:
    assert blame("gap", teller) == Blame(frozenset(peers), "protocol", grave=False)
