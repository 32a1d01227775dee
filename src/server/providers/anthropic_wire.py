"""Messages as they come over the wire: whole, and as events, in lenient shapes.

Unknown fields are ignored. What is relayed or read apart is `Raw`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

NOTHING: Final = msgspec.Raw(b"")


class WireBlock(msgspec.Struct, gc=False):
    """A content block: whole, or as it begins."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    data: Any = None
    id: Any = None
    name: Any = None
    input: msgspec.Raw = NOTHING
    citations: Any = None


class WireMessage(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    content: list[WireBlock] | None = None
    stop_reason: Any = None
    stop_sequence: Any = None
    stop_details: Any = None
    usage: Any = None


class WireDelta(msgspec.Struct, gc=False):
    """The `delta` of a block, or of the message."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    partial_json: Any = None
    citation: Any = None
    stop_reason: Any = None
    stop_sequence: Any = None
    stop_details: Any = None


class WireEvent(msgspec.Struct, gc=False):
    """An event of a stream, or a whole message, whose fields then stand here."""

    type: Any = None
    index: Any = None
    message: WireMessage | None = None
    content_block: WireBlock | None = None
    delta: WireDelta | None = None
    usage: Any = None
    error: Any = None


decode_event: Final = msgspec.json.Decoder(WireEvent).decode
decode_message: Final = msgspec.json.Decoder(WireMessage).decode
decode_any: Final = msgspec.json.Decoder().decode


def words(value: Any) -> str:
    """A string, or nothing."""
    return value if isinstance(value, str) else ""
