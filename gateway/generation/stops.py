"""Stop strings in text that arrives in pieces."""

from __future__ import annotations


class StopStrings:
    """Passes text on up to the first stop string. What may be the start of one is held back until that is decided.

    `found` is True once a stop string has come; neither it nor what follows is ever given out.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        assert all(stops), "an empty stop string would end every text"
        self._stops = stops
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """The text that is safe to give out now."""
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:  # the first to be complete decides, so that it does not matter how the text was cut into pieces
            self.found, self._held = True, ""
            return text[: min(found)[1]]
        safe = len(text) - max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """What is still held back; for the end of the text."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that is a beginning of `mark`, and not all of it."""
    longest = min(len(text), len(mark) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(mark[:size])), 0)
