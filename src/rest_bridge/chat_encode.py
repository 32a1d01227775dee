"""A generation as OpenAI's chat completions tell it: one object, or a chunk for each event.

Both are made from the same events. A chunk costs little: what is the same in every chunk of a part is encoded once,
when the part begins, and a delta only adds its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, assert_never

import msgspec

from rest_bridge.chat_decode import ChatOrder
from rest_bridge.errors import error_body
from rest_bridge.pricing_json import PricingJson, usage_pricing
from rest_bridge.sse import DONE
from server.domain.errors import GatewayError, Reason
from server.domain.events import (
    AnnotationAdded,
    AudioDelta,
    ChoiceEnded,
    Completed,
    FinishReason,
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
from server.domain.fold import WholeChoice, WholeGeneration, WholePart, join_arrays
from server.domain.identity import Arrival
from server.domain.request import RawJson
from server.domain.usage import Meta, Usage

_REASONING: Final = (PartKind.REASONING, PartKind.REASONING_SUMMARY)
_TOOL_CALLS: Final = (PartKind.TOOL_CALL, PartKind.CUSTOM_TOOL_CALL)

_json: Final = msgspec.json.Encoder().encode


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    audio_tokens: int
    cache_write_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class ChatUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    pricing: PricingJson


class _Function(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class _Custom(msgspec.Struct, frozen=True):
    name: str
    input: str


class _FunctionCall(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    id: str
    function: _Function


class _CustomCall(msgspec.Struct, frozen=True, tag_field="type", tag="custom"):
    id: str
    custom: _Custom


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    role: str = "assistant"
    content: str | None
    refusal: str | None
    annotations: tuple[RawJson, ...]
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning_signature: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: tuple[_FunctionCall | _CustomCall, ...] | msgspec.UnsetType = msgspec.UNSET


class _Logprobs(msgspec.Struct, frozen=True):
    content: RawJson | None
    refusal: RawJson | None


class _Choice(msgspec.Struct, frozen=True):
    index: int
    message: _Message
    logprobs: _Logprobs | None
    finish_reason: str


class CompletionJson(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: tuple[_Choice, ...]
    usage: ChatUsage
    service_tier: str | None
    system_fingerprint: str | None
    meta: Meta | msgspec.UnsetType


def completion_id(arrival: Arrival) -> str:
    return f"chatcmpl-{arrival.suffix}"


def chat_usage(usage: Usage) -> ChatUsage:
    """Usage in this surface's words, and what it cost."""
    return ChatUsage(
        usage.input_tokens,
        usage.output_tokens,
        usage.total_tokens,
        PromptTokensDetails(usage.cached_input_tokens, usage.input_audio_tokens, usage.cache_write_tokens),
        CompletionTokensDetails(
            usage.reasoning_tokens,
            usage.output_audio_tokens,
            usage.accepted_prediction_tokens,
            usage.rejected_prediction_tokens,
        ),
        usage_pricing(usage),
    )


def finish_reason(reason: FinishReason, native: str) -> str:
    """OpenAI's word; where the tables know none, the provider's own, never a `stop` that it didn't say."""
    return (native or reason.value) if reason is FinishReason.OTHER else reason.value


def encode_completion(whole: WholeGeneration, order: ChatOrder, arrival: Arrival) -> bytes:
    """The body of a unary reply."""
    settled = whole.settled
    if any(isinstance(item, OpaqueItem) for item in whole.output):
        raise _cannot_carry()
    return _json(
        CompletionJson(
            id=completion_id(arrival),
            created=arrival.created_at,
            model=order.request.model,
            choices=tuple(_choice(choice) for choice in whole.choices),
            usage=chat_usage(settled.usage),
            service_tier=settled.service_tier,
            system_fingerprint=whole.started.system_fingerprint,
            meta=settled.meta if order.wants_meta else msgspec.UNSET,
        )
    )


def _choice(choice: WholeChoice) -> _Choice:
    texts = [part for part in choice.parts if part.kind is PartKind.TEXT]
    refusals = [part for part in choice.parts if part.kind is PartKind.REFUSAL]
    thoughts = [part for part in choice.parts if part.kind in _REASONING]
    calls = tuple(_call(part) for part in choice.parts if part.kind in _TOOL_CALLS)
    message = _Message(
        content=_joined(texts),
        refusal=_joined(refusals),
        annotations=tuple(annotation for part in texts for annotation in part.annotations),
        reasoning_content=_joined(thoughts) or msgspec.UNSET,
        reasoning_signature="".join(part.signature for part in thoughts) or msgspec.UNSET,
        tool_calls=calls or msgspec.UNSET,
    )
    reason = finish_reason(choice.reason, choice.native_reason)
    return _Choice(choice.index, message, _logprobs(texts, refusals), reason)


def _joined(parts: Sequence[WholePart]) -> str | None:
    return "".join(part.text for part in parts) if parts else None


def _call(part: WholePart) -> _FunctionCall | _CustomCall:
    if part.kind is PartKind.CUSTOM_TOOL_CALL:
        return _CustomCall(part.call_id, _Custom(part.name, part.text))
    return _FunctionCall(part.call_id, _Function(part.name, part.text))


def _logprobs(texts: Sequence[WholePart], refusals: Sequence[WholePart]) -> _Logprobs | None:
    content, refusal = ([part.logprobs for part in parts if part.logprobs is not None] for parts in (texts, refusals))
    if not content and not refusal:
        return None
    return _Logprobs(join_arrays(content) if content else None, join_arrays(refusal) if refusal else None)


def _cannot_carry() -> GatewayError:
    return GatewayError(
        Reason.STREAM_INTERRUPTED, "The provider sent an output item that chat completions cannot carry."
    )


class _OpenPart:
    """What the chunks of one part have in common: `head`, a JSON string, `tail`."""

    __slots__ = ("head", "kind", "tail")

    def __init__(self, kind: PartKind, head: bytes, tail: bytes) -> None:
        self.kind = kind
        self.head = head
        self.tail = tail


class ChatStreamEncoder:
    """Implements `rest_bridge.sse.StreamEncoder` for chat."""

    def __init__(self, order: ChatOrder, arrival: Arrival) -> None:
        self._order = order
        self._arrival = arrival
        self._prefix = b""
        # OpenAI prints the field in every chunk where the last one will tell the usage.
        self._suffix = b'],"usage":null}\n\n' if order.wants_usage else b"]}\n\n"
        self._parts: dict[tuple[int, int], _OpenPart] = {}
        self._calls_of_choice: dict[int, int] = {}
        self._settled: Settled | None = None

    def encode(self, events: Sequence[GenerationEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is TextDelta and event.logprobs is None:
                part = self._parts[event.choice, event.part]
                out += (part.head, _json(event.text), part.tail)
            else:
                self._other(event, out)
        return b"".join(out)

    def end(self) -> bytes:
        settled, order = self._settled, self._order
        if settled is None or not (order.wants_usage or order.wants_meta):
            return DONE
        tier = b'"service_tier":%b,' % _json(settled.service_tier)
        usage = b',"usage":%b' % _json(chat_usage(settled.usage) if order.wants_usage else None)
        meta = b',"meta":%b' % _json(settled.meta) if order.wants_meta else b""
        head = self._prefix.removesuffix(b'"choices":[')
        return b'%b%b"choices":[]%b%b}\n\n%b' % (head, tier, usage, meta, DONE)

    def fail(self, error: GatewayError) -> bytes:
        """The event that OpenAI's SDKs raise APIError from, with the contract's own fields beside theirs."""
        told: dict[str, Any] = msgspec.to_builtins(error_body(error, self._arrival.generation_id))
        told = {"message": told["description"], "type": told["error"], "code": told["reason"], **told}
        return b"data: %b\n\n" % _json({"error": told})

    def _other(self, event: GenerationEvent, out: list[bytes]) -> None:
        match event:
            case TextDelta():
                part = self._parts[event.choice, event.part]
                out.append(self._with_logprobs(event, part))
            case ReasoningDelta():
                part = self._parts[event.choice, event.part]
                if event.text:
                    out += (part.head, _json(event.text), part.tail)
                if event.signature:
                    out.append(self._chunk(event.choice, b'{"reasoning_signature":%b}' % _json(event.signature)))
            case ToolCallDelta():
                part = self._parts[event.choice, event.part]
                out += (part.head, _json(event.arguments), part.tail)
            case PartStarted():
                self._open_choice(event.choice, out)
                self._open_part(event, out)
            case AnnotationAdded():
                annotation = one_line(event.annotation)
                out.append(self._chunk(event.choice, b'{"annotations":[%b]}' % annotation))
            case ChoiceEnded():
                self._open_choice(event.choice, out)
                reason = _json(finish_reason(event.reason, event.native_reason))
                out.append(self._chunk(event.choice, b"{}", reason=reason))
            case Started():
                self._prefix = self._opening(event)
                self._open_choice(0, out)
            case Settled():
                self._settled = event
            case OpaqueItem():
                raise _cannot_carry()
            case AudioDelta() | ImagePartial() | Produced():
                raise TypeError("no generation")
            case PartEnded() | UsageReported() | Completed():
                pass
            case _:
                assert_never(event)

    def _opening(self, started: Started) -> bytes:
        return b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,%b"choices":[' % (
            _json(completion_id(self._arrival)),
            self._arrival.created_at,
            _json(self._order.request.model),
            b'"system_fingerprint":%b,' % _json(started.system_fingerprint),
        )

    def _open_choice(self, choice: int, out: list[bytes]) -> None:
        """The first chunk of a choice says who speaks."""
        if choice not in self._calls_of_choice:
            self._calls_of_choice[choice] = 0
            out.append(self._chunk(choice, b'{"role":"assistant","content":"","refusal":null}'))

    def _open_part(self, start: PartStarted, out: list[bytes]) -> None:
        opening, closing = b"", b""
        match start.kind:
            case PartKind.TEXT:
                opening, closing = b'{"content":', b"}"
            case PartKind.REFUSAL:
                opening, closing = b'{"refusal":', b"}"
            case PartKind.REASONING | PartKind.REASONING_SUMMARY:
                opening, closing = b'{"reasoning_content":', b"}"
            case PartKind.TOOL_CALL | PartKind.CUSTOM_TOOL_CALL:
                opening, closing = self._open_call(start, out)
            case _:
                assert_never(start.kind)
        head = b'%b{"index":%d,"delta":%b' % (self._prefix, start.choice, opening)
        tail = b'%b,"logprobs":null,"finish_reason":null}%b' % (closing, self._suffix)
        self._parts[start.choice, start.part] = _OpenPart(start.kind, head, tail)

    def _open_call(self, start: PartStarted, out: list[bytes]) -> tuple[bytes, bytes]:
        """Send a tool call's own chunk, which alone has its id and name. What surrounds its later fragments."""
        index = self._calls_of_choice[start.choice]
        self._calls_of_choice[start.choice] = index + 1
        kind, text = (b"function", b"arguments") if start.kind is PartKind.TOOL_CALL else (b"custom", b"input")
        call = b'{"index":%d,"id":%b,"type":"%b","%b":{"name":%b,"%b":""}}' % (
            index, _json(start.call_id), kind, kind, _json(start.name), text,
        )  # fmt: skip
        out.append(self._chunk(start.choice, b'{"tool_calls":[%b]}' % call))
        return b'{"tool_calls":[{"index":%d,"%b":{"%b":' % (index, kind, text), b"}}]}"

    def _with_logprobs(self, event: TextDelta, part: _OpenPart) -> bytes:
        assert event.logprobs is not None
        told = one_line(event.logprobs)
        if part.kind is PartKind.REFUSAL:
            delta, logprobs = b'{"refusal":%b}', b'{"content":null,"refusal":%b}'
        else:
            delta, logprobs = b'{"content":%b}', b'{"content":%b,"refusal":null}'
        return self._chunk(event.choice, delta % _json(event.text), logprobs=logprobs % told)

    def _chunk(self, choice: int, delta: bytes, *, logprobs: bytes = b"null", reason: bytes = b"null") -> bytes:
        return b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._prefix, choice, delta, logprobs, reason, self._suffix,
        )  # fmt: skip


def one_line(raw: RawJson) -> bytes:
    """A JSON value as its sender wrote it, but without line breaks, which would end an event's data."""
    written = bytes(raw)
    return msgspec.json.format(written, indent=-1) if b"\n" in written or b"\r" in written else written
