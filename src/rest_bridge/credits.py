"""The REST face of credits: what credit the caller's team has, and what it was spent on.

Rows are told twice: as `data`, and as `activity` in the shape that the product's SDK reads from `/activity`. Amounts of
dollars are JSON numbers, printed exactly.
"""

from __future__ import annotations

from typing import Any, Final

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
    told = {
        "remaining": _number(credits.available_nanos),
        "balance_nanos": credits.balance_nanos,
        "reserved_nanos": credits.reserved_nanos,
        "available_nanos": credits.available_nanos,
        "thirty_day_usage": _number(credits.recent_cost_nanos),
        "thirty_day_usage_nanos": credits.recent_cost_nanos,
        "thirty_day_requests": credits.recent_requests,
    }
    return _encode({"ok": True, "credits": told})


def encode_activity(page: ActivityPage, query: ActivityQuery) -> bytes:
    return _encode(
        {
            "ok": True,
            "data": [_row(row) for row in page.rows],
            "activity": [_entry(row) for row in page.rows],
            "from": date_of_day(query.first_day).isoformat(),
            "to": date_of_day(query.last_day).isoformat(),
            "period_days": query.days,
            "limit": query.limit,
            "offset": query.offset,
            "total": page.total,
            "total_count": page.total,
            "total_cost_nanos": page.total_cost_nanos,
            "total_cost_cents": _number(page.total_cost_nanos * _CENTS),
        }
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


def _row(row: ActivityRow) -> dict[str, Any]:
    """`provider` is null where none served; the names with underscores repeat others for the product's SDK."""
    provider = row.provider or None
    return {
        "date": row.date,
        "model": row.model_id,
        "model_permaslug": row.model_id,
        "endpoint": row.endpoint,
        "endpoint_id": row.endpoint,
        "provider": provider,
        "provider_name": provider,
        **_counts(row),
        "usage": _number(row.cost_nanos),
        "usage_nanos": row.cost_nanos,
        "byok_usage_inference": 0,
    }


def _entry(row: ActivityRow) -> dict[str, Any]:
    """The same as an entry of a whole day, which has no request of its own."""
    return {
        "timestamp": f"{row.date}T00:00:00Z",
        "request_id": None,
        "model": row.model_id,
        "provider": row.provider or None,
        "endpoint": row.endpoint,
        "latency_ms": None,
        "usage": _counts(row),
        "cost_cents": _number(row.cost_nanos * _CENTS),
    }


def _counts(row: ActivityRow) -> dict[str, int]:
    return {
        "requests": row.requests,
        "prompt_tokens": row.input_tokens,
        "completion_tokens": row.output_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "total_tokens": row.total_tokens,
    }


def _number(nanos: int) -> msgspec.Raw:
    """Dollars as a JSON number with all of its decimals, as no float has been."""
    return msgspec.Raw(usd(nanos).encode())
