"""What goes wrong, and when: a plan drawn from a seed, and whom a fault may hit. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from shared.types import BlockRange

Kind = Literal["kill", "freeze", "restart", "drain", "slow", "unplug"]


@dataclass(frozen=True, slots=True)
class Nature:
    """How often a kind of fault comes, beside the others, and the seconds until it is undone: least and most."""

    weight: int
    lasts_s: tuple[float, float]


NATURES: Mapping[Kind, Nature] = {
    "kill": Nature(9, (0.5, 6)),  # -9, and after that time started again
    "freeze": Nature(4, (0.5, 10)),  # stopped, then continued: shorter and longer than what counts as lost
    "restart": Nature(2, (0, 0)),  # ended at once, started at once, under the same identity
    "drain": Nature(2, (0.5, 4)),  # leaves well; somebody else comes
    "slow": Nature(3, (4, 10)),  # stopped most of the time
    "unplug": Nature(4, (0.5, 10)),
}

SHORTEST, LONGEST = 0.4, 1.6
"""Between one fault and the next, of the mean time."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, `after_s` seconds after the one before, and is undone after `lasts_s` seconds.

    It hits the first place of `order` that may be hit. With no `spare` it hits all copies of that place's blocks.
    """

    number: int
    kind: Kind
    after_s: float
    lasts_s: float
    order: tuple[int, ...]
    spare: bool = True


def plan(seed: int, places: int, every_s: float, kinds: Collection[Kind], no_spare: float = 0.0) -> Iterator[Fault]:
    """Faults without end, one each `every_s` seconds on average, of which a share `no_spare` leaves no copy."""
    random = Random(f"faults {seed}")
    drawn: list[Kind] = [kind for kind in NATURES if kind in kinds]
    number = 0
    while True:
        kind = random.choices(drawn, [NATURES[each].weight for each in drawn])[0]
        yield Fault(
            number,
            kind,
            after_s=random.uniform(SHORTEST, LONGEST) * every_s,
            lasts_s=random.uniform(*NATURES[kind].lasts_s),
            order=tuple(random.sample(range(places), places)),
            spare=random.random() >= no_spare,
        )
        number += 1


def victims(fault: Fault, blocks: Sequence[BlockRange], sound: Collection[int]) -> list[int]:
    """The places that a fault hits, by what each place holds and which are sound; none while the rule forbids it.

    The rule: of the blocks of a place that is hit, another sound place has a copy. Only a fault without a spare breaks
    it, and that one comes alone, when every place is sound, so that it is all that its streams suffer from.
    """
    if not fault.spare:
        if len(sound) < len(blocks):
            return []
        return [place for place, held in enumerate(blocks) if held == blocks[fault.order[0]]]
    for place in fault.order:
        if place in sound and any(blocks[other] == blocks[place] for other in sound if other != place):
            return [place]
    return []
