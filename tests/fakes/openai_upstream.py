"""A stand-in for OpenAI-compatible upstreams, wire-exact and scriptable.

    async with Upstream() as upstream:
        upstream.script(rate_limited("3"), chat_stream("Hel", "lo"))
        ...                                     # call upstream.base_url
        assert upstream.requests[0].json["model"] == "test-1"

Without a script it answers as OpenAI does: `/chat/completions` and `/responses` whole or streamed as the body
asks, `/models` with one model, anything else with 404.
"""

from __future__ import annotations

import json
import ssl

from tests.fakes.chat_wire import MODEL, chat_chunks, chat_stream, chat_tool_calls, chat_unary, text_chunks
from tests.fakes.replies import (
    encoded,
    encoded_sse,
    error,
    json_reply,
    rate_limited,
    raw,
    refused_late,
    silent,
    sse,
    whole,
)
from tests.fakes.responses_wire import responses_events, responses_stream, responses_unary
from tests.fakes.wire import (
    Call,
    Cut,
    Disconnect,
    Endless,
    Hang,
    Pause,
    Reply,
    Request,
    Reset,
    Script,
    Send,
    Step,
    WireServer,
)

__all__ = [
    "Call",
    "Cut",
    "Disconnect",
    "Endless",
    "Hang",
    "Pause",
    "Reply",
    "Request",
    "Reset",
    "Script",
    "Send",
    "Step",
    "Upstream",
    "as_openai",
    "chat_chunks",
    "chat_stream",
    "chat_tool_calls",
    "chat_unary",
    "encoded",
    "encoded_sse",
    "error",
    "json_reply",
    "rate_limited",
    "raw",
    "refused_late",
    "responses_events",
    "responses_stream",
    "responses_unary",
    "silent",
    "sse",
    "text_chunks",
    "whole",
]


def as_openai(request: Request) -> Reply:
    """What the real one would say, in a few words."""
    path = request.path.partition("?")[0]
    if request.method == "GET" and path.endswith("/models"):
        return json_reply({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "test"}]})
    try:
        body = json.loads(request.body)
    except ValueError:
        return error(400, "We could not parse the JSON body.", type="invalid_request_error")
    streamed = isinstance(body, dict) and body.get("stream") is True
    if path.endswith("/chat/completions"):
        if not streamed:
            return chat_unary()
        chunks = text_chunks("Hello", " there!")
        wants_usage = (body.get("stream_options") or {}).get("include_usage")
        return chat_chunks(chunks if wants_usage else chunks[:-1])
    if path.endswith("/responses"):
        items = body["input"] if isinstance(body["input"], list) else []
        for place, item in enumerate(items):
            if item.get("type") == "reasoning" and item.get("content"):
                said = f"Invalid 'input[{place}].content': array too long. Expected an array with maximum length 0."
                return error(400, said, type="invalid_request_error", code="array_above_max_length")
        return responses_stream() if streamed else responses_unary()
    return error(404, "Invalid URL.", type="invalid_request_error")


class Upstream(WireServer):
    """The stand-in on a port of its own; see `WireServer` for scripts, records and what can be awaited."""

    def __init__(
        self,
        default: Script = as_openai,
        *,
        port: int = 0,
        keep_alive_s: float | None = None,
        send_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(default=default, port=port, keep_alive_s=keep_alive_s, send_buffer=send_buffer, tls=tls)

    async def __aenter__(self) -> Upstream:
        await super().__aenter__()
        return self

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"
