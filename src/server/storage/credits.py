"""What a team has and what it used. Each answer is one statement, so that all of its numbers are of one moment."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.credits import ActivityPage, ActivityQuery, ActivityRow, Credits
from server.storage.database import Database
from server.storage.tables import daily_usage, wallets

__all__ = ["SqlCredits"]

_GROUPS: Final = (daily_usage.c.day, daily_usage.c.model_id, daily_usage.c.endpoint, daily_usage.c.provider)
_SUMS: Final = ("requests", "input_tokens", "output_tokens", "reasoning_tokens", "cost_nanos")


class SqlCredits:
    """Implements `server.domain.credits.CreditReader`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def credits(self, team_id: str, *, since_day: int) -> Credits:
        wallet = select(wallets).where(wallets.c.team_id == team_id).subquery()
        used = (
            select(
                func.coalesce(func.sum(daily_usage.c.cost_nanos), 0).label("cost_nanos"),
                func.coalesce(func.sum(daily_usage.c.requests), 0).label("requests"),
            )
            .where(daily_usage.c.team_id == team_id, daily_usage.c.day >= since_day)
            .subquery()
        )
        query = select(wallet.c.balance_nanos, wallet.c.reserved_nanos, used).select_from(
            used.outerjoin(wallet, true())
        )

        async def work(connection: AsyncConnection) -> Credits:
            row = (await connection.execute(query)).one()
            return Credits(
                balance_nanos=row.balance_nanos or 0,
                reserved_nanos=row.reserved_nanos or 0,
                recent_cost_nanos=int(row.cost_nanos),
                recent_requests=int(row.requests),
            )

        return await self._database.read(work)

    async def activity(self, team_id: str, query: ActivityQuery) -> ActivityPage:
        rows = (
            select(*_GROUPS, *(func.sum(daily_usage.c[name]).label(name) for name in _SUMS))
            .where(daily_usage.c.team_id == team_id, daily_usage.c.day.between(query.first_day, query.last_day))
            .group_by(*_GROUPS)
        )
        filters = (
            (daily_usage.c.model_id, query.models),
            (daily_usage.c.provider, query.providers),
            (daily_usage.c.endpoint, query.endpoints),
            (daily_usage.c.key_id, query.key_ids),
        )
        for column, values in filters:
            if values:  # no stored text has a NUL, and PostgreSQL refuses to look for one
                rows = rows.where(column.in_(sorted(value for value in values if "\0" not in value)))
        found = rows.cte("found")
        totals = select(
            func.count().label("total"), func.coalesce(func.sum(found.c.cost_nanos), 0).label("total_cost_nanos")
        ).select_from(found)
        in_order = (found.c.day.desc(), found.c.model_id, found.c.endpoint, found.c.provider)
        page = select(found).order_by(*in_order).limit(query.limit).offset(query.offset).subquery("page")
        whole = totals.subquery("totals")
        # The totals stand beside each row of the page, and alone where the page is empty.
        statement = select(whole, page).select_from(whole.outerjoin(page, true()))
        statement = statement.order_by(page.c.day.desc(), page.c.model_id, page.c.endpoint, page.c.provider)

        async def work(connection: AsyncConnection) -> ActivityPage:
            answer = (await connection.execute(statement)).all()
            return ActivityPage(
                rows=tuple(_row(row) for row in answer if row.day is not None),
                total=answer[0].total,
                total_cost_nanos=int(answer[0].total_cost_nanos),
            )

        return await self._database.read(work)


def _row(row: Row[Any]) -> ActivityRow:
    # PostgreSQL's sums of bigint are numeric.
    return ActivityRow(row.day, row.model_id, row.endpoint, row.provider, *(int(getattr(row, name)) for name in _SUMS))
