"""What `generateContent` answers, as it comes over the wire: whole bodies and chunks of a stream have one shape.

Unknown fields are ignored. A field that may come with a wrong type is `Any`, and checked where it is read; what must be
relayed untouched is `Raw`. Names are the camel case of the wire.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

NOTHING: Final = msgspec.Raw(b"")


class WireFunctionCall(msgspec.Struct, gc=False, rename="camel"):
    """`args` is an object; `partial_args` and `will_continue` are Vertex AI's, where arguments are streamed."""

    id: Any = None
    name: Any = None
    args: msgspec.Raw = NOTHING
    partial_args: Any = None
    will_continue: Any = None


class WirePart(msgspec.Struct, gc=False, rename="camel"):
    text: Any = None
    thought: Any = None
    thought_signature: Any = None
    function_call: WireFunctionCall | None = None
    inline_data: Any = None
    file_data: Any = None
    executable_code: Any = None
    code_execution_result: Any = None


class WireContent(msgspec.Struct, gc=False, rename="camel"):
    parts: list[WirePart] | None = None


class WireCandidate(msgspec.Struct, gc=False, rename="camel"):
    index: Any = None
    content: WireContent | None = None
    finish_reason: Any = None
    finish_message: Any = None
    logprobs_result: Any = None
    citation_metadata: Any = None
    grounding_metadata: Any = None


class WireReply(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[WireCandidate] | None = None
    prompt_feedback: Any = None
    usage_metadata: Any = None
    model_version: Any = None
    response_id: Any = None
    error: Any = None


decode_reply: Final = msgspec.json.Decoder(WireReply).decode
decode_replies: Final = msgspec.json.Decoder(list[WireReply]).decode
decode_any: Final = msgspec.json.Decoder().decode


def words(value: Any) -> str:
    """A string, or nothing."""
    return value if isinstance(value, str) else ""


def counted(value: Any) -> int | None:
    """A count, None for anything that is none; protobuf may write a long as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**53 else None


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
