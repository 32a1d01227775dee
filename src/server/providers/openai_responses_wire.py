"""The Responses API as it comes over the wire: events, items and responses, in lenient shapes."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from server.providers.openai_chat_wire import NOTHING, checked


class WireEvent(msgspec.Struct, gc=False):
    """Any event of the stream; each type fills its own fields."""

    type: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    item_id: Any = None
    delta: Any = None
    text: Any = None
    refusal: Any = None
    arguments: msgspec.Raw = NOTHING
    input: Any = None
    logprobs: msgspec.Raw = NOTHING
    item: msgspec.Raw = NOTHING
    annotation: Any = None
    response: msgspec.Raw = NOTHING
    error: Any = None


class WirePart(msgspec.Struct, gc=False):
    type: Any = None
    text: Any = None
    refusal: Any = None
    annotations: Any = None
    logprobs: msgspec.Raw = NOTHING


class WireItem(msgspec.Struct, gc=False):
    type: Any = None
    id: Any = None
    call_id: Any = None
    name: Any = None
    arguments: msgspec.Raw = NOTHING
    input: Any = None
    content: list[WirePart] | None = None
    summary: list[WirePart] | None = None
    encrypted_content: Any = None
    phase: Any = None


class WireItemHead(msgspec.Struct, gc=False):
    """What tells how to read an item, and which one it is."""

    type: Any = None
    id: Any = None


class WireResponse(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    status: Any = None
    output: list[msgspec.Raw] | None = None
    usage: Any = None
    error: Any = None
    incomplete_details: Any = None
    service_tier: Any = None


decode_event: Final = msgspec.json.Decoder(WireEvent).decode
decode_item: Final = msgspec.json.Decoder(WireItem).decode
decode_item_head: Final = msgspec.json.Decoder(WireItemHead).decode
decode_response: Final = msgspec.json.Decoder(WireResponse).decode


def token_array(raw: msgspec.Raw) -> msgspec.Raw | None:
    """The `logprobs` of a delta or part, None where there are none."""
    return checked(raw) if bytes(raw).startswith(b"[") and bytes(raw) != b"[]" else None
