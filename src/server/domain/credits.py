"""What credit a team has and what it was spent on, as the team itself may read it."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import date
from typing import Final, Protocol

import msgspec

from server.domain import limits
from server.domain.periods import date_of_day, day_of_date

RECENT_DAYS: Final = 30
MAX_DAYS: Final = 365
DEFAULT_ROWS: Final = 100
MAX_ROWS: Final = 1000
MAX_FILTER_VALUES: Final = limits.MAX_PAGE
"""Of one filter: as many as one page of any list names."""
MAX_FILTER_CHARS: Final = 32_768

_FIRST_DATE: Final = day_of_date(date.min)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class Credits(msgspec.Struct, frozen=True):
    """A team's credit; `recent_…` is today and the 29 days before."""

    balance_nanos: int
    reserved_nanos: int
    recent_cost_nanos: int
    recent_requests: int

    @property
    def available_nanos(self) -> int:
        return self.balance_nanos - self.reserved_nanos


class ActivityQuery(msgspec.Struct, frozen=True):
    """Which rows: of the days from `first_day` to `last_day`, both included; an empty filter lets all pass."""

    first_day: int
    last_day: int
    models: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    endpoints: frozenset[str] = frozenset()
    key_ids: frozenset[str] = frozenset()
    limit: int = DEFAULT_ROWS
    offset: int = 0

    @property
    def days(self) -> int:
        return self.last_day - self.first_day + 1


class ActivityRow(msgspec.Struct, frozen=True):
    """What was used of one model at one endpoint from one provider on one day, by all keys that were asked for.

    `provider` is empty where none served.
    """

    day: int
    model_id: str
    endpoint: str
    provider: str
    requests: int
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nanos: int

    @property
    def date(self) -> str:
        return date_of_day(self.day).isoformat()

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class ActivityPage(msgspec.Struct, frozen=True):
    """One page of rows, the latest day first; `total` and `total_cost_nanos` are of all rows that match."""

    rows: tuple[ActivityRow, ...]
    total: int
    total_cost_nanos: int


class CreditReader(Protocol):
    """What the database knows, each answer of one moment. Raises GatewayError (`database_unavailable`)."""

    async def credits(self, team_id: str, *, since_day: int) -> Credits:
        """The team's credit, and what it used from that day on; zeros for a team that never had any."""
        ...

    async def activity(self, team_id: str, query: ActivityQuery) -> ActivityPage: ...


def first_recent_day(today: int) -> int:
    return today - RECENT_DAYS + 1


def activity_query(
    today: int,
    *,
    days: int | None = None,
    from_date: str | None = None,
    to_date: str | None = None,
    models: Collection[str] = (),
    providers: Collection[str] = (),
    endpoints: Collection[str] = (),
    key_ids: Collection[str] = (),
    limit: int | None = None,
    offset: int | None = None,
) -> ActivityQuery:
    """What a client asked for, None and nothing where it didn't say. Raises GatewayError naming what can't be."""
    first_day, last_day = _period(today, days, from_date, to_date)
    limit = DEFAULT_ROWS if limit is None else limit
    if not 1 <= limit <= MAX_ROWS:
        raise limits.invalid_value("limit", f"must be from 1 to {MAX_ROWS}, not {limit}")
    return ActivityQuery(
        first_day,
        last_day,
        _values(models, "model"),
        _values(providers, "provider"),
        _values(endpoints, "endpoint"),
        _values(key_ids, "key_id"),
        limit,
        offset or 0,
    )


def _period(today: int, days: int | None, from_date: str | None, to_date: str | None) -> tuple[int, int]:
    if days is not None:
        if from_date is not None or to_date is not None:
            raise limits.invalid_value("days", "cannot be given together with `from` or `to`")
        if not 1 <= days <= MAX_DAYS:
            raise limits.invalid_value("days", f"must be from 1 to {MAX_DAYS}, not {days}")
        return today - days + 1, today
    last_day = today if to_date is None else _day(to_date, "to")
    earliest = max(first_recent_day(last_day), _FIRST_DATE)
    first_day = earliest if from_date is None else _day(from_date, "from")
    if first_day > last_day:
        raise limits.invalid_value("from", "must not be later than `to`")
    if last_day - first_day >= MAX_DAYS:
        raise limits.invalid_value("from", f"must be less than {MAX_DAYS} days before `to`")
    return first_day, last_day


def _day(text: str, param: str) -> int:
    try:
        if _DATE.fullmatch(text):
            return day_of_date(date.fromisoformat(text))
    except ValueError:
        pass
    raise limits.invalid_value(param, "must be a date such as 2026-11-22")


def _values(texts: Collection[str], param: str) -> frozenset[str]:
    """The values of a filter that may be repeated or comma-separated; nothing is split before it is known how long."""
    limits.check_count(len(texts), MAX_FILTER_VALUES, param)
    if sum(map(len, texts)) > MAX_FILTER_CHARS:
        raise limits.invalid_value(param, f"must have at most {MAX_FILTER_CHARS} characters")
    values = frozenset(value.strip() for text in texts for value in text.split(",") if value.strip())
    limits.check_count(len(values), MAX_FILTER_VALUES, param)
    return values
