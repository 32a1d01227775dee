"""ChatService: typed chat completions, whole or event by event."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, assert_never

import msgspec

from aistats.gateway.v1 import chat_pb2, chat_pb2_grpc
from server.domain import limits
from server.domain.events import (
    AnnotationAdded,
    AudioDelta,
    ChoiceEnded,
    Completed,
    GenerationEvent,
    ImagePartial,
    OpaqueItem,
    PartEnded,
    PartKind,
    PartStarted,
    Produced,
    ReasoningDelta,
    Settled,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.fold import WholeGeneration, fold
from server.domain.identity import Call
from server.domain.ports import Generate
from server.domain.request import Endpoint, GenerationRequest, RawJson, Sampling
from server.rpc.context import CallContext
from server.rpc.convert import (
    decode_turns,
    encode_finish_reason,
    encode_json,
    encode_meta,
    encode_part,
    encode_usage,
)
from server.rpc.options import decode_shared_options

__all__ = ["ChatServicer"]

_PART_KINDS: Final = {
    PartKind.TEXT: chat_pb2.PART_KIND_TEXT,
    PartKind.REFUSAL: chat_pb2.PART_KIND_REFUSAL,
    PartKind.REASONING: chat_pb2.PART_KIND_REASONING,
    PartKind.REASONING_SUMMARY: chat_pb2.PART_KIND_REASONING_SUMMARY,
    PartKind.TOOL_CALL: chat_pb2.PART_KIND_TOOL_CALL,
    PartKind.CUSTOM_TOOL_CALL: chat_pb2.PART_KIND_CUSTOM_TOOL_CALL,
}

_OPTIONAL_SAMPLING: Final = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "max_output_tokens",
    "n",
    "logprobs",
    "top_logprobs",
)


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    async def CreateChatCompletion(  # type: ignore[override]  # the context is our own
        self, request: chat_pb2.CreateChatCompletionRequest, context: CallContext
    ) -> chat_pb2.CreateChatCompletionResponse:
        asked = decode_request(request, stream=False)
        async with aclosing(self._generate(context.call, asked)) as events:
            return encode_whole(await fold(events), context.call, request.model)

    async def StreamChatCompletion(  # type: ignore[override]  # the context is our own
        self, request: chat_pb2.CreateChatCompletionRequest, context: CallContext
    ) -> AsyncGenerator[chat_pb2.StreamChatCompletionResponse, None]:
        asked = decode_request(request, stream=True)
        async with aclosing(self._generate(context.call, asked)) as batches:
            async for batch in batches:
                for event in batch:
                    begins = isinstance(event, Started)
                    encoded = _encode_start(context.call, request.model) if begins else encode_event(event)
                    if encoded is not None:
                        yield encoded


def decode_request(request: chat_pb2.CreateChatCompletionRequest, *, stream: bool) -> GenerationRequest:
    """Raises GatewayError naming the field that is wrong."""
    if not request.model:
        raise limits.missing_field("model")
    shared = decode_shared_options(request, "chat")
    sampling, spellings = _decode_sampling(request.sampling)
    return GenerationRequest(
        endpoint=Endpoint.CHAT,
        model=request.model,
        turns=decode_turns(request.messages, "messages"),
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


def _decode_sampling(sampling: chat_pb2.ChatSampling) -> tuple[Sampling, dict[str, str]]:
    """What is set, and by canonical name the field that it was set in."""
    values = {name: getattr(sampling, name) for name in _OPTIONAL_SAMPLING if sampling.HasField(name)}
    for name, value in values.items():
        if name in limits.RANGES:
            limits.check_range(name, value, f"sampling.{name}")
    if "top_logprobs" in values and not values.get("logprobs"):
        raise limits.invalid_value("sampling.top_logprobs", "needs sampling.logprobs to be true")
    if sampling.stop:
        limits.check_count(len(sampling.stop), limits.MAX_STOP_SEQUENCES, "sampling.stop")
        values["stop"] = tuple(sampling.stop)
    if sampling.logit_bias:
        values["logit_bias"] = _decode_logit_bias(sampling)
    return Sampling(**values), {name: f"sampling.{name}" for name in values}


def _decode_logit_bias(sampling: chat_pb2.ChatSampling) -> RawJson:
    """OpenAI's JSON object; whole numbers are written as such, for not every provider takes others."""
    biases: dict[str, float] = {}
    for token, bias in sampling.logit_bias.items():
        field = f"sampling.logit_bias.{token[: limits.MAX_SHOWN_CHARS]}"
        if not (token.isascii() and token.isdigit()):
            raise limits.invalid_value(field, "must have a token id, a whole number, as its key")
        limits.check_range("logit_bias", bias, field)
        biases[token] = int(bias) if bias.is_integer() else bias
    return RawJson(msgspec.json.encode(biases))


def encode_whole(whole: WholeGeneration, call: Call, model: str) -> chat_pb2.CreateChatCompletionResponse:
    return chat_pb2.CreateChatCompletionResponse(
        id=_id_of(call),
        created=call.arrival.created_at,
        model=model,
        choices=[
            chat_pb2.ChatChoice(
                index=choice.index,
                parts=[encode_part(part) for part in choice.parts],
                finish_reason=encode_finish_reason(choice.reason),
                native_finish_reason=choice.native_reason,
            )
            for choice in whole.choices
        ],
        usage=encode_usage(whole.settled.usage),
        meta=encode_meta(whole.settled.meta),
        service_tier=whole.settled.service_tier or "",
    )


def _id_of(call: Call) -> str:
    return f"chatcmpl-{call.suffix}"


def _encode_start(call: Call, model: str) -> chat_pb2.StreamChatCompletionResponse:
    started = chat_pb2.ChatStarted(id=_id_of(call), created=call.arrival.created_at, model=model)
    return chat_pb2.StreamChatCompletionResponse(started=started)


def encode_event(event: GenerationEvent) -> chat_pb2.StreamChatCompletionResponse | None:
    """An event after the first as its message; None for what the stream's last event will tell."""
    Event = chat_pb2.StreamChatCompletionResponse
    match event:
        case TextDelta(choice, part, text, logprobs):
            delta = chat_pb2.TextDelta(choice=choice, part=part, text=text, logprobs_json=encode_json(logprobs))
            return Event(text_delta=delta)
        case ReasoningDelta(choice, part, text, signature):
            return Event(
                reasoning_delta=chat_pb2.ReasoningDelta(choice=choice, part=part, text=text, signature=signature)
            )
        case ToolCallDelta(choice, part, arguments):
            return Event(tool_call_delta=chat_pb2.ToolCallDelta(choice=choice, part=part, arguments=arguments))
        case PartStarted(choice, part, kind, call_id, name):
            return Event(
                part_started=chat_pb2.PartStarted(
                    choice=choice, part=part, kind=_PART_KINDS[kind], call_id=call_id, name=name
                )
            )
        case AnnotationAdded(choice, part, annotation):
            return Event(
                annotation=chat_pb2.Annotation(choice=choice, part=part, annotation_json=encode_json(annotation))
            )
        case PartEnded(choice, part):
            return Event(part_ended=chat_pb2.PartEnded(choice=choice, part=part))
        case ChoiceEnded(choice, reason, native_reason):
            return Event(
                choice_ended=chat_pb2.ChoiceEnded(
                    choice=choice, finish_reason=encode_finish_reason(reason), native_finish_reason=native_reason
                )
            )
        case Settled(usage, meta, service_tier):
            return Event(
                completed=chat_pb2.ChatCompleted(
                    usage=encode_usage(usage), meta=encode_meta(meta), service_tier=service_tier or ""
                )
            )
        case Started() | UsageReported() | Completed():
            return None
        case OpaqueItem():
            raise ValueError("a chat completion cannot carry an item of the Responses API")
        case AudioDelta() | ImagePartial() | Produced():
            raise TypeError("no generation")
        case _:
            assert_never(event)
