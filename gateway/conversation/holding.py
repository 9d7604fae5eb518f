"""How much of a text that comes in pieces must be held back until more of it is there."""

from __future__ import annotations

_MOST_SPACE = 200  # characters; so that a model that writes nothing but white space is still heard


def without_end_space(text: str) -> str:
    """Text but for the white space at its end, or but for the last of it where there is very much."""
    return text[: max(len(text.rstrip()), len(text) - _MOST_SPACE)]
