"""The Messages API's answers, streamed or whole, as events of one choice.

A whole message is decoded as if its blocks had been streamed, so that both give the same content and the same usage.
"""

from __future__ import annotations

from typing import Any, Final

from server.domain.catalog import Provider
from server.domain.errors import ProviderFailure
from server.domain.events import (
    ChoiceEnded,
    Completed,
    FinishReason,
    PartKind,
    ProviderEvent,
    Started,
    TextDelta,
    UsageReported,
)
from server.domain.ports import IdSource
from server.providers.anthropic_blocks import (
    Block,
    CallBlock,
    Text,
    TextBlock,
    ThinkingBlock,
    UnknownBlock,
    start_part,
)
from server.providers.anthropic_errors import failure_in_band
from server.providers.anthropic_usage import Counts
from server.providers.anthropic_wire import (
    WireBlock,
    WireDelta,
    WireEvent,
    WireMessage,
    decode_any,
    decode_event,
    decode_message,
    words,
)
from server.providers.decoding import UNREADABLE, Parts
from server.providers.openai_errors import cut_failure, looks_like_error, protocol_failure

STOP_REASONS: Final = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
    "pause_turn": FinishReason.OTHER,
}
"""A `stop_reason` to ours; any other is `FinishReason.OTHER`."""


class MessagesDecoder:
    """Decodes one answer of a Messages upstream. See `decoding.StreamDecoder`."""

    def __init__(self, provider: Provider, ids: IdSource) -> None:
        self.done = False
        self._provider = provider
        self._ids = ids
        self._started: str | None = None
        self._parts = Parts(0)
        self._text = Text(self._parts)
        self._blocks: dict[int, Block] = {}
        self._has_thought = False
        self._counts = Counts()
        self._reported = False
        self._reason = ""
        self._stop_sequence: str | None = None

    @property
    def complete(self) -> bool:
        return self.done or bool(self._reason)

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        if self.done or not data or event == "ping":
            return
        try:
            wire = decode_event(data)
            kind = words(wire.type) or event or ""
            if kind == "error" or event == "error" or wire.error:
                raise failure_in_band(decode_any(data), self._provider)
            self._take(kind, wire, out)
        except UNREADABLE:
            if not data.isspace():
                raise self._unreadable(data) from None

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        try:
            message = decode_message(body)
            if message.content is None:
                raise self._unreadable(body)
            self._start(message, out, final=True)
            for index, block in enumerate(message.content):
                self._begin(index, block, out)
                self._end_block(index, out)
            self._stop(message, out)
            self._count(out)
        except UNREADABLE:
            raise self._unreadable(body) from None
        if not self._reason:
            raise protocol_failure("The provider ended its message without saying why.")
        self.done = True
        self.finish(out)

    def finish(self, out: list[ProviderEvent]) -> None:
        if self._started is None or not self.complete:
            raise cut_failure()
        for index in list(self._blocks):
            self._end_block(index, out)
        self._parts.end_all(out)
        reason = STOP_REASONS.get(self._reason, FinishReason.OTHER)
        out.append(ChoiceEnded(0, reason, self._reason, self._stop_sequence))
        out.append(Completed())

    def _unreadable(self, data: bytes) -> ProviderFailure:
        """What is no message may still be an error of a strange shape."""
        try:
            value = decode_any(data)
        except UNREADABLE:
            return protocol_failure("The provider sent something that is not JSON.")
        if isinstance(value, dict) and (value.get("error") or looks_like_error(value)):
            return failure_in_band(value, self._provider)
        return protocol_failure("The provider sent something that is not a message.")

    def _take(self, kind: str, wire: WireEvent, out: list[ProviderEvent]) -> None:
        match kind:
            case "content_block_delta":
                block = self._blocks.get(_index(wire))
                if wire.delta is not None and block is not None:
                    block.delta(wire.delta, out)
            case "content_block_start":
                if wire.content_block is not None:
                    if not self._reported:
                        self._count(out)
                    self._begin(_index(wire), wire.content_block, out)
            case "content_block_stop":
                self._end_block(_index(wire), out)
            case "message_start":
                self._start(wire.message or WireMessage(), out, final=False)
            case "message_delta":
                self._end_message(wire.delta or WireDelta(), wire.usage, out)
            case "message_stop":
                if not self._reason:
                    raise protocol_failure("The provider ended its message without saying why.")
                self.done = True
            case _:
                pass

    def _start(self, message: WireMessage, out: list[ProviderEvent], *, final: bool) -> None:
        """A second start of the same message repeats the first; one of another would splice two answers together."""
        native_id = words(message.id)
        if self._started is None:
            self._started = native_id
            out.append(Started(native_id or None, words(message.model) or None))
        elif native_id != self._started:
            raise protocol_failure("The provider began a second message within the first.")
        self._counts.take(message.usage, final=final)

    def _begin(self, index: int, wire: WireBlock, out: list[ProviderEvent]) -> None:
        if self._started is None:
            raise protocol_failure("The provider sent content before its message began.")
        if index in self._blocks:
            return  # announced twice, by a start that is repeated
        kind = words(wire.type)
        block = self._block(kind)
        if not isinstance(block, TextBlock | UnknownBlock):
            self._text.end(out)
        self._blocks[index] = block
        block.begin(wire, out)

    def _block(self, kind: str) -> Block:
        match kind:
            case "text":
                return TextBlock(self._text)
            case "thinking" | "redacted_thinking":
                first, self._has_thought = not self._has_thought, True
                return ThinkingBlock(self._parts, "thinking" if kind == "thinking" else "redacted", first=first)
            case "tool_use":
                return CallBlock(self._parts, self._ids)
            case _:
                return UnknownBlock()

    def _end_block(self, index: int, out: list[ProviderEvent]) -> None:
        block = self._blocks.pop(index, None)
        if block is not None:
            block.end(out)

    def _end_message(self, delta: WireDelta, usage: Any, out: list[ProviderEvent]) -> None:
        self._counts.take(usage)
        self._stop(delta, out)
        self._count(out)

    def _stop(self, said: WireMessage | WireDelta, out: list[ProviderEvent]) -> None:
        if not words(said.stop_reason) or self._reason:
            return
        self._reason = words(said.stop_reason)
        self._stop_sequence = words(said.stop_sequence) or None
        details = said.stop_details
        explanation = words(details.get("explanation")) if isinstance(details, dict) else ""
        if self._reason == "refusal" and explanation:
            self._text.end(out)
            part = start_part(self._parts, PartKind.REFUSAL, out)
            out.append(TextDelta(0, part, explanation))
            self._parts.end(part, out)

    def _count(self, out: list[ProviderEvent]) -> None:
        """Report what is known, once when content begins, and after all content: a count before some of it is stale.

        What is said to be used before anything was made of it may yet come to nothing.
        """
        if self._counts.known:
            self._reported = True
            out.append(UsageReported(self._counts.usage, self._counts.service_tier))


def _index(wire: WireEvent) -> int:
    return wire.index if type(wire.index) is int else -1
