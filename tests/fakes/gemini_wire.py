"""What Google's `generateContent` looks like on the wire."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.fakes.replies import END, chunked, compact, json_reply, sse_event
from tests.fakes.wire import Pause, Reply, Step

MODEL = "gemini-3-flash-preview"
RESPONSE_ID = "upstreamResponse1"
HEADERS = {
    "vary": "Origin, X-Origin, Referer",
    "x-content-type-options": "nosniff",
    "server": "scaffolding on HTTPServer2",
}
SIGNATURE = "EhVzaWduYXR1cmUrd2l0aC9zbGFzaA=="
"""Base64 with the characters that a URL-safe decoder would spoil."""


def usage(
    prompt: int = 9,
    candidates: int | None = 3,
    *,
    thoughts: int | None = None,
    cached: int | None = None,
    tool_use: int | None = None,
    audio_in: int | None = None,
    audio_out: int | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """`usageMetadata`; None leaves a field out, as Google does."""
    total = prompt + (candidates or 0) + (thoughts or 0) + (tool_use or 0)
    details = [{"modality": "TEXT", "tokenCount": prompt - (audio_in or 0)}]
    if audio_in is not None:
        details.append({"modality": "AUDIO", "tokenCount": audio_in})
    fields: dict[str, Any] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": candidates,
        "totalTokenCount": total,
        "cachedContentTokenCount": cached,
        "promptTokensDetails": details,
        "toolUsePromptTokenCount": tool_use,
        "thoughtsTokenCount": thoughts,
    }
    if audio_out is not None:
        fields["candidatesTokensDetails"] = [{"modality": "AUDIO", "tokenCount": audio_out}]
    return {name: value for name, value in (fields | extra).items() if value is not None}


def text(said: str, *, thought: bool = False, signature: str | None = None) -> dict[str, Any]:
    part: dict[str, Any] = {"text": said}
    if thought:
        part["thought"] = True
    return _signed(part, signature)


def call(name: str, args: Any = None, *, id: str | None = None, signature: str | None = None) -> dict[str, Any]:
    """A `functionCall` part; without `args` as Google writes a call of none."""
    function = {"name": name, "args": args, "id": id}
    return _signed({"functionCall": {key: value for key, value in function.items() if value is not None}}, signature)


def _signed(part: dict[str, Any], signature: str | None) -> dict[str, Any]:
    return part if signature is None else {**part, "thoughtSignature": signature}


def candidate(
    *parts: dict[str, Any] | str, finish: str | None = "STOP", index: int = 0, content: bool = True, **extra: Any
) -> dict[str, Any]:
    """One candidate; texts become parts, and without `content` it has none at all."""
    fields: dict[str, Any] = {}
    if content:
        made = [text(part) if isinstance(part, str) else part for part in parts]
        fields["content"] = {"parts": made, "role": "model"} if made else {"role": "model"}
    if finish is not None:
        fields["finishReason"] = finish
    return {**fields, "index": index, **extra}


def reply(*candidates: dict[str, Any], counted: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    """A `GenerateContentResponse`."""
    return {
        "candidates": list(candidates),
        "usageMetadata": usage() if counted is None else counted,
        "modelVersion": MODEL,
        "responseId": RESPONSE_ID,
        **extra,
    }


def blocked(reason: str = "PROHIBITED_CONTENT", **extra: Any) -> dict[str, Any]:
    """A prompt that was refused: no candidates."""
    return {
        "promptFeedback": {"blockReason": reason, **extra},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
        "modelVersion": MODEL,
        "responseId": RESPONSE_ID,
    }


def status(code: int, word: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    """An error body."""
    error: dict[str, Any] = {"code": code, "message": message, "status": word}
    return {"error": {**error, "details": list(details)} if details else error}


def error_info(reason: str) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }


def retry_info(delay: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota_failure(quota_id: str) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaMetric": "generate_content_requests", "quotaId": quota_id, "quotaValue": "50"}],
    }


BAD_KEY = status(
    400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", error_info("API_KEY_INVALID")
)


def exhausted(delay: str = "39s", *, quota_id: str = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier") -> Any:
    """The body of a 429."""
    message = "You exceeded your current quota, please check your plan and billing details."
    return status(429, "RESOURCE_EXHAUSTED", message, quota_failure(quota_id), retry_info(delay))


def refused(body: Any, *, headers: dict[str, str] | None = None) -> Reply:
    """An error body as a reply of the status that it names."""
    named = body[0] if isinstance(body, list) else body
    return json_reply(body, status=named["error"]["code"], headers=headers)


def unary(*parts: dict[str, Any] | str, counted: dict[str, Any] | None = None, finish: str = "STOP") -> Reply:
    made = candidate(*(parts or ("Hello there!",)), finish=finish)
    return whole_reply(reply(made, counted=counted))


def whole_reply(body: Any) -> Reply:
    return json_reply(body, headers=HEADERS)


def frame(value: Any) -> bytes:
    """One event as Google writes it: CRLF, no name, no id."""
    return sse_event(compact(value), newline=b"\r\n")


def text_chunks(*pieces: str, counted: dict[str, Any] | None = None, finish: str = "STOP") -> list[dict[str, Any]]:
    """The chunks of a text: each tells the usage so far, the last how it ended."""
    last = len(pieces) - 1
    return [
        reply(
            candidate(piece, finish=finish if number == last else None),
            counted=counted if number == last else usage(candidates=None if number == 0 else number),
        )
        for number, piece in enumerate(pieces)
    ]


def stream(
    *chunks: dict[str, Any] | bytes | str,
    counted: dict[str, Any] | None = None,
    every_s: float = 0.0,
    end: Step = END,
) -> Reply:
    """A stream of these chunks; texts become such chunks, bytes go as they are. Its end is the body's end."""
    if all(isinstance(piece, str) for piece in chunks):
        said = [piece for piece in chunks if isinstance(piece, str)] or ["Hello", " there!"]
        return events(map(frame, text_chunks(*said, counted=counted)), every_s=every_s, end=end)
    return events((piece if isinstance(piece, bytes) else frame(piece) for piece in chunks), every_s=every_s, end=end)


def events(framed: Iterable[bytes], *, every_s: float = 0.0, end: Step = END) -> Reply:
    pieces: list[bytes | Step] = []
    for number, event in enumerate(framed):
        if every_s and number:
            pieces.append(Pause(every_s))
        pieces.append(event)
    return chunked(pieces, headers={**HEADERS, "content-disposition": "attachment"}, end=end)
