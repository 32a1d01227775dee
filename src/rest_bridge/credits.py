"""The REST face of credits: what credit the caller's team has, and what it was spent on.

Rows are told twice: as `data`, and as `activity` in the shape that the product's SDK reads from `/activity`. Amounts of
dollars are JSON numbers, printed exactly.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from rest_bridge.http import ANY_KEY, Exchange, RestResponse, Route, json_response
from rest_bridge.query import check_query, single, whole_number
from server.domain.credits import (
    ActivityPage,
    ActivityQuery,
    ActivityRow,
    CreditReader,
    Credits,
    activity_query,
    first_recent_day,
)
from server.domain.money import usd
from server.domain.periods import date_of_day, day_of
from server.domain.ports import Clock

_ACTIVITY_QUERY: Final = frozenset({"days", "from", "to", "model", "provider", "endpoint", "key_id", "limit", "offset"})
_CENTS: Final = 100

_encode: Final = msgspec.json.Encoder().encode

Dollars = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "number"})]
"""A JSON number with all of its decimals, as no float has been."""


class TeamCreditsJson(msgspec.Struct, frozen=True):
    """What a team has, and what it was charged today and on the 29 days before."""

    remaining: Dollars
    balance_nanos: int
    reserved_nanos: int
    available_nanos: int
    thirty_day_usage: Dollars
    thirty_day_usage_nanos: int
    thirty_day_requests: int


class CreditsJson(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool = True
    credits: TeamCreditsJson


class CountsJson(msgspec.Struct, frozen=True):
    requests: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    total_tokens: int


class ActivityRowJson(msgspec.Struct, frozen=True, kw_only=True):
    """`provider` is null where none served; the names with underscores repeat others for the product's SDK."""

    date: str
    model: str
    model_permaslug: str
    endpoint: str
    endpoint_id: str
    provider: str | None
    provider_name: str | None
    requests: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    total_tokens: int
    usage: Dollars
    usage_nanos: int
    byok_usage_inference: int = 0


class ActivityEntryJson(msgspec.Struct, frozen=True, kw_only=True):
    """The same as an entry of a whole day, which has no request of its own."""

    timestamp: str
    request_id: None = None
    model: str
    provider: str | None
    endpoint: str
    latency_ms: None = None
    usage: CountsJson
    cost_cents: Dollars


class ActivityJson(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    ok: bool = True
    data: tuple[ActivityRowJson, ...]
    activity: tuple[ActivityEntryJson, ...]
    from_: str
    to: str
    period_days: int
    limit: int
    offset: int
    total: int
    total_count: int
    total_cost_nanos: int
    total_cost_cents: Dollars


class CreditsRest:
    """Handlers of `/v1/credits` and `/v1/activity`."""

    def __init__(self, reader: CreditReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/v1/credits", self.credits, ANY_KEY),
            Route("GET", "/v1/activity", self.activity, ANY_KEY),
            Route("GET", "/v1/analytics", self.activity, ANY_KEY),
        )

    async def credits(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ())
        since_day = first_recent_day(day_of(self._clock.now()))
        credits = await self._reader.credits(exchange.call.principal.team_id, since_day=since_day)
        return json_response(encode_credits(credits))

    async def activity(self, exchange: Exchange) -> RestResponse:
        query = decode_activity_query(exchange, day_of(self._clock.now()))
        page = await self._reader.activity(exchange.call.principal.team_id, query)
        return json_response(encode_activity(page, query))


def encode_credits(credits: Credits) -> bytes:
    told = TeamCreditsJson(
        remaining=_number(credits.available_nanos),
        balance_nanos=credits.balance_nanos,
        reserved_nanos=credits.reserved_nanos,
        available_nanos=credits.available_nanos,
        thirty_day_usage=_number(credits.recent_cost_nanos),
        thirty_day_usage_nanos=credits.recent_cost_nanos,
        thirty_day_requests=credits.recent_requests,
    )
    return _encode(CreditsJson(credits=told))


def encode_activity(page: ActivityPage, query: ActivityQuery) -> bytes:
    return _encode(
        ActivityJson(
            data=tuple(_row(row) for row in page.rows),
            activity=tuple(_entry(row) for row in page.rows),
            from_=date_of_day(query.first_day).isoformat(),
            to=date_of_day(query.last_day).isoformat(),
            period_days=query.days,
            limit=query.limit,
            offset=query.offset,
            total=page.total,
            total_count=page.total,
            total_cost_nanos=page.total_cost_nanos,
            total_cost_cents=_number(page.total_cost_nanos * _CENTS),
        )
    )


def decode_activity_query(exchange: Exchange, today: int) -> ActivityQuery:
    """Raises GatewayError naming the parameter that is unknown, given twice, or cannot be."""
    check_query(exchange.request, _ACTIVITY_QUERY)
    request = exchange.request
    return activity_query(
        today,
        days=whole_number(request, "days"),
        from_date=single(request, "from"),
        to_date=single(request, "to"),
        models=request.query.get("model", ()),
        providers=request.query.get("provider", ()),
        endpoints=request.query.get("endpoint", ()),
        key_ids=request.query.get("key_id", ()),
        limit=whole_number(request, "limit"),
        offset=whole_number(request, "offset"),
    )


def _row(row: ActivityRow) -> ActivityRowJson:
    provider = row.provider or None
    return ActivityRowJson(
        date=row.date,
        model=row.model_id,
        model_permaslug=row.model_id,
        endpoint=row.endpoint,
        endpoint_id=row.endpoint,
        provider=provider,
        provider_name=provider,
        **_counts(row),
        usage=_number(row.cost_nanos),
        usage_nanos=row.cost_nanos,
    )


def _entry(row: ActivityRow) -> ActivityEntryJson:
    return ActivityEntryJson(
        timestamp=f"{row.date}T00:00:00Z",
        model=row.model_id,
        provider=row.provider or None,
        endpoint=row.endpoint,
        usage=CountsJson(**_counts(row)),
        cost_cents=_number(row.cost_nanos * _CENTS),
    )


def _counts(row: ActivityRow) -> dict[str, int]:
    return {
        "requests": row.requests,
        "prompt_tokens": row.input_tokens,
        "completion_tokens": row.output_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "total_tokens": row.total_tokens,
    }


def _number(nanos: int) -> msgspec.Raw:
    return msgspec.Raw(usd(nanos).encode())
