"""CreditsService: what credit the caller's team has, and what it was spent on."""

from __future__ import annotations

from aistats.gateway.v1 import credits_pb2, credits_pb2_grpc
from server.domain.credits import ActivityRow, CreditReader, activity_query, first_recent_day
from server.domain.periods import date_of_day, day_of
from server.domain.ports import Clock
from server.rpc.context import CallContext

__all__ = ["CreditsServicer"]


class CreditsServicer(credits_pb2_grpc.CreditsServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, reader: CreditReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock

    async def GetCredits(  # type: ignore[override]  # the context is our own
        self, request: credits_pb2.GetCreditsRequest, context: CallContext
    ) -> credits_pb2.GetCreditsResponse:
        since_day = first_recent_day(day_of(self._clock.now()))
        credits = await self._reader.credits(context.call.principal.team_id, since_day=since_day)
        return credits_pb2.GetCreditsResponse(
            balance_nanos=credits.balance_nanos,
            reserved_nanos=credits.reserved_nanos,
            available_nanos=credits.available_nanos,
            thirty_day_usage_nanos=credits.recent_cost_nanos,
            thirty_day_requests=credits.recent_requests,
        )

    async def ListActivity(  # type: ignore[override]  # the context is our own
        self, request: credits_pb2.ListActivityRequest, context: CallContext
    ) -> credits_pb2.ListActivityResponse:
        query = activity_query(
            day_of(self._clock.now()),
            days=request.days if request.HasField("days") else None,
            from_date=request.from_date if request.HasField("from_date") else None,
            to_date=request.to_date if request.HasField("to_date") else None,
            models=request.model,
            providers=request.provider,
            endpoints=request.endpoint,
            key_ids=request.key_id,
            limit=request.limit if request.HasField("limit") else None,
            offset=request.offset if request.HasField("offset") else None,
        )
        page = await self._reader.activity(context.call.principal.team_id, query)
        return credits_pb2.ListActivityResponse(
            rows=[_encode_row(row) for row in page.rows],
            from_date=date_of_day(query.first_day).isoformat(),
            to_date=date_of_day(query.last_day).isoformat(),
            period_days=query.days,
            limit=query.limit,
            offset=query.offset,
            total=page.total,
            total_cost_nanos=page.total_cost_nanos,
        )


def _encode_row(row: ActivityRow) -> credits_pb2.ActivityRow:
    return credits_pb2.ActivityRow(
        date=row.date,
        model=row.model_id,
        endpoint=row.endpoint,
        provider=row.provider,
        requests=row.requests,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        reasoning_tokens=row.reasoning_tokens,
        total_tokens=row.total_tokens,
        cost_nanos=row.cost_nanos,
    )
