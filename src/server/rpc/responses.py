"""ResponsesService: typed responses, whole or event by event, kept and continued."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final, assert_never

import msgspec

from aistats.gateway.v1 import content_pb2, responses_pb2, responses_pb2_grpc
from server.domain import limits
from server.domain.request import Endpoint, GenerationRequest, RawJson, Sampling
from server.domain.response import (
    AnnotationEvent,
    DeltaEvent,
    DoneEvent,
    ErrorEvent,
    EventType,
    ItemEvent,
    LifecycleEvent,
    MessageItem,
    OpaqueOutput,
    OutputItem,
    OutputPart,
    OutputRefusal,
    OutputText,
    PartEvent,
    ReasoningItem,
    ReasoningText,
    Response,
    ResponseEvent,
    ResponseRequest,
    ResponseStatus,
    SummaryText,
    ToolCallItem,
)
from server.pipeline.respond import Respond
from server.rpc.context import CallContext
from server.rpc.convert import decode_turns, encode_json, encode_meta, encode_usage
from server.rpc.options import decode_shared_options

__all__ = ["ResponsesServicer"]

_STATUSES: Final = {
    ResponseStatus.IN_PROGRESS: responses_pb2.RESPONSE_STATUS_IN_PROGRESS,
    ResponseStatus.COMPLETED: responses_pb2.RESPONSE_STATUS_COMPLETED,
    ResponseStatus.INCOMPLETE: responses_pb2.RESPONSE_STATUS_INCOMPLETE,
    ResponseStatus.FAILED: responses_pb2.RESPONSE_STATUS_FAILED,
}
_SAMPLING: Final = ("temperature", "top_p", "max_output_tokens", "top_logprobs")

_UNTOLD: Final = frozenset({EventType.ERROR, EventType.FAILED})
"""What the error status of the call tells instead."""


class ResponsesServicer(responses_pb2_grpc.ResponsesServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    async def CreateResponse(  # type: ignore[override]  # the context is our own
        self, request: responses_pb2.CreateResponseRequest, context: CallContext
    ) -> responses_pb2.CreateResponseResponse:
        response = await self._respond.create(context.call, decode_request(request, stream=False))
        return responses_pb2.CreateResponseResponse(response=encode_response(response))

    async def StreamResponse(  # type: ignore[override]  # the context is our own
        self, request: responses_pb2.CreateResponseRequest, context: CallContext
    ) -> AsyncGenerator[responses_pb2.StreamResponseResponse, None]:
        asked = decode_request(request, stream=True)
        async with aclosing(self._respond.stream(context.call, asked)) as batches:
            async for batch in batches:
                for event in batch:
                    if event.type not in _UNTOLD:
                        yield encode_event(event)

    async def GetResponse(  # type: ignore[override]  # the context is our own
        self, request: responses_pb2.GetResponseRequest, context: CallContext
    ) -> responses_pb2.GetResponseResponse:
        response = await self._respond.get(context.call, _response_id(request))
        return responses_pb2.GetResponseResponse(response=encode_response(response))

    async def DeleteResponse(  # type: ignore[override]  # the context is our own
        self, request: responses_pb2.DeleteResponseRequest, context: CallContext
    ) -> responses_pb2.DeleteResponseResponse:
        deleted = await self._respond.delete(context.call, _response_id(request))
        return responses_pb2.DeleteResponseResponse(id=deleted, deleted=True)


def _response_id(request: responses_pb2.GetResponseRequest | responses_pb2.DeleteResponseRequest) -> str:
    if not request.response_id:
        raise limits.missing_field("response_id")
    return request.response_id


def decode_request(request: responses_pb2.CreateResponseRequest, *, stream: bool) -> ResponseRequest:
    """Raises GatewayError naming the field that is wrong."""
    if not request.model:
        raise limits.missing_field("model")
    shared = decode_shared_options(request, "responses")
    sampling, spellings = _decode_sampling(request)
    continues = bool(request.previous_response_id or {"conversation", "prompt"} & shared.passthrough.keys())
    generation = GenerationRequest(
        endpoint=Endpoint.RESPONSES,
        model=request.model,
        turns=decode_turns(request.input, "input") if request.input or not continues else (),
        stream=stream,
        tools=shared.tools,
        tool_choice=shared.tool_choice,
        parallel_tool_calls=shared.parallel_tool_calls,
        output_format=shared.output_format,
        sampling=sampling,
        reasoning=shared.reasoning,
        parameters={**shared.parameters, **spellings},
        passthrough=shared.passthrough,
        provider_options=shared.provider_options,
        routing=shared.routing,
        trace=request.routing.trace,
        guardrail=shared.guardrail,
    )
    metadata = dict(request.metadata)
    limits.check_metadata(metadata, "metadata")
    return ResponseRequest(
        generation=generation,
        instructions=request.instructions if request.HasField("instructions") else None,
        previous_response_id=request.previous_response_id or None,
        store=request.store if request.HasField("store") else True,
        metadata=metadata,
    )


def _decode_sampling(request: responses_pb2.CreateResponseRequest) -> tuple[Sampling, dict[str, str]]:
    """What is set, and by canonical name the field that it was set in."""
    values: dict[str, Any] = {name: getattr(request, name) for name in _SAMPLING if request.HasField(name)}
    for name, value in values.items():
        limits.check_range(name, value, name)
    spellings = {name: name for name in values}
    if request.include_logprobs or values.get("top_logprobs"):
        values["logprobs"] = True
        spellings["logprobs"] = "include_logprobs" if request.include_logprobs else "top_logprobs"
    if request.include_encrypted_reasoning:
        spellings["reasoning_encrypted_content"] = "include_encrypted_reasoning"
    return Sampling(**values), spellings


def encode_response(response: Response) -> responses_pb2.Response:
    error = response.error
    return responses_pb2.Response(
        id=response.id,
        created_at=response.created_at,
        completed_at=response.completed_at,
        status=_STATUSES[response.status],
        incomplete_reason=response.incomplete_reason or "",
        error_code="" if error is None else error.code,
        error_message="" if error is None else error.message,
        model=response.model,
        output=[_encode_item(item) for item in response.output],
        usage=None if response.usage is None else encode_usage(response.usage),
        meta=None if response.meta is None else encode_meta(response.meta),
        previous_response_id=response.previous_response_id or "",
        metadata=response.metadata,
        service_tier=response.service_tier or "",
    )


def _encode_item(item: OutputItem) -> responses_pb2.OutputItem:
    Item = responses_pb2.OutputItem
    match item:
        case MessageItem(item_id, status, content, phase):
            parts = [_encode_part(part) for part in content]
            message = responses_pb2.OutputMessage(parts=parts, phase=phase or "")
            return Item(id=item_id, status=status, message=message)
        case ToolCallItem(item_id, status, call_id, name, arguments, custom):
            call = content_pb2.ToolCallPart(
                call_id=call_id, name=name, arguments_json=arguments, custom=custom, item_id=item_id
            )
            return Item(id=item_id, status=status, tool_call=call)
        case ReasoningItem(item_id, status, summary, content, encrypted):
            reasoning = content_pb2.ReasoningPart(
                text="\n\n".join(content), summary=summary, encrypted=encrypted, item_id=item_id
            )
            return Item(id=item_id, status=status, reasoning=reasoning)
        case OpaqueOutput(raw):
            known = _OPAQUE.decode(raw)
            return Item(id=_words(known.id), status=_words(known.status), other_json=encode_json(raw))
        case _:
            assert_never(item)


class _Known(msgspec.Struct, frozen=True):
    """What an item of a built-in tool has in common with all others, as its provider wrote it."""

    id: Any = None
    status: Any = None


_OPAQUE: Final = msgspec.json.Decoder(_Known)


def _words(value: Any) -> str:
    """A string, or nothing."""
    return value if isinstance(value, str) else ""


def _encode_part(part: OutputPart) -> content_pb2.ContentPart:
    match part:
        case OutputText(text, annotations, logprobs):
            return content_pb2.ContentPart(
                text=content_pb2.TextPart(
                    text=text,
                    annotations_json=[encode_json(annotation) for annotation in annotations],
                    logprobs_json=_encode_logprobs(logprobs),
                )
            )
        case OutputRefusal(refusal):
            return content_pb2.ContentPart(refusal=content_pb2.RefusalPart(text=refusal))
        case ReasoningText(text):
            return content_pb2.ContentPart(reasoning=content_pb2.ReasoningPart(text=text))
        case SummaryText(text):
            return content_pb2.ContentPart(reasoning=content_pb2.ReasoningPart(summary=[text]))
        case _:
            assert_never(part)


def _encode_logprobs(logprobs: Sequence[RawJson]) -> str:
    return msgspec.json.encode(logprobs).decode() if logprobs else ""


def encode_event(event: ResponseEvent) -> responses_pb2.StreamResponseResponse:
    """An event as its message: the field is named as the event is, without `response.` and with underscores."""
    field = event.type.removeprefix("response.").replace(".", "_")
    fields: dict[str, Any] = {"sequence_number": event.sequence_number, field: _encode_payload(event)}
    return responses_pb2.StreamResponseResponse(**fields)


def _encode_payload(event: ResponseEvent) -> Any:
    match event:
        case DeltaEvent():
            return responses_pb2.DeltaEvent(
                item_id=event.item_id,
                output_index=event.output_index,
                content_index=event.part_index,
                delta=event.delta,
                logprobs_json=_encode_logprobs(event.logprobs),
            )
        case DoneEvent():
            return responses_pb2.DoneEvent(
                item_id=event.item_id,
                output_index=event.output_index,
                content_index=event.part_index,
                text=event.text,
            )
        case PartEvent():
            return responses_pb2.ContentPartEvent(
                item_id=event.item_id,
                output_index=event.output_index,
                content_index=event.part_index,
                part=_encode_part(event.part),
            )
        case ItemEvent():
            return responses_pb2.OutputItemEvent(output_index=event.output_index, item=_encode_item(event.item))
        case AnnotationEvent():
            return responses_pb2.AnnotationEvent(
                item_id=event.item_id,
                output_index=event.output_index,
                content_index=event.part_index,
                annotation_index=event.annotation_index,
                annotation_json=encode_json(event.annotation),
            )
        case LifecycleEvent():
            return encode_response(event.response)
        case ErrorEvent():
            raise ValueError("the status of the call tells of an error")
        case _:
            assert_never(event)
