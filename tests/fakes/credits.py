"""Credit and activity of teams, kept in memory."""

from __future__ import annotations

from collections.abc import Mapping

from server.domain.credits import ActivityPage, ActivityQuery, ActivityRow, Credits

DAY = 20_779
"""22 November 2026."""
NOW = DAY * 86_400 + 3_600.5

CREDITS = Credits(balance_nanos=5_000_000_000, reserved_nanos=750_000_001, recent_cost_nanos=4200, recent_requests=3)
ROW = ActivityRow(DAY, "acme/test-1", "chat", "acme", 3, 90, 30, 10, 4200)
UNSERVED = ActivityRow(DAY - 1, "acme/test-2", "responses", "", 1, 0, 0, 0, 0)
PAGE = ActivityPage((ROW, UNSERVED), total=7, total_cost_nanos=123_456_789_012)
NOTHING = Credits(0, 0, 0, 0)


class MemoryCredits:
    """A `server.domain.credits.CreditReader` that gives every page to everybody, and remembers what it was asked."""

    def __init__(self, credits: Mapping[str, Credits] | None = None) -> None:
        self.known = dict(credits or {})
        self.page = PAGE
        self.since: list[int] = []
        self.queries: list[tuple[str, ActivityQuery]] = []

    async def credits(self, team_id: str, *, since_day: int) -> Credits:
        self.since.append(since_day)
        return self.known.get(team_id, NOTHING)

    async def activity(self, team_id: str, query: ActivityQuery) -> ActivityPage:
        self.queries.append((team_id, query))
        return self.page


class FixedClock:
    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 1.0
