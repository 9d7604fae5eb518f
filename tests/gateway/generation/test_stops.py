"""Stop strings across the borders of pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.generation.stops import StopStrings


def run(stops: tuple[str, ...], parts: list[str]) -> tuple[list[str], bool]:
    """What was given out part by part (with the flush, if none was found), and whether one was found."""
    matcher, given_out = StopStrings(stops), []
    for part in parts:
        given_out.append(matcher.feed(part))
        if matcher.found:
            return given_out, True
    return [*given_out, matcher.flush()], False


@pytest.mark.parametrize(
    ("stops", "parts", "expected", "found"),
    [
        ((), ["a", "b"], ["a", "b", ""], False),
        (("END",), ["say EN", "D now"], ["say ", ""], True),
        (("END",), ["say EN", "large"], ["say ", "ENlarge", ""], False),
        (("END",), ["E", "N", "D"], ["", "", ""], True),
        (("END",), ["so E"], ["so ", "E"], False),
        (("abab",), ["aba", "ba", "b"], ["", ""], True),
        (("abac",), ["aba", "bac"], ["", "ab"], True),
        (("\n\n", "stop"), ["one\n", "two st", "op"], ["one", "\ntwo ", ""], True),
        (("b", "abc"), ["xabc"], ["xa"], True),
        (("€😀",), ["1 €", "😀"], ["1 ", ""], True),
    ],
)
def test_nothing_of_a_stop_string_is_given_out(
    stops: tuple[str, ...], parts: list[str], expected: list[str], found: bool
):
    assert run(stops, parts) == (expected, found)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.text("abc", max_size=3), max_size=12),
)
def test_pieces_change_nothing(stops: list[str], parts: list[str]):
    """The text given out is all of it up to the first stop string to be complete."""
    text = "".join(parts)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(ends)[1]] if ends else text
    given_out, found = run(tuple(stops), parts)
    assert ("".join(given_out), found) == (expected, bool(ends))
