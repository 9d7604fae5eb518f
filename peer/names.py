"""A peer's default name: two words, the same for the same identity, that say nothing of its owner."""

from __future__ import annotations

import hashlib

from shared.types import PeerId

_FIRST = (
    "amber", "azure", "brave", "bright", "calm", "clear", "coral", "crisp", "dawn", "deep", "early", "fair",
    "fleet", "fresh", "gentle", "golden", "green", "hardy", "hazel", "ivory", "jade", "keen", "light", "lucid",
    "mellow", "noble", "olive", "pale", "proud", "quick", "quiet", "rapid", "rosy", "ruby", "sage", "scarlet",
    "silver", "steady", "still", "sunny", "swift", "tall", "tidy", "velvet", "vivid", "warm", "wild", "young",
)  # fmt: skip
_SECOND = (
    "acacia", "alder", "aster", "bellflower", "birch", "bluebell", "camellia", "cedar", "clover", "columbine",
    "cornflower", "crocus", "dahlia", "daisy", "fern", "foxglove", "gentian", "heather", "hyacinth", "iris",
    "jasmine", "juniper", "larch", "laurel", "lavender", "lilac", "lily", "linden", "lotus", "lupin", "magnolia",
    "maple", "marigold", "myrtle", "nettle", "orchid", "peony", "poppy", "primrose", "rowan", "saffron", "sorrel",
    "thistle", "thyme", "tulip", "verbena", "violet", "yarrow",
)  # fmt: skip


def default_name(peer: PeerId) -> str:
    """For example `quiet-larch`."""
    digest = hashlib.sha256(peer.encode()).digest()
    return f"{_FIRST[digest[0] % len(_FIRST)]}-{_SECOND[digest[1] % len(_SECOND)]}"
