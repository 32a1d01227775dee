"""Where the periods of spend limits begin."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.ledger import LimitReset
from server.domain.periods import FIRST_DAY, date_of_day, day_of, day_of_date, period_start_day


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("reset", "now", "first"),
    [
        ("daily", "2026-11-22T00:00:00", "2026-11-22"),
        ("daily", "2026-11-22T23:59:59.999999", "2026-11-22"),
        ("daily", "1970-01-01T00:00:00", "1970-01-01"),
        ("weekly", "2026-11-23T00:00:00", "2026-11-23"),  # a Monday
        ("weekly", "2026-11-22T23:59:59.999", "2026-11-16"),  # the Sunday before
        ("weekly", "2027-01-01T12:00:00", "2026-12-28"),  # over the turn of the year
        ("weekly", "2028-03-01T00:00:00", "2028-02-28"),  # over a leap day
        ("monthly", "2026-11-01T00:00:00", "2026-11-01"),
        ("monthly", "2026-11-30T23:59:59.999", "2026-11-01"),
        ("monthly", "2028-02-29T10:00:00", "2028-02-01"),
        ("monthly", "2026-12-31T23:59:59", "2026-12-01"),
        ("monthly", "2027-01-01T00:00:00", "2027-01-01"),
        (None, "2026-11-22T10:00:00", "1970-01-01"),
    ],
)
def test_periods_begin_at_midnight_utc(reset: LimitReset | None, now: str, first: str) -> None:
    assert period_start_day(reset, seconds(now)) == day_of_date(date.fromisoformat(first))


def test_without_a_reset_the_period_is_all_time() -> None:
    assert period_start_day(None, seconds("2026-11-22T10:00:00")) == FIRST_DAY == 0


@given(now_s=st.floats(min_value=10 * 86_400, max_value=7_000_000_000))
def test_a_period_holds_now_and_begins_where_it_says(now_s: float) -> None:
    now = datetime.fromtimestamp(int(now_s), UTC)
    today = day_of(now_s)
    assert date_of_day(today) == now.date()
    week = period_start_day("weekly", now_s)
    month = period_start_day("monthly", now_s)
    assert period_start_day("daily", now_s) == today
    assert 0 <= today - week < 7
    assert date_of_day(week).isocalendar()[:2] == now.isocalendar()[:2]
    assert date_of_day(week).weekday() == 0
    assert date_of_day(month) == now.date() - timedelta(days=now.day - 1)
