"""Chat completions as they come over the wire: chunks and whole bodies in one lenient shape.

Unknown fields are ignored. A field that some upstream writes with a wrong type is `Any`, and checked where it is read;
what must be relayed untouched is `Raw`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

NOTHING: Final = msgspec.Raw(b"")
NULL: Final = msgspec.Raw(b"null")


class WireFunction(msgspec.Struct, gc=False):
    name: Any = None
    arguments: msgspec.Raw = NOTHING


class WireCustom(msgspec.Struct, gc=False):
    name: Any = None
    input: Any = None


class WireToolCall(msgspec.Struct, gc=False):
    index: Any = None
    id: Any = None
    function: WireFunction | None = None
    custom: WireCustom | None = None


class WireDelta(msgspec.Struct, gc=False):
    """A `delta` or a whole `message`."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    refusal: Any = None
    tool_calls: list[WireToolCall] | None = None
    annotations: Any = None


class WireChoice(msgspec.Struct, gc=False):
    index: Any = None
    delta: WireDelta | None = None
    message: WireDelta | None = None
    finish_reason: Any = None
    logprobs: msgspec.Raw = NOTHING
    error: Any = None


class WireChunk(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    system_fingerprint: Any = None
    service_tier: Any = None
    choices: list[WireChoice] | None = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None
    citations: Any = None
    search_results: Any = None


class WireLogprobs(msgspec.Struct, gc=False):
    content: msgspec.Raw = NOTHING
    refusal: msgspec.Raw = NOTHING


decode_chunk: Final = msgspec.json.Decoder(WireChunk).decode
decode_any: Final = msgspec.json.Decoder().decode
_decode_logprobs: Final = msgspec.json.Decoder(WireLogprobs).decode
_decode_text: Final = msgspec.json.Decoder(str).decode

_EMPTY: Final = (b"", b"null", b"[]")


def arguments_text(raw: msgspec.Raw) -> str:
    """Tool arguments as JSON text: some upstreams send the object itself instead of a string."""
    data = bytes(raw)
    if data.startswith(b'"'):
        return _decode_text(data)
    return "" if data in _EMPTY else data.decode()


def logprob_tokens(raw: msgspec.Raw) -> msgspec.Raw | None:
    """The array of token objects, None where there is none (or in the shape of older APIs)."""
    if bytes(raw) in _EMPTY:
        return None
    try:
        found = _decode_logprobs(raw)
    except msgspec.DecodeError:
        return None
    for tokens in (found.content, found.refusal):
        if bytes(tokens) not in _EMPTY:
            return checked(tokens)
    return None


def checked(raw: msgspec.Raw) -> msgspec.Raw:
    """The same JSON, which is relayed as it is. Raises UnicodeDecodeError: raw text has not been looked at yet."""
    bytes(raw).decode()
    return raw


def words(value: Any) -> str:
    """A string, or nothing."""
    return value if isinstance(value, str) else ""
