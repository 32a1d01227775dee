"""The Responses API, streamed or whole, as events of one choice.

An item is known by its `output_index`: item ids may change between two events of one item. What a delta did not bring
is taken from the `done` event, the whole item or the whole response, whichever comes first.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from server.domain.catalog import Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.domain.events import (
    ChoiceEnded,
    Completed,
    FinishReason,
    PartKind,
    ProviderEvent,
    Started,
    UsageReported,
)
from server.domain.ports import IdSource
from server.providers.decoding import UNREADABLE, Parts
from server.providers.openai_chat_wire import NOTHING, decode_any, words
from server.providers.openai_errors import cut_failure, failure_in_band, looks_like_error, protocol_failure
from server.providers.openai_responses_items import Item, item_head
from server.providers.openai_responses_wire import (
    WireEvent,
    WireResponse,
    decode_event,
    decode_response,
)
from server.providers.openai_usage import read_usage

MAX_ITEMS: Final = 4096

_TEXT_DELTAS: Final = {
    "response.output_text.delta": PartKind.TEXT,
    "response.reasoning_summary_text.delta": PartKind.REASONING_SUMMARY,
    "response.reasoning_text.delta": PartKind.REASONING,
    "response.refusal.delta": PartKind.REFUSAL,
}
_TEXT_DONES: Final = {name.replace(".delta", ".done"): kind for name, kind in _TEXT_DELTAS.items()}
_CALL_DELTAS: Final = frozenset({"response.function_call_arguments.delta", "response.custom_tool_call_input.delta"})
_BEGINNINGS: Final = frozenset({"response.created", "response.in_progress", "response.queued"})
_ENDINGS: Final = {
    "response.completed": "completed",
    "response.done": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}

INCOMPLETE_REASONS: Final = {
    "max_output_tokens": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
"""`incomplete_details.reason` to ours; any other is `FinishReason.OTHER`."""


class ResponsesDecoder:
    """Decodes one answer of a Responses upstream. See `decoding.StreamDecoder`."""

    def __init__(self, provider: Provider, ids: IdSource) -> None:
        self.done = False
        self._provider = provider
        self._ids = ids
        self._started = False
        self._parts = Parts(0)
        self._items: dict[int | str, Item] = {}
        self._ending: tuple[FinishReason, str] | None = None

    @property
    def complete(self) -> bool:
        return self.done

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        if self.done or not data or data.startswith(b"[DONE]"):
            return
        try:
            self._take(decode_event(data), event, data, out)
        except UNREADABLE:
            if not data.isspace():
                raise self._unreadable(data) from None

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        try:
            response = decode_response(body)
            if response.output is None and not response.error and response.status is None:
                raise self._unreadable(body)
            self._end(response, words(response.status) or "completed", out)
        except UNREADABLE:
            raise self._unreadable(body) from None
        self.finish(out)

    def finish(self, out: list[ProviderEvent]) -> None:
        if self._ending is None:
            raise cut_failure()
        reason, native = self._ending
        self._parts.end_all(out)
        out.append(ChoiceEnded(0, reason, native))
        out.append(Completed())

    def _take(self, wire: WireEvent, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        kind = wire.type if type(wire.type) is str else event or ""
        if kind == "error" or event == "error" or wire.error:
            raise failure_in_band(decode_any(data), self._provider)
        text_kind = _TEXT_DELTAS.get(kind)
        if text_kind is not None:
            self._item(wire, out).text(text_kind, _index(wire, text_kind), words(wire.delta), wire.logprobs, out)
        else:
            self._other(kind, wire, out)

    def _unreadable(self, data: bytes) -> ProviderFailure:
        """What is no response may still be an error of a strange shape."""
        try:
            value = decode_any(data)
        except UNREADABLE:
            return protocol_failure("The provider sent something that is not JSON.")
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict) and (first.get("error") or looks_like_error(first)):
            return failure_in_band(value, self._provider)
        return protocol_failure("The provider sent something that is not a response.")

    def _other(self, kind: str, wire: WireEvent, out: list[ProviderEvent]) -> None:
        if kind in _CALL_DELTAS:
            self._item(wire, out).arguments(words(wire.delta), out)
        elif kind in _TEXT_DONES:
            text_kind = _TEXT_DONES[kind]
            said = words(wire.refusal if text_kind is PartKind.REFUSAL else wire.text)
            self._item(wire, out).missing_text(text_kind, _index(wire, text_kind), said, wire.logprobs, out)
        elif kind == "response.output_item.added":
            self._item(wire, out).added(wire.item, out)
        elif kind == "response.output_item.done":
            self._item(wire, out).whole(wire.item, out)
        elif kind == "response.output_text.annotation.added":
            self._item(wire, out).annotate(_index(wire, PartKind.TEXT), wire.annotation, out)
        elif kind in _BEGINNINGS:
            self._start(_response(wire), out)
        elif kind in _ENDINGS:
            self._end(_response(wire), _ENDINGS[kind], out)

    def _start(self, response: WireResponse | None, out: list[ProviderEvent]) -> None:
        if not self._started:
            self._started = True
            native_id, model = (response.id, response.model) if response else (None, None)
            out.append(Started(words(native_id) or None, words(model) or None))

    def _item(self, wire: WireEvent, out: list[ProviderEvent]) -> Item:
        self._start(None, out)
        key: int | str = wire.output_index if type(wire.output_index) is int else words(wire.item_id)
        return self._items.get(key) or self._add(key)

    def _add(self, key: int | str) -> Item:
        if len(self._items) >= MAX_ITEMS:
            raise protocol_failure("The provider sent too many output items.")
        item = self._items[key] = Item(self._parts, self._ids, self._provider.id)
        return item

    def _end(self, response: WireResponse | None, status: str, out: list[ProviderEvent]) -> None:
        """What it counts is told after all that it says, failures included: the provider bills for it."""
        response = response or WireResponse()
        self._start(response, out)
        usage = read_usage(response.usage)
        try:
            if response.error or status in ("failed", "cancelled"):
                raise self._failed(response, status)
            if status in ("queued", "in_progress"):
                raise protocol_failure("The provider answered before its response was complete.")
            for index, raw in enumerate(response.output or ()):
                self._completed_item(index, raw, out)
        finally:
            if usage is not None:
                out.append(UsageReported(usage, words(response.service_tier) or None))
        self._ending = self._reason(response, status)
        if self._ending[0] is FinishReason.STOP and not self._items and not (usage and usage.output_tokens):
            raise protocol_failure("The provider ended its answer without saying anything.")
        self.done = True

    def _completed_item(self, index: int, raw: msgspec.Raw, out: list[ProviderEvent]) -> None:
        """An item of the whole response: finished if it was under way, added if no event ever named it."""
        item = self._items.get(index) or self._items.get(words(item_head(raw).id))
        if item is None and all(type(key) is int for key in self._items):
            item = self._add(index)
        if item is not None:
            item.whole(raw, out)

    def _failed(self, response: WireResponse, status: str) -> ProviderFailure:
        if response.error:
            return failure_in_band({"error": response.error}, self._provider)
        return ProviderFailure(FailureCategory.SERVER_ERROR, upstream=UpstreamError(code=status))

    def _reason(self, response: WireResponse, status: str) -> tuple[FinishReason, str]:
        if status == "incomplete":
            details = response.incomplete_details
            native = words(details.get("reason")) if isinstance(details, dict) else ""
            return INCOMPLETE_REASONS.get(native, FinishReason.OTHER), native or status
        if status not in ("completed", "requires_action"):  # the latter is Perplexity's word for a call
            return FinishReason.OTHER, status
        called = any(item.is_call for item in self._items.values())
        return FinishReason.TOOL_CALLS if called else FinishReason.STOP, status


def _response(wire: WireEvent) -> WireResponse | None:
    return None if wire.response is NOTHING else decode_response(wire.response)


def _index(wire: WireEvent, kind: PartKind) -> int:
    value: Any = wire.summary_index if kind is PartKind.REASONING_SUMMARY else wire.content_index
    return value if type(value) is int else 0
