"""Messages, usage and reasons, between protobuf and the domain; both typed services build on it.

`decode_…` takes the name of the field that its message stood in, so that an error can name what is wrong, and raises
GatewayError (`invalid_value`, `missing_field`). `encode_…` never fails.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Final, assert_never

import msgspec

from aistats.gateway.v1 import content_pb2, usage_pb2
from server.domain import limits
from server.domain.events import FinishReason, PartKind
from server.domain.fold import WholePart
from server.domain.guardrail import Finding, ModerationReport
from server.domain.limits import invalid_value, missing_field
from server.domain.money import CURRENCY, UNIT_SIZE, Pricing
from server.domain.request import (
    Audio,
    CacheMark,
    File,
    Image,
    Part,
    RawJson,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from server.domain.trace import Trace
from server.domain.usage import Meta, Usage

_ROLES: Final = {
    content_pb2.ROLE_SYSTEM: Role.SYSTEM,
    content_pb2.ROLE_DEVELOPER: Role.DEVELOPER,
    content_pb2.ROLE_USER: Role.USER,
    content_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
    content_pb2.ROLE_TOOL: Role.TOOL,
}
_PARTS_OF_ROLE: Final[dict[Role, tuple[type[Part], ...]]] = {
    Role.SYSTEM: (Text,),
    Role.DEVELOPER: (Text,),
    Role.USER: (Text, Image, Audio, File),
    Role.ASSISTANT: (Text, Refusal, Reasoning, ToolCall),
    Role.TOOL: (ToolResult,),
}
_FINISH_REASONS: Final = {
    FinishReason.STOP: content_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: content_pb2.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: content_pb2.FINISH_REASON_TOOL_CALLS,
    FinishReason.CONTENT_FILTER: content_pb2.FINISH_REASON_CONTENT_FILTER,
    FinishReason.OTHER: content_pb2.FINISH_REASON_OTHER,
}
_USAGE_SOURCES: Final = {
    "provider": usage_pb2.USAGE_SOURCE_PROVIDER,
    "counted": usage_pb2.USAGE_SOURCE_COUNTED,
}


def decode_turns(messages: Iterable[content_pb2.Message], field: str) -> tuple[Turn, ...]:
    """Messages as turns; at least one, each with at least one part of a kind that its role may hold."""
    turns = tuple(_decode_turn(message, f"{field}[{index}]") for index, message in enumerate(messages))
    if not turns:
        raise missing_field(field)
    return turns


def _decode_turn(message: content_pb2.Message, field: str) -> Turn:
    role = _ROLES.get(message.role)
    if role is None:
        raise missing_field(f"{field}.role")
    if not message.parts:
        raise missing_field(f"{field}.parts")
    if role is Role.TOOL and len(message.parts) != 1:
        raise invalid_value(f"{field}.parts", "must be exactly one tool_result")
    limits.check_length(message.name, limits.MAX_NAME_CHARS, f"{field}.name")
    limits.check_length(message.phase, limits.MAX_NAME_CHARS, f"{field}.phase")
    parts = tuple(decode_part(part, f"{field}.parts[{index}]") for index, part in enumerate(message.parts))
    for index, part in enumerate(parts):
        if not isinstance(part, _PARTS_OF_ROLE[role]):
            kind = message.parts[index].WhichOneof("part")
            raise invalid_value(f"{field}.parts[{index}]", f"cannot be of kind {kind} in a message of role {role}")
    return Turn(role, parts, message.name or None, message.phase or None)


def decode_part(part: content_pb2.ContentPart, field: str) -> Part:
    cache = CacheMark(part.cache_mark.ttl or None) if part.HasField("cache_mark") else None
    decoded = _decode_kind(part, field)
    if cache is None or not isinstance(decoded, Text | Image | File | ToolCall | ToolResult):
        return decoded
    return msgspec.structs.replace(decoded, cache=cache)


def _decode_kind(part: content_pb2.ContentPart, field: str) -> Part:
    match part.WhichOneof("part"):
        case "text":
            return Text(part.text.text)
        case "image":
            return _decode_image(part.image, f"{field}.image")
        case "audio":
            return _decode_audio(part.audio, f"{field}.audio")
        case "file":
            return _decode_file(part.file, f"{field}.file")
        case "refusal":
            return Refusal(part.refusal.text)
        case "reasoning":
            return _decode_reasoning(part.reasoning)
        case "tool_call":
            return _decode_tool_call(part.tool_call, f"{field}.tool_call")
        case "tool_result":
            return _decode_tool_result(part.tool_result, f"{field}.tool_result")
        case None:
            raise missing_field(field)


def _decode_image(image: content_pb2.ImagePart, field: str) -> Image:
    if image.detail:
        limits.check_choice(image.detail, limits.IMAGE_DETAILS, f"{field}.detail")
    url, data, file_id = _decode_source(image, field)
    return Image(url, data, image.media_type or None, file_id, image.detail or None)


def _decode_file(file: content_pb2.FilePart, field: str) -> File:
    url, data, file_id = _decode_source(file, field)
    return File(url, data, file.media_type or None, file_id, file.filename or None)


def _decode_source(
    part: content_pb2.ImagePart | content_pb2.FilePart, field: str
) -> tuple[str | None, str | None, str | None]:
    """URL, base64 data and file id, exactly one of them set."""
    match part.WhichOneof("source"):
        case "url" if part.url:
            return part.url, None, None
        case "data" if part.data:
            return None, base64.b64encode(part.data).decode(), None
        case "file_id" if part.file_id:
            return None, None, part.file_id
        case _:
            raise missing_field(f"{field}.source")


def _decode_audio(audio: content_pb2.AudioPart, field: str) -> Audio:
    if not audio.data:
        raise missing_field(f"{field}.data")
    limits.check_choice(audio.format, limits.AUDIO_FORMATS, f"{field}.format")
    return Audio(base64.b64encode(audio.data).decode(), audio.format)


def _decode_reasoning(part: content_pb2.ReasoningPart) -> Reasoning:
    encrypted = part.encrypted if part.HasField("encrypted") else None
    return Reasoning(part.text, tuple(part.summary), part.signature, encrypted, part.item_id or None)


def _decode_tool_call(part: content_pb2.ToolCallPart, field: str) -> ToolCall:
    if not part.call_id:
        raise missing_field(f"{field}.call_id")
    if not part.name:
        raise missing_field(f"{field}.name")
    return ToolCall(part.call_id, part.name, part.arguments_json, part.custom, part.item_id or None)


def _decode_tool_result(part: content_pb2.ToolResultPart, field: str) -> ToolResult:
    if not part.call_id:
        raise missing_field(f"{field}.call_id")
    content: list[Text | Image | File] = []
    for index, piece in enumerate(part.content):
        decoded = decode_part(piece, f"{field}.content[{index}]")
        if not isinstance(decoded, Text | Image | File):
            raise invalid_value(f"{field}.content[{index}]", "must be text, an image or a file")
        content.append(decoded)
    return ToolResult(part.call_id, tuple(content), part.custom, part.is_error)


def encode_part(part: WholePart) -> content_pb2.ContentPart:
    """One part of a generation, whole."""
    match part.kind:
        case PartKind.TEXT:
            text = content_pb2.TextPart(
                text=part.text,
                annotations_json=[bytes(annotation).decode() for annotation in part.annotations],
                logprobs_json=encode_json(part.logprobs),
            )
            return content_pb2.ContentPart(text=text)
        case PartKind.REFUSAL:
            return content_pb2.ContentPart(refusal=content_pb2.RefusalPart(text=part.text))
        case PartKind.REASONING:
            reasoning = content_pb2.ReasoningPart(text=part.text, signature=part.signature)
            return content_pb2.ContentPart(reasoning=reasoning)
        case PartKind.REASONING_SUMMARY:
            reasoning = content_pb2.ReasoningPart(summary=[part.text], signature=part.signature)
            return content_pb2.ContentPart(reasoning=reasoning)
        case PartKind.TOOL_CALL | PartKind.CUSTOM_TOOL_CALL:
            tool_call = content_pb2.ToolCallPart(
                call_id=part.call_id,
                name=part.name,
                arguments_json=part.text,
                custom=part.kind is PartKind.CUSTOM_TOOL_CALL,
            )
            return content_pb2.ContentPart(tool_call=tool_call)
        case _:
            assert_never(part.kind)


def encode_json(value: RawJson | None) -> str:
    """A JSON value as its text; empty where there is none."""
    return "" if value is None else bytes(value).decode()


def encode_usage(usage: Usage) -> usage_pb2.Usage:
    return usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        output_audio_tokens=usage.output_audio_tokens,
        input_image_tokens=usage.input_image_tokens,
        output_image_tokens=usage.output_image_tokens,
        units=usage.units,
        accepted_prediction_tokens=usage.accepted_prediction_tokens,
        rejected_prediction_tokens=usage.rejected_prediction_tokens,
        source=_USAGE_SOURCES[usage.source],
        pricing=encode_pricing(usage.pricing or Pricing()),
    )


def encode_pricing(pricing: Pricing) -> usage_pb2.Pricing:
    return usage_pb2.Pricing(
        currency=CURRENCY,
        total_nanos=pricing.total_nanos,
        lines=[
            usage_pb2.PricingLine(
                dimension=line.dimension,
                quantity=line.quantity,
                unit_size=UNIT_SIZE,
                unit_price_nanos=line.unit_price_nanos,
                line_nanos=line.line_nanos,
            )
            for line in pricing.lines
        ],
    )


def encode_meta(meta: Meta) -> usage_pb2.Meta:
    return usage_pb2.Meta(
        provider=meta.provider,
        provider_model=meta.provider_model,
        native_response_id=meta.native_response_id,
        latency_ms=meta.latency_ms,
        generation_ms=meta.generation_ms,
        throughput_tps=meta.throughput_tps,
        gateway_ms=meta.gateway_ms,
        attempts=meta.attempts,
        routing=[
            usage_pb2.RoutingRow(provider=row.provider, outcome=row.outcome, score=row.score, breaker=row.breaker)
            for row in meta.routing
        ],
        trace=None if isinstance(meta.trace, msgspec.UnsetType) else _encode_trace(meta.trace),
        moderation=encode_moderation(None if isinstance(meta.moderation, msgspec.UnsetType) else meta.moderation),
    )


def encode_moderation(report: ModerationReport | None) -> usage_pb2.ModerationReport | None:
    if report is None:
        return None
    return usage_pb2.ModerationReport(
        model=report.model, input=_encode_finding(report.input), output=_encode_finding(report.output)
    )


def _encode_finding(finding: Finding | None) -> usage_pb2.ModerationFinding | None:
    return None if finding is None else usage_pb2.ModerationFinding(**msgspec.structs.asdict(finding))


def _encode_trace(trace: Trace) -> usage_pb2.RoutingTrace:
    return usage_pb2.RoutingTrace(
        mode=trace.mode,
        affinity=trace.affinity or "",
        candidates=[usage_pb2.TracedCandidate(**msgspec.structs.asdict(one)) for one in trace.candidates],
        attempts=[usage_pb2.TracedAttempt(**msgspec.structs.asdict(one)) for one in trace.attempts],
    )


def encode_finish_reason(reason: FinishReason) -> content_pb2.FinishReason.ValueType:
    return _FINISH_REASONS[reason]
