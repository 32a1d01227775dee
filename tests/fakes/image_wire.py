"""What the image APIs of OpenAI and Gemini take and answer, wire-exact.

Pictures are real PNGs of one pixel, of a colour for each number (`png`), so that tests can tell which came back where.
"""

from __future__ import annotations

import base64
import email.message
import email.parser
import email.policy
import json
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from tests.fakes.replies import END, compact, error, json_reply, sse, sse_event
from tests.fakes.wire import Reply, Request, Step

MODEL = "gpt-image-2"
TEXT_TOKENS = 9
TOKENS_PER_INPUT = 300
TOKENS_PER_PICTURE = 1000
"""What a stand-in counts."""

_BOTH = {
    "model", "prompt", "n", "size", "quality", "background", "output_format", "output_compression", "moderation",
    "partial_images", "stream", "user", "safety_identifier",
}  # fmt: skip
_KNOWN = {"generations": _BOTH | {"complexity"}, "edits": _BOTH | {"input_fidelity", "svg[model]"}}


def png(number: int = 0, *, padding: int = 0) -> bytes:
    """A picture; `padding` bytes of it mean nothing."""
    pixel = bytes([0, number % 256, number // 256 % 256, 7])
    pieces = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
        *([(b"teXt", b"\0" * padding)] if padding else []),
        (b"IDAT", zlib.compress(pixel)),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in pieces
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def picture(number: int = 0, *, padding: int = 0) -> str:
    """The same as base64."""
    return base64.b64encode(png(number, padding=padding)).decode()


def image_usage(pictures: int = 1, inputs: int = 0, **extra: Any) -> dict[str, Any]:
    given, made = TEXT_TOKENS + TOKENS_PER_INPUT * inputs, TOKENS_PER_PICTURE * pictures
    return {
        "input_tokens": given,
        "input_tokens_details": {"image_tokens": given - TEXT_TOKENS, "text_tokens": TEXT_TOKENS},
        "output_tokens": made,
        "total_tokens": given + made,
        **extra,
    }


def images_body(*items: dict[str, Any] | int, **more: Any) -> dict[str, Any]:
    """OpenAI's list of these pictures; numbers are those of `picture`."""
    data = [{"b64_json": picture(item)} if isinstance(item, int) else item for item in items]
    chosen = {"background": "opaque", "output_format": "png", "quality": "low", "size": "1024x1024"}
    return {"created": 1_790_000_000, "data": data, "usage": image_usage(len(data)), **chosen, **more}


def image_event(kind: str, b64_json: str, *, family: str = "image_generation", **more: Any) -> bytes:
    """`partial_image` or `completed`, framed under its name."""
    name = f"{family}.{kind}"
    told = {
        "type": name,
        "b64_json": b64_json,
        "background": "opaque",
        "created_at": 1_790_000_000,
        "output_format": "png",
        "quality": "low",
        "size": "1024x1024",
        **more,
    }
    return sse_event(compact(told), event=name)


def image_events(
    pictures: int = 1, partials: int = 0, *, family: str = "image_generation", inputs: int = 0
) -> list[bytes]:
    """The events of so many pictures, each after its partials, which are numbered from 100 on."""
    events: list[bytes] = []
    for number in range(pictures):
        for partial in range(partials):
            shown = picture(100 + number * 10 + partial)
            events.append(image_event("partial_image", shown, family=family, partial_image_index=partial))
        counted = image_usage(1, inputs)
        events.append(image_event("completed", picture(number), family=family, usage=counted))
    return events


def image_stream(pictures: int = 1, partials: int = 0, *, end: Step = END, **more: Any) -> Reply:
    return sse(image_events(pictures, partials, **more), end=end, headers={"x-request-id": "req_image"})


def form_of(request: Request) -> list[tuple[str, str | email.message.Message]]:
    """The entries of a multipart body in their order: texts, and files as messages with headers and payload."""
    head = f"content-type: {request.header('content-type')}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    entries: list[tuple[str, str | email.message.Message]] = []
    for part in message.get_payload():
        assert isinstance(part, email.message.Message)
        name = part.get_param("name", header="content-disposition")
        is_file = part.get_filename() is not None
        entries.append((str(name), part if is_file else bytes(part.get_payload(decode=True)).decode()))
    return entries


def as_openai_images(request: Request) -> Reply:
    """What OpenAI would say; what it refuses it refuses in its own words."""
    route = request.path.partition("?")[0].rpartition("/")[2]
    if route not in _KNOWN:
        return error(404, "Invalid URL.", type="invalid_request_error")
    if route == "generations":
        fields: dict[str, Any] = json.loads(request.body)
        inputs = 0
    else:
        entries = form_of(request)
        fields = {name: json_of(value) for name, value in entries if isinstance(value, str)}
        files = [(name, value) for name, value in entries if not isinstance(value, str)]
        inputs = sum(name in ("image", "image[]") for name, _ in files)
        for name, file in files:
            if file.get_content_type() not in ("image/png", "image/jpeg", "image/webp"):
                said = f"Invalid file '{name}': unsupported mimetype ('{file.get_content_type()}')."
                return error(400, said, type="invalid_request_error", param=name, code="unsupported_file_mimetype")
        if not inputs:
            return _refused("Missing required parameter: 'image'.", "image", "missing_required_parameter")
    for name in sorted(fields.keys() - _KNOWN[route]):
        return _refused(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    if not fields.get("prompt"):
        return _refused("Missing required parameter: 'prompt'.", "prompt", "missing_required_parameter")
    count = int(fields.get("n", 1))
    if fields.get("stream") in (True, "true"):
        family = "image_generation" if route == "generations" else "image_edit"
        return image_stream(count, int(fields.get("partial_images", 0)), family=family, inputs=inputs)
    body = images_body(*range(count), usage=image_usage(count, inputs))
    return json_reply(body, headers={"x-request-id": "req_image"})


def json_of(text: str) -> Any:
    """The value of a field of a form."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _refused(message: str, param: str, code: str) -> Reply:
    return error(400, message, type="invalid_request_error", param=param, code=code)


def blocked() -> Reply:
    """How OpenAI's filter refuses."""
    said = "Your request was rejected by the safety system. safety_violations=[violence]."
    return error(400, said, type="image_generation_user_error", code="moderation_blocked")


def gemini_pictures(numbers: Iterable[int], *, thoughts: int | None = None, inputs: int = 0) -> dict[str, Any]:
    """Google's reply with these pictures, after a draft that is a thought where there are `thoughts` tokens."""
    found = list(numbers)
    parts = [{"inlineData": {"mimeType": "image/png", "data": picture(number)}} for number in found]
    draft = {"inlineData": {"mimeType": "image/png", "data": picture(99)}, "thought": True}
    given, made = TEXT_TOKENS + TOKENS_PER_INPUT * inputs, TOKENS_PER_PICTURE * len(found)
    details = [{"modality": "TEXT", "tokenCount": TEXT_TOKENS}]
    if inputs:
        details.append({"modality": "IMAGE", "tokenCount": given - TEXT_TOKENS})
    counted: dict[str, Any] = {
        "promptTokenCount": given,
        "candidatesTokenCount": made,
        "totalTokenCount": given + made + (thoughts or 0),
        "promptTokensDetails": details,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": made}],
    }
    if thoughts is not None:
        counted["thoughtsTokenCount"] = thoughts
    content = {"role": "model", "parts": parts if thoughts is None else [draft, *parts]}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": counted,
        "modelVersion": "gemini-3.1-flash-image",
        "responseId": "upstreamResponse1",
    }


def no_gemini_picture(reason: str, message: str | None = None) -> dict[str, Any]:
    """Google's reply where it drew nothing; its prompt is counted."""
    candidate = {"finishReason": reason, "index": 0, **({} if message is None else {"finishMessage": message})}
    return {
        "candidates": [candidate],
        "usageMetadata": {"promptTokenCount": TEXT_TOKENS, "totalTokenCount": TEXT_TOKENS},
        "modelVersion": "gemini-3.1-flash-image",
        "responseId": "upstreamResponse1",
    }
