"""What a reasoning model thinks before it answers, in an answer's text as it comes."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.conversation.holding import without_end_space
from gateway.generation.stops import overlap


@dataclass(frozen=True, slots=True)
class ThinkMarks:
    """What stands around a model's thinking."""

    opener: str
    closer: str


KNOWN_MARKS = (
    ThinkMarks("<think>", "</think>"),  # DeepSeek-R1, Qwen3 and many others
    ThinkMarks("[THINK]", "[/THINK]"),  # Magistral
    ThinkMarks("<seed:think>", "</seed:think>"),
)


class ThinkingReader:
    """Parts the thinking, which comes first if at all, from the answer. White space around both is dropped.

    It has begun already where the prompt ended with its opener: `inside`.
    """

    def __init__(self, marks: ThinkMarks, inside: bool) -> None:
        self._marks = marks
        self._held = ""
        self._step = self._read_inside if inside else self._read_opener
        self._thought = False

    def feed(self, text: str) -> tuple[str, str]:
        """More of the thinking, and more of the answer."""
        self._held += text
        return self._step()

    def end(self) -> tuple[str, str]:
        """What was held back."""
        held, self._held = self._held, ""
        return (without_end_space(held), "") if self._step == self._read_inside else ("", held)

    def _read_opener(self) -> tuple[str, str]:
        begun = self._held.lstrip()
        if begun.startswith(self._marks.opener):
            self._held, self._step = begun[len(self._marks.opener) :], self._read_inside
            return self._read_inside()
        if self._marks.opener.startswith(begun):
            return "", ""
        self._step = self._read_answer
        return self._read_answer()

    def _read_inside(self) -> tuple[str, str]:
        if not self._thought:
            self._held = self._held.lstrip()
        thought, closer, answer = self._held.partition(self._marks.closer)
        if closer:
            self._held, self._step = answer, self._read_space
            return without_end_space(thought), self._read_space()[1]
        thought = without_end_space(self._held[: len(self._held) - overlap(self._held, self._marks.closer)])
        self._held = self._held[len(thought) :]
        self._thought |= bool(thought)
        return thought, ""

    def _read_space(self) -> tuple[str, str]:
        self._held = self._held.lstrip()
        if self._held:
            self._step = self._read_answer
        return self._read_answer()

    def _read_answer(self) -> tuple[str, str]:
        answer, self._held = self._held, ""
        return "", answer
