"""What OpenAI's chat completions look like on the wire."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.fakes.replies import END, compact, json_reply, sse, sse_event
from tests.fakes.wire import Reply, Step

MODEL = "test-1-2026-10-01"
ID = "chatcmpl-upstream1"
CREATED = 1_790_000_000
DONE = b"data: [DONE]\n\n"


def usage(prompt: int = 9, completion: int = 3, *, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion(
    content: str | None = "Hello there!",
    *,
    finish_reason: str = "stop",
    usage_: dict[str, Any] | None = None,
    message: dict[str, Any] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """A `chat.completion`; `message` overrides fields of the assistant message, `extra` of the whole."""
    whole_message = {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "annotations": [],
        **(message or {}),
    }
    return {
        "id": ID,
        "object": "chat.completion",
        "created": CREATED,
        "model": MODEL,
        "choices": [{"index": 0, "message": whole_message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": usage() if usage_ is None else usage_,
        "service_tier": "default",
        "system_fingerprint": "fp_test",
        **extra,
    }


def tool_call(name: str, arguments: str, *, id: str = "call_1", index: int | None = None) -> dict[str, Any]:
    """One entry of `tool_calls`: of a message, or with `index` of a delta."""
    call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return call if index is None else {"index": index, **call}


def delta_chunk(
    delta: dict[str, Any], *, finish_reason: str | None = None, choice: int = 0, **extra: Any
) -> dict[str, Any]:
    """A `chat.completion.chunk` with one choice."""
    return {
        "id": ID,
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
        "service_tier": "default",
        "system_fingerprint": "fp_test",
        "choices": [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
        **extra,
    }


def role_chunk() -> dict[str, Any]:
    return delta_chunk({"role": "assistant", "content": "", "refusal": None})


def text_chunk(text: str, **extra: Any) -> dict[str, Any]:
    return delta_chunk({"content": text}, **extra)


def finish_chunk(reason: str = "stop", **extra: Any) -> dict[str, Any]:
    return delta_chunk({}, finish_reason=reason, **extra)


def usage_chunk(counted: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    """The chunk with empty `choices` that `stream_options.include_usage` asks for."""
    return {**delta_chunk({}), "choices": [], "usage": counted or usage(), **extra}


def text_chunks(
    *pieces: str, finish_reason: str = "stop", usage_: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The chunks of OpenAI's own sequence: role, text, finish, usage."""
    return [role_chunk(), *map(text_chunk, pieces), finish_chunk(finish_reason), usage_chunk(usage_)]


def frame(chunks: Iterable[dict[str, Any]], *, done: bool = True) -> list[bytes]:
    """Each chunk as an event, and `[DONE]`."""
    return [*(sse_event(compact(value)) for value in chunks), *([DONE] if done else [])]


def chat_unary(content: str = "Hello there!", *, usage_: dict[str, Any] | None = None, **extra: Any) -> Reply:
    return json_reply(completion(content, usage_=usage_, **extra), headers={"x-request-id": "req_upstream1"})


def chat_tool_calls(*calls: dict[str, Any]) -> Reply:
    return json_reply(completion(None, finish_reason="tool_calls", message={"tool_calls": list(calls)}))


def chat_stream(
    *pieces: str,
    finish_reason: str = "stop",
    usage_: dict[str, Any] | None = None,
    every_s: float = 0.0,
    done: bool = True,
    end: Step = END,
) -> Reply:
    """A stream of these texts (default: two); `every_s` seconds between events."""
    chunks = text_chunks(*(pieces or ("Hello", " there!")), finish_reason=finish_reason, usage_=usage_)
    return chat_chunks(chunks, every_s=every_s, done=done, end=end)


def chat_chunks(chunks: Iterable[dict[str, Any]], *, every_s: float = 0.0, done: bool = True, end: Step = END) -> Reply:
    """A stream of exactly these chunks."""
    return sse(frame(chunks, done=done), every_s=every_s, end=end)
