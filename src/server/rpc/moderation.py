"""ModerationService: typed verdicts."""

from __future__ import annotations

from collections.abc import Iterable

from aistats.gateway.v1 import content_pb2, moderation_pb2, moderation_pb2_grpc
from server.domain import limits
from server.domain.identity import Call
from server.domain.moderation import MAX_INPUTS, MAX_PARTS, Content, ModerationRequest, Verdict
from server.domain.request import Endpoint, Image, Text
from server.pipeline.moderate import Judged, Moderate
from server.rpc.context import CallContext
from server.rpc.convert import decode_part, encode_meta, encode_usage
from server.rpc.options import decode_provider_options, decode_routing

__all__ = ["ModerationServicer"]


class ModerationServicer(moderation_pb2_grpc.ModerationServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, moderate: Moderate) -> None:
        self._moderate = moderate

    async def CreateModeration(  # type: ignore[override]  # the context is our own
        self, request: moderation_pb2.CreateModerationRequest, context: CallContext
    ) -> moderation_pb2.CreateModerationResponse:
        return encode_judged(await self._moderate(context.call, decode_request(request)), context.call)


def decode_request(request: moderation_pb2.CreateModerationRequest) -> ModerationRequest:
    """Raises GatewayError naming the field that is wrong."""
    if not request.inputs:
        raise limits.missing_field("inputs")
    limits.check_count(len(request.inputs), MAX_INPUTS, "inputs")
    return ModerationRequest(
        endpoint=Endpoint.MODERATIONS,
        model=request.model,
        inputs=tuple(_content(one.parts, f"inputs[{index}].parts") for index, one in enumerate(request.inputs)),
        provider_options=decode_provider_options(request.provider_options_json),
        routing=decode_routing(request.routing),
        trace=request.routing.trace,
    )


def _content(parts: Iterable[content_pb2.ContentPart], field: str) -> Content:
    content: list[Text | Image] = []
    for index, part in enumerate(parts):
        decoded = decode_part(part, f"{field}[{index}]")
        if isinstance(decoded, Image) and decoded.file_id is not None:
            raise limits.invalid_value(f"{field}[{index}].image.file_id", "is not for moderation: send url or data")
        if not isinstance(decoded, Text | Image):
            raise limits.invalid_value(f"{field}[{index}]", "must be text or an image")
        content.append(decoded)
    if not content:
        raise limits.missing_field(field)
    limits.check_count(len(content), MAX_PARTS, field)
    return tuple(content)


def encode_judged(judged: Judged, call: Call) -> moderation_pb2.CreateModerationResponse:
    return moderation_pb2.CreateModerationResponse(
        id=f"modr-{call.suffix}",
        model=judged.model,
        results=[_result(verdict) for verdict in judged.verdicts],
        usage=encode_usage(judged.settled.usage),
        meta=encode_meta(judged.settled.meta),
    )


def _result(verdict: Verdict) -> moderation_pb2.ModerationResult:
    return moderation_pb2.ModerationResult(
        flagged=verdict.flagged,
        categories=[
            moderation_pb2.ModerationCategory(
                name=name,
                flagged=belongs,
                score=verdict.scores.get(name, 0.0),
                applied_input_types=verdict.applied.get(name, ()),
            )
            for name, belongs in verdict.categories.items()
        ],
    )
