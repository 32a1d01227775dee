"""GenerationsService: the records of a team's requests, typed."""

from __future__ import annotations

from aistats.gateway.v1 import generations_pb2, generations_pb2_grpc
from server.domain.limits import missing_field
from server.domain.money import CURRENCY
from server.domain.record import AttemptRecord
from server.domain.records import Found, RecordFilter
from server.pipeline.generations import Generations
from server.rpc.context import CallContext
from server.rpc.convert import encode_moderation, encode_usage

__all__ = ["GenerationsServicer"]


class GenerationsServicer(generations_pb2_grpc.GenerationsServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    async def GetGeneration(  # type: ignore[override]  # the context is our own
        self, request: generations_pb2.GetGenerationRequest, context: CallContext
    ) -> generations_pb2.GetGenerationResponse:
        if not request.generation_id:
            raise missing_field("generation_id")
        found = await self._generations.get(context.call, request.generation_id)
        return generations_pb2.GetGenerationResponse(generation=_encode(found))

    async def ListGenerations(  # type: ignore[override]  # the context is our own
        self, request: generations_pb2.ListGenerationsRequest, context: CallContext
    ) -> generations_pb2.ListGenerationsResponse:
        given = {field.name: value for field, value in request.ListFields()}
        limit, after = given.pop("limit", None), given.pop("after", None)
        since, until = given.pop("from", None), given.pop("to", None)
        wanted = RecordFilter(since=since, until=until, **given)
        page = await self._generations.list(context.call, wanted, after=after, limit=limit)
        return generations_pb2.ListGenerationsResponse(
            generations=[_encode(found) for found in page.data], limit=page.limit, next_cursor=page.next_cursor
        )


def _encode(found: Found) -> generations_pb2.Generation:
    record, content = found.record, found.content
    request = None if content is None else content.request
    return generations_pb2.Generation(
        id=record.id,
        request_id=record.request_id,
        created_at=record.created_at,
        team_id=record.team_id,
        key_id=record.key_id,
        app_id=record.app_id,
        endpoint=record.endpoint,
        model_id=record.model_id,
        provider=record.provider,
        native_response_id=record.native_response_id,
        stream=record.stream,
        byok=record.byok,
        status_code=record.status_code,
        success=record.success,
        error_code=record.error_code,
        error_message=record.error_message,
        finish_reason=record.finish_reason,
        latency_ms=record.latency_ms,
        generation_ms=record.generation_ms,
        gateway_ms=record.gateway_ms,
        throughput=record.throughput,
        usage=None if record.usage is None else encode_usage(record.usage),
        cost_nanos=record.cost_nanos,
        currency=CURRENCY,
        attempts=[_attempt(attempt) for attempt in record.attempts],
        disconnect=record.disconnect,
        replay_supported=found.replayable,
        replay_request_json=None if request is None else request.decode(),
        reply_json=None if content is None else content.reply.decode(),
        parent_id=record.parent_id,
        moderation=encode_moderation(record.moderation),
    )


def _attempt(attempt: AttemptRecord) -> generations_pb2.GenerationAttempt:
    return generations_pb2.GenerationAttempt(
        provider=attempt.provider,
        provider_model=attempt.provider_model,
        status=attempt.status,
        error_code=attempt.error_code,
        latency_ms=attempt.latency_ms,
        billed=attempt.billed,
        cost_nanos=attempt.cost_nanos,
        provider_request_id=attempt.provider_request_id,
    )
