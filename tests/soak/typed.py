"""A typed client that leaves where its plan says, and remembers what it saw as `tests.chaos.client` does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # the package has no stubs

from aistats.gateway.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    content_pb2,
    embeddings_pb2,
    embeddings_pb2_grpc,
)
from tests.chaos.client import GIVE_UP_S, Seen
from tests.chaos.plan import Plan

_STATUS: Final = {
    "insufficient_funds": 402,
    "rate_limit_error": 429,
    "provider_error": 502,
    "unavailable_error": 503,
    "timeout_error": 504,
}
_DETAILS: Final = "grpc-status-details-bin"


class _Left(Exception):
    """The client goes now."""


async def ask_typed(plan: Plan, seen: Seen, channel: grpc.aio.Channel, key: str) -> None:
    """Make one call; `seen` is filled as it goes."""
    metadata = (("authorization", f"Bearer {key}"),)
    leave = plan.leave
    goes_after_s = leave.after_s if leave is not None and (leave.when == "before" or not plan.stream) else None
    seen.started_at = time.monotonic()
    call: Any = _call(plan, channel, metadata)
    try:
        await asyncio.wait_for(_read(plan, seen, call), goes_after_s)
    except (TimeoutError, _Left):
        seen.left = True
    except grpc.aio.AioRpcError as error:
        _note_error(seen, error)
    finally:
        seen.ended_at = time.monotonic()
        call.cancel()


def _call(plan: Plan, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> Any:
    order = [] if plan.prefers is None else [plan.prefers]
    routing = content_pb2.RoutingOptions(order=order)
    *system, user = plan.turns
    if plan.surface == "embeddings":
        vectors = embeddings_pb2_grpc.EmbeddingsServiceStub(channel)
        asked = embeddings_pb2.CreateEmbeddingsRequest(model=plan.model, texts=[user], routing=routing)
        return vectors.CreateEmbeddings(asked, metadata=metadata, timeout=GIVE_UP_S)
    turns = [*((content_pb2.ROLE_SYSTEM, text) for text in system), (content_pb2.ROLE_USER, user)]
    messages = [
        content_pb2.Message(role=role, parts=[content_pb2.ContentPart(text=content_pb2.TextPart(text=text))])
        for role, text in turns
    ]
    sampling = chat_pb2.ChatSampling(max_output_tokens=plan.max_tokens)
    request = chat_pb2.CreateChatCompletionRequest(
        model=plan.model, messages=messages, sampling=sampling, routing=routing
    )
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    method = chat.StreamChatCompletion if plan.stream else chat.CreateChatCompletion
    return method(request, metadata=metadata, timeout=GIVE_UP_S)


async def _read(plan: Plan, seen: Seen, call: Any) -> None:
    _note_id(seen, await call.initial_metadata())
    if not plan.stream:
        reply = await call
        seen.status, seen.complete, seen.usage = 200, True, _usage(reply)
        if plan.surface == "chat":
            seen.text = "".join(part.text.text for choice in reply.choices for part in choice.parts)
        return
    texts = 0
    async for event in call:
        seen.status = 200
        kind = event.WhichOneof("event")
        if kind == "completed":
            seen.complete, seen.usage = True, _usage(event.completed)
        elif kind == "text_delta":
            seen.text += event.text_delta.text
            texts += 1
        if (leave := plan.leave) is not None and (
            (leave.when == "middle" and texts >= leave.events) or (leave.when == "end" and kind == "part_ended")
        ):
            raise _Left


def _usage(message: Any) -> dict[str, Any] | None:
    if not message.HasField("usage"):
        return None
    return {"pricing": {"total_nanos": message.usage.pricing.total_nanos}}


def _note_id(seen: Seen, metadata: Any) -> None:
    for name, value in metadata or ():
        if name == "x-generation-id":
            seen.suffix = str(value).removeprefix("gen_")


def _note_error(seen: Seen, error: grpc.aio.AioRpcError) -> None:
    _note_id(seen, error.initial_metadata())
    _note_id(seen, error.trailing_metadata())
    trailers = dict(error.trailing_metadata() or ())
    if _DETAILS not in trailers:
        seen.hung, seen.broken = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, True
        seen.error = f"{error.code().name} {error.details()}"
        return
    info = error_details_pb2.ErrorInfo()
    with contextlib.suppress(IndexError):
        status_pb2.Status.FromString(trailers[_DETAILS]).details[0].Unpack(info)
    seen.error, seen.reason = info.metadata["error"], info.reason
    if seen.status is None:
        seen.status = _STATUS.get(seen.error, 500)
