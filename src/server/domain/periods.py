"""The days, weeks and months in which spending is counted. All are UTC's; a day is its number since 1970."""

from __future__ import annotations

from datetime import date
from typing import Final

from server.domain.ledger import LimitReset

FIRST_DAY: Final = 0
"""Where a period begins that is never reset."""

_EPOCH: Final = date(1970, 1, 1).toordinal()
_DAY_S: Final = 86_400


def day_of(now_s: float) -> int:
    """The day that a time, in seconds since 1970, falls into."""
    return int(now_s // _DAY_S)


def day_of_date(day: date) -> int:
    return day.toordinal() - _EPOCH


def date_of_day(day: int) -> date:
    return date.fromordinal(_EPOCH + day)


def period_start_day(reset: LimitReset | None, now_s: float) -> int:
    """The first day of the running period: today, the week's Monday, the month's first; FIRST_DAY without a reset."""
    if reset is None:
        return FIRST_DAY
    today = day_of(now_s)
    if reset == "weekly":
        return today - date_of_day(today).weekday()
    if reset == "monthly":
        return today - date_of_day(today).day + 1
    return today
