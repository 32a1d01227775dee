"""For every route that takes a body, bodies that it takes: the smallest first, then those with more to get wrong."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from tests.fakes.routes import RestRoute

Json: TypeAlias = Mapping[str, Any]


class FormBody(dict[str, Any]):
    """Of a route that takes forms only: the fields, which go with a file."""


PAID: Final = "acme/test-1"
FREE: Final = "acme/test-1:free"
EMBEDDER: Final = "acme/embeddings-only:free"
SPEAKER: Final = "acme/speaker:free"
LISTENER: Final = "acme/listener:free"
MODERATOR: Final = "acme/moderate:free"
FILMER: Final = "acme/film:free"
PAINTER: Final = "acme/draw:free"
PIXEL: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+M8AAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
SCHEMA: Final[Json] = {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False,
}  # fmt: skip
WAV: Final = (
    b"RIFF\x34\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\xc0\x5d\x00\x00\x80\xbb\x00\x00\x02\x00\x10\x00"
    b"data\x10\x00\x00\x00" + bytes(16)
)
ASKED: Final[Sequence[Json]] = ({"role": "user", "content": "hi"},)
EXTRAS: Final[Json] = {
    "meta": True, "usage": True, "session_id": "s-1", "models": [FREE], "debug": {"enabled": True, "trace": True},
    "provider": {
        "order": ["acme"], "only": ["acme"], "ignore": ["openai"], "allow_fallbacks": False, "sort": "price",
        "max_price": {"prompt": 1, "completion": "2.50"}, "require_parameters": False,
    },
    "provider_options": {"acme": {"logit_bias": {"1": 2}}},
}  # fmt: skip

CHAT: Final[Sequence[Json]] = (
    {"model": FREE, "messages": ASKED},
    {
        **EXTRAS,
        "model": FREE,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "name": "u", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
            ]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Paris"}'}},
            ]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": "d", "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
        "stream": True, "stream_options": {"include_usage": True},
        "temperature": 0.5, "top_p": 1, "max_completion_tokens": 20, "n": 1, "stop": ["\n"], "seed": 7,
        "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {"50256": -100}, "logprobs": False,
        "user": "u-1", "metadata": {"a": "b"}, "store": False,
        "moderation": {"input": "flag", "output": "block", "model": MODERATOR},
    },
)  # fmt: skip
RESPONSES: Final[Sequence[Json]] = (
    {"model": FREE, "input": "hi"},
    {
        **EXTRAS,
        "model": FREE,
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": PIXEL, "detail": "low"},
            ]},
            {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "Rain."},
        ],
        "tools": [{"type": "function", "name": "look", "description": "d", "parameters": SCHEMA, "strict": True}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}},
        "stream": True, "temperature": 0.5, "top_p": 1, "max_output_tokens": 20,
        "user": "u-1", "metadata": {"a": "b"}, "store": False,
        "moderation": {"input": "flag", "output": "block", "model": MODERATOR},
    },
)  # fmt: skip
MESSAGES: Final[Sequence[Json]] = (
    {"model": FREE, "messages": ASKED, "max_tokens": 9},
    {
        "model": FREE,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image", "source": {
                    "type": "base64", "media_type": "image/png", "data": PIXEL.partition(",")[2],
                }},
            ]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain."}]},
        ],
        "tools": [{"name": "look", "description": "d", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "look"},
        "max_tokens": 20, "stream": True, "temperature": 0.5, "top_p": 1, "stop_sequences": ["x"],
        "metadata": {"user_id": "u-1"},
        "moderation": {"input": "flag"},
    },
)  # fmt: skip
COUNTED: Final[Sequence[Json]] = (
    {"model": FREE, "messages": ASKED},
    {name: MESSAGES[1][name] for name in ("model", "system", "messages", "tools", "tool_choice")},
)
PRICED: Final[Sequence[Json]] = (
    {"model": PAID, "usage": {"input_tokens": 9, "output_tokens": 3}},
    {"model": PAID, "provider": "acme", "service_tier": None, "usage": {
        "prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 1},
    }},
    {"model": PAID, "usage": {"dimensions": {"input_text_tokens": 9}}},
)  # fmt: skip
KEY: Final[Sequence[Json]] = (
    {"name": "laptop"},
    {
        "name": "laptop", "scopes": ["inference"], "expires_at": 2_000_000_000, "disabled": True, "limit": "1.50",
        "limit_reset": "daily", "allowed_models": ["acme/*"], "allowed_providers": ["acme"],
        "allowed_cidrs": ["192.0.2.0/24"],
    },
)  # fmt: skip
ROTATED: Final[Sequence[Json]] = ({"overlap_s": 60},)
TOLD: Final[Sequence[Json]] = (
    {"url": "https://hooks.invalid/videos"},
    {"url": "https://hooks.invalid/videos", "events": ["video.completed"], "description": "a site", "disabled": False},
)
REPLAYED: Final[Sequence[Json]] = ({"since": "2026-01-31T12:00:00Z"},)
SPOKEN: Final[Sequence[Json]] = (
    {"model": SPEAKER, "input": "hi", "voice": "alloy"},
    {
        **EXTRAS, "model": SPEAKER, "input": "hi", "voice": {"id": "voice_1"}, "response_format": "wav", "speed": 1.5,
        "instructions": "Softly.", "stream_format": "sse", "models": [SPEAKER],
        "provider_options": {},
    },
)  # fmt: skip
WRITTEN: Final[Sequence[Json]] = (
    FormBody({"model": LISTENER}),
    FormBody({"model": LISTENER, "response_format": "srt", "temperature": "0.5", "prompt": "p", "meta": "true"}),
    {"model": LISTENER, "audio_b64": b64encode(WAV).decode(), "response_format": "verbose_json", "temperature": 0.5},
)
MODERATED: Final[Sequence[Json]] = (
    {"input": "hi"},
    {"model": MODERATOR, "input": ["hi", "there"]},
    {"model": MODERATOR, "input": [{"type": "text", "text": "hi"}], "provider": {"only": ["acme"]}, "meta": True},
)
EMBEDDED: Final[Sequence[Json]] = (
    {"model": EMBEDDER, "input": "hi"},
    {"model": EMBEDDER, "input": ["hi", "there"], "encoding_format": "base64", "dimensions": 2, "user": "u-1"},
    {"model": EMBEDDER, "input": [[1, 2], [3]], "provider": {"only": ["acme"]}, "meta": True},
)
DRAWN: Final[Sequence[Json]] = (
    {"model": PAINTER, "prompt": "A cat."},
    {
        "model": PAINTER, "prompt": "A cat.", "n": 2, "size": "1024x1024", "quality": "low", "background": "opaque",
        "output_format": "png", "output_compression": 90, "moderation": "low", "response_format": "url",
        "user": "u-1", "provider": {"only": ["acme"]}, "meta": True,
    },
)  # fmt: skip
EDITED: Final[Sequence[Json]] = (
    {"model": PAINTER, "prompt": "At night.", "image": PIXEL},
    {"model": PAINTER, "prompt": "At night.", "image": [PIXEL, PIXEL], "mask": PIXEL, "input_fidelity": "low", "n": 1},
)
FILMED: Final[Sequence[Json]] = (
    {"model": FILMER, "prompt": "A cat."},
    {
        "model": FILMER, "prompt": "A cat.", "seconds": "4", "size": "1280x720", "input_reference": PIXEL,
        "provider": {"only": ["cinema"]}, "models": [FILMER], "session_id": "s-1",
    },
)  # fmt: skip
REFERRED: Final[Json] = {
    "model": FILMER, "prompt": "A cat.",
    "input_references": [{"type": "image_url", "role": "first_frame", "image_url": {"url": PIXEL}}],
}  # fmt: skip
REMIXED: Final[Sequence[Json]] = ({"prompt": "At night."},)
NOTHING: Final[Sequence[Json]] = ({},)
LINKED: Final[Sequence[Json]] = (
    {},
    {"variant": "video", "expires_in_seconds": 60, "disposition": "attachment", "index": 0},
)
VIDEO_PATHS: Final = ("/v1/videos", "/v1/video/generation", "/v1/video/generations")
BODIES: Final[Mapping[str, Sequence[Json]]] = {
    "POST /v1/chat/completions": CHAT,
    "POST /v1/responses": RESPONSES,
    "POST /v1/messages": MESSAGES,
    "POST /v1/messages/count_tokens": COUNTED,
    "POST /v1/pricing/calculate": PRICED,
    "POST /v1/embeddings": EMBEDDED,
    "POST /v1/audio": SPOKEN,
    "POST /v1/audio/speech": SPOKEN,
    "POST /v1/audio/transcriptions": WRITTEN,
    "POST /v1/audio/translations": WRITTEN,
    "POST /v1/images/generations": DRAWN,
    "POST /v1/images/edits": EDITED,
    **{f"POST {path}": (*FILMED, REFERRED) for path in VIDEO_PATHS},
    **{f"POST {path}/{{}}/remix": REMIXED for path in VIDEO_PATHS},
    **{f"POST {path}/{{}}/cancel": NOTHING for path in VIDEO_PATHS},
    **{f"POST {path}/{{}}/download_url": LINKED for path in VIDEO_PATHS},
    "POST /v1/moderations": MODERATED,
    "POST /v1/moderation": MODERATED,
    **{f"POST /v1/{name}": KEY for name in ("api-keys", "keys")},
    **{f"PATCH /v1/{name}/{{}}": KEY for name in ("api-keys", "keys")},
    **{f"POST /v1/{name}/{{}}/rotate": ROTATED for name in ("api-keys", "keys")},
    "POST /v1/webhooks": TOLD,
    "PATCH /v1/webhooks/{}": TOLD[1:],
    "POST /v1/webhooks/{}/rotate_secret": ROTATED,
    "POST /v1/webhooks/{}/test": NOTHING,
    "POST /v1/webhooks/{}/replay": REPLAYED,
    "POST /v1/webhooks/{}/deliveries/{}/replay": NOTHING,
}


def request_of(body: Json) -> dict[str, Any]:
    """What httpx sends such a body by."""
    if not isinstance(body, FormBody):
        return {"json": body}
    return {"data": body, "files": {"file": ("a.wav", WAV, "audio/wav")}}


def bodies(route: RestRoute) -> Sequence[Json]:
    """Raises LookupError where a route has none: give it some."""
    return BODIES[re.sub(r"\{[^}]*\}", "{}", str(route))]
