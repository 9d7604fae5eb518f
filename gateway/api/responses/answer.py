"""The answer of one response while it is made: its output, what it has cost, and what the two come to."""

from __future__ import annotations

from gateway.api.errors import ErrorReply
from gateway.api.logprobs import token_logprobs
from gateway.api.reading import Tally, Update
from gateway.api.responses.items import ItemIds
from gateway.api.responses.output import Output
from gateway.api.responses.shapes import ResponseShapes, response_usage
from gateway.api.shapes import Shape
from gateway.conversation.parts import Content
from gateway.generation.completion import ServedModel
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokens import Token


class ResponseAnswer:
    """Takes updates; gives the events of each, and at the end the response."""

    def __init__(
        self, model: ServedModel, params: SamplingParams, prompt_tokens: int, shapes: ResponseShapes, ids: ItemIds
    ) -> None:
        self.shapes = shapes
        self._tokenizer = model.tokenizer
        self._params = params
        self._prompt_tokens = prompt_tokens
        self._output = Output(ids)
        self._tally = Tally()
        self._cut = False
        self._held: list[Token] = []  # whose text has not come yet
        self._in_text = True  # what comes next may be more of a text

    def take(self, update: Update) -> list[Shape]:
        """The events that an update makes."""
        self._tally.add(update)
        events = self._output.add(update.parts, self._logprobs(update))
        if update.finish:
            self._cut = update.finish == "length"
            events += self._output.end("incomplete" if self._cut else "completed", update.broken)
        return events

    def response(self) -> Shape:
        """The whole of it. To be called after the last update."""
        return self.shapes.ended(self._output.items, self._usage(), self._cut)

    def failed(self, reply: ErrorReply) -> Shape:
        """What it has come to when its generation fails."""
        self._output.end("incomplete", broken=True)
        return self.shapes.failed(self._output.items, self._usage(), reply)

    def _usage(self) -> Shape:
        return response_usage(self._prompt_tokens, self._tally)

    def _logprobs(self, update: Update) -> list[Shape]:
        """Those of the tokens that have come with the parts, but for one that has no text since it ends them.

        A text after thinking or a call has none of the tokens before it: these have ended that, or are white space.
        """
        if self._params.top_logprobs is None:
            return []
        told = [token for token in update.tokens if token.id not in self._params.stop_ids]
        if not update.parts:
            self._held += told
            return []
        told = self._held + told if self._in_text else told
        self._held, self._in_text = [], isinstance(update.parts[-1], Content)
        return token_logprobs(self._tokenizer, told)
