"""MessagesService: typed messages, whole or event by event, and the count of a prompt's tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, Protocol

import msgspec

from aistats.gateway.v1 import chat_pb2, content_pb2, messages_pb2, messages_pb2_grpc
from server.domain import limits
from server.domain.events import ChoiceEnded, FinishReason, GenerationEvent, PartKind, PartStarted, Settled, Started
from server.domain.fold import WholeGeneration, fold
from server.domain.identity import Call
from server.domain.ports import CountTokens, Generate
from server.domain.request import Endpoint, GenerationRequest, RawJson, Role, Sampling, Text, Turn
from server.rpc.chat import encode_event
from server.rpc.context import CallContext
from server.rpc.convert import decode_turns, encode_meta, encode_part, encode_usage
from server.rpc.options import decode_shared_options, decode_tools

__all__ = ["MessagesServicer"]

_STOP_REASONS: Final = {
    FinishReason.STOP: messages_pb2.STOP_REASON_END_TURN,
    FinishReason.LENGTH: messages_pb2.STOP_REASON_MAX_TOKENS,
    FinishReason.TOOL_CALLS: messages_pb2.STOP_REASON_TOOL_USE,
    FinishReason.CONTENT_FILTER: messages_pb2.STOP_REASON_REFUSAL,
    FinishReason.OTHER: messages_pb2.STOP_REASON_OTHER,
}

SERVICE_TIERS: Final = ("auto", "standard_only")
_HINTS: Final = ("service_tier", "user")
"""Parameters that change nothing in the reply: a provider that has no word for one goes without it."""


class MessagesServicer(messages_pb2_grpc.MessagesServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, generate: Generate, count_tokens: CountTokens) -> None:
        self._generate = generate
        self._count_tokens = count_tokens

    async def CreateMessage(  # type: ignore[override]  # the context is our own
        self, request: messages_pb2.CreateMessageRequest, context: CallContext
    ) -> messages_pb2.CreateMessageResponse:
        asked = decode_request(request, stream=False)
        async with aclosing(self._generate(context.call, asked)) as events:
            return encode_whole(await fold(events), context.call, request.model)

    async def StreamMessage(  # type: ignore[override]  # the context is our own
        self, request: messages_pb2.CreateMessageRequest, context: CallContext
    ) -> AsyncGenerator[messages_pb2.StreamMessageResponse, None]:
        asked = decode_request(request, stream=True)
        end, refused = ChoiceEnded(0, FinishReason.OTHER), False
        async with aclosing(self._generate(context.call, asked)) as batches:
            async for batch in batches:
                for event in batch:
                    if isinstance(event, ChoiceEnded):
                        end = event if event.choice == 0 else end
                        continue
                    if isinstance(event, PartStarted) and event.choice == 0:
                        refused = refused or event.kind is PartKind.REFUSAL
                    encoded = _encode_event(event, end, context.call, request.model, refused=refused)
                    if encoded is not None:
                        yield encoded

    async def CountTokens(  # type: ignore[override]  # the context is our own
        self, request: messages_pb2.CountTokensRequest, context: CallContext
    ) -> messages_pb2.CountTokensResponse:
        asked = GenerationRequest(
            endpoint=Endpoint.MESSAGES,
            model=_model(request),
            turns=_turns(request),
            tools=decode_tools(request.tools),
        )
        return messages_pb2.CountTokensResponse(input_tokens=self._count_tokens(asked))


class _Prompt(Protocol):
    @property
    def model(self) -> str: ...

    @property
    def system(self) -> str: ...


def decode_request(request: messages_pb2.CreateMessageRequest, *, stream: bool) -> GenerationRequest:
    """Raises GatewayError naming the field that is wrong."""
    model = _model(request)
    if not request.max_tokens:
        raise limits.missing_field("max_tokens")
    shared = decode_shared_options(request, "messages")
    sampling, spellings = _decode_sampling(request)
    passthrough = dict(shared.passthrough)
    hints: dict[str, RawJson] = {name: passthrough.pop(name) for name in _HINTS if name in passthrough}
    if "service_tier" in hints:
        hints["service_tier"] = _decode_tier(hints["service_tier"])
    required = {name: spelling for name, spelling in shared.parameters.items() if name not in hints}
    if request.sampling.HasField("top_k"):
        passthrough["top_k"] = RawJson(msgspec.json.encode(request.sampling.top_k))
        spellings["top_k"] = "sampling.top_k"
    return GenerationRequest(
        endpoint=Endpoint.MESSAGES,
        model=model,
        turns=_turns(request),
        stream=stream,
        tools=shared.tools,
        tool_choice=shared.tool_choice,
        parallel_tool_calls=shared.parallel_tool_calls,
        output_format=shared.output_format,
        sampling=sampling,
        reasoning=shared.reasoning,
        parameters={**required, **spellings},
        passthrough=passthrough,
        hints=hints,
        provider_options=shared.provider_options,
        routing=shared.routing,
        trace=request.routing.trace,
        guardrail=shared.guardrail,
    )


def _decode_tier(raw: RawJson) -> RawJson:
    """In the word that every dialect knows."""
    tier = msgspec.json.decode(raw, type=str)
    limits.check_choice(tier, SERVICE_TIERS, "parameters_json.service_tier")
    return RawJson(b'"default"' if tier == "standard_only" else b'"auto"')


def _model(request: _Prompt) -> str:
    if not request.model:
        raise limits.missing_field("model")
    return request.model


def _turns(request: messages_pb2.CreateMessageRequest | messages_pb2.CountTokensRequest) -> tuple[Turn, ...]:
    system = (Turn(Role.SYSTEM, (Text(request.system),)),) if request.system else ()
    return (*system, *decode_turns(request.messages, "messages"))


def _decode_sampling(request: messages_pb2.CreateMessageRequest) -> tuple[Sampling, dict[str, str]]:
    """What is set, and by canonical name the field that it was set in."""
    given = request.sampling
    temperature = given.temperature if given.HasField("temperature") else None
    top_p = given.top_p if given.HasField("top_p") else None
    spellings = {"max_output_tokens": "max_tokens"}
    if temperature is not None:
        spellings["temperature"] = "sampling.temperature"
        if not 0 <= temperature <= 1:
            raise limits.invalid_value("sampling.temperature", f"must be from 0 to 1, not {temperature:g}")
    if top_p is not None:
        spellings["top_p"] = "sampling.top_p"
        limits.check_range("top_p", top_p, "sampling.top_p")
    if given.stop_sequences:
        spellings["stop"] = "sampling.stop_sequences"
        limits.check_count(len(given.stop_sequences), limits.MAX_STOP_SEQUENCES, "sampling.stop_sequences")
        if "" in given.stop_sequences:
            raise limits.invalid_value("sampling.stop_sequences", "must not hold an empty string")
    stop = tuple(given.stop_sequences) or None
    return Sampling(temperature=temperature, top_p=top_p, stop=stop, max_output_tokens=request.max_tokens), spellings


def encode_whole(whole: WholeGeneration, call: Call, model: str) -> messages_pb2.CreateMessageResponse:
    choice = next((choice for choice in whole.choices if choice.index == 0), None)
    parts: list[content_pb2.ContentPart] = [] if choice is None else [encode_part(part) for part in choice.parts]
    end, refused = ChoiceEnded(0, FinishReason.OTHER), False
    if choice is not None:
        refused = any(part.kind is PartKind.REFUSAL for part in choice.parts)
        end = ChoiceEnded(0, choice.reason, choice.native_reason, choice.stop_sequence)
    return messages_pb2.CreateMessageResponse(
        id=_id_of(call),
        model=model,
        parts=parts,
        stop_reason=_stop_reason(end, refused=refused),
        native_stop_reason=end.native_reason,
        stop_sequence=end.stop_sequence or "",
        usage=encode_usage(whole.settled.usage),
        meta=encode_meta(whole.settled.meta),
        service_tier=whole.settled.service_tier or "",
    )


def _id_of(call: Call) -> str:
    return f"msg_{call.suffix}"


def _stop_reason(end: ChoiceEnded, *, refused: bool) -> messages_pb2.StopReason.ValueType:
    if end.stop_sequence is not None:
        return messages_pb2.STOP_REASON_STOP_SEQUENCE
    if end.reason is FinishReason.STOP and refused:
        return messages_pb2.STOP_REASON_REFUSAL
    return _STOP_REASONS[end.reason]


def _encode_event(
    event: GenerationEvent, end: ChoiceEnded, call: Call, model: str, *, refused: bool
) -> messages_pb2.StreamMessageResponse | None:
    """An event as its message; None for what the stream's last event will tell, and for any other choice than 0."""
    match event:
        case Started():
            started = messages_pb2.MessageStarted(id=_id_of(call), model=model)
            return messages_pb2.StreamMessageResponse(started=started)
        case Settled(usage, meta, service_tier):
            completed = messages_pb2.MessageCompleted(
                stop_reason=_stop_reason(end, refused=refused),
                native_stop_reason=end.native_reason,
                stop_sequence=end.stop_sequence or "",
                usage=encode_usage(usage),
                meta=encode_meta(meta),
                service_tier=service_tier or "",
            )
            return messages_pb2.StreamMessageResponse(completed=completed)
        case _ if getattr(event, "choice", 0):
            return None
        case _:
            told = encode_event(event)
            return None if told is None else _same(told)


def _same(told: chat_pb2.StreamChatCompletionResponse) -> messages_pb2.StreamMessageResponse | None:
    """A part's event, which is the same message on both services."""
    match told.WhichOneof("event"):
        case "part_started":
            return messages_pb2.StreamMessageResponse(part_started=told.part_started)
        case "text_delta":
            return messages_pb2.StreamMessageResponse(text_delta=told.text_delta)
        case "reasoning_delta":
            return messages_pb2.StreamMessageResponse(reasoning_delta=told.reasoning_delta)
        case "tool_call_delta":
            return messages_pb2.StreamMessageResponse(tool_call_delta=told.tool_call_delta)
        case "annotation":
            return messages_pb2.StreamMessageResponse(annotation=told.annotation)
        case "part_ended":
            return messages_pb2.StreamMessageResponse(part_ended=told.part_ended)
        case _:
            return None
