"""From the items of responses to the messages that a chat template takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.api.responses.items import Item
from gateway.conversation.ask import ChatMessage
from shared.errors import InvalidRequest

Message = dict[str, Any]


def messages_of(items: Sequence[Item], instructions: str | None) -> list[ChatMessage]:
    """`instructions` come first; what an assistant thought, said and called in one turn becomes one message.

    System messages at the beginning become one, since many templates know only one there. Raises InvalidRequest where
    the output of a call stands without its call, or nothing is left to answer.
    """
    conversation = _Conversation()
    if instructions:
        conversation.add({"type": "message", "role": "system", "content": [{"text": instructions}]})
    for item in items:
        conversation.add(item)
    if not conversation.messages:
        raise InvalidRequest("input: must hold at least one item", "input")
    return list(conversation.messages)


def cuts(messages: Sequence[ChatMessage]) -> list[int]:
    """Places from which on a conversation may be kept to shorten it, in order: the first of them keeps all.

    System messages at the beginning are kept always. Users' messages come first, since many templates want one there;
    then, after the last of them, an assistant's, which a tool's results follow.
    """
    first = next((place for place, message in enumerate(messages) if message["role"] != "system"), len(messages))
    users = [place for place in range(first, len(messages)) if messages[place]["role"] == "user"]
    last = users[-1] if users else first
    later = [place for place in range(last + 1, len(messages)) if messages[place]["role"] == "assistant"]
    return sorted({first, *users, *later})


def kept_from(messages: Sequence[ChatMessage], cut: int) -> list[ChatMessage]:
    """The system messages at the beginning, and all from the cut on."""
    return [*messages[: cuts(messages)[0]], *messages[cut:]]


class _Conversation:
    """Messages, as items are added."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._names: dict[str, str] = {}  # of calls, by their ids

    def add(self, item: Item) -> None:
        match item["type"]:
            case "message" if item["role"] == "assistant":
                self._said(_text(item["content"]))
            case "message":
                self._told("user" if item["role"] == "user" else "system", _text(item["content"]))
            case "reasoning":
                self._thought("\n".join(part["text"] for part in item.get("content") or ()))
            case "function_call":
                self._called(item)
            case "function_call_output":
                self._returned(item["call_id"], item["output"])
            case kind:
                raise AssertionError(f"an item of type {kind} has been stored")

    def _told(self, role: str, text: str) -> None:
        if role == "system" and len(self.messages) == 1 and self.messages[0]["role"] == "system":
            self.messages[0]["content"] += f"\n\n{text}"
        else:
            self.messages.append({"role": role, "content": text})

    def _said(self, text: str) -> None:
        message = self._turn()
        if message["content"] is None:
            message["content"] = text
        elif message.get("tool_calls"):  # their results have to follow at once
            message["content"] += f"\n{text}"
        else:
            self.messages.append({"role": "assistant", "content": text})

    def _thought(self, text: str) -> None:
        if text:
            message = self._turn()
            if message["content"] is not None or message.get("tool_calls"):
                message = self._new_turn()
            message["reasoning_content"] = "\n".join(filter(None, [message.get("reasoning_content"), text]))

    def _called(self, item: Item) -> None:
        function = {"name": item["name"], "arguments": item["arguments"]}
        calls = self._turn().setdefault("tool_calls", [])
        calls.append({"id": item["call_id"], "type": "function", "function": function})
        self._names[item["call_id"]] = item["name"]

    def _returned(self, call_id: str, output: str | list[Item]) -> None:
        if call_id not in self._names:
            reason = f"input: no function call has the call_id {call_id!r}: send the function_call before its output"
            raise InvalidRequest(reason, "input")
        text = output if isinstance(output, str) else _text(output)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "name": self._names[call_id], "content": text})

    def _turn(self) -> Message:
        """The assistant's message at the end, or a new one."""
        last = self.messages[-1] if self.messages else None
        return last if last and last["role"] == "assistant" else self._new_turn()

    def _new_turn(self) -> Message:
        self.messages.append({"role": "assistant", "content": None})
        return self.messages[-1]


def _text(parts: Sequence[Item]) -> str:
    return "\n".join(part.get("text") or part.get("refusal", "") for part in parts)
