"""What there is to deliver: rows with a lease, in order for each endpoint and subject."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Update, exists, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.ports import Clock
from server.domain.webhooks import DueDelivery, Outcome
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.tables import WAITS, webhook_deliveries, webhook_events, webhooks
from server.storage.webhook_rows import MS, signing_secrets

__all__ = ["SqlWebhookQueue", "end_pending"]

DISABLED: Final = "disabled"
"""The error of a delivery that was never sent, or not again, since its endpoint is disabled."""

_rows = webhook_deliveries.c
_waits: Final[Any] = text(f"webhook_deliveries.{WAITS}")
_earlier = webhook_deliveries.alias("earlier")
_is_next: Final = ~exists().where(
    _earlier.c.subject == _rows.subject,
    _earlier.c.webhook_suffix == _rows.webhook_suffix,
    _earlier.c.number < _rows.number,
    text(f"earlier.{WAITS}"),
)
"""Nothing that happened before, to the same subject, waits for the same endpoint."""


def end_pending(webhook_suffix: str, now: float) -> Update:
    """Have nothing more sent to an endpoint that is disabled."""
    # Locked in the order in which attempts lock what they write of, so that neither waits for the other.
    pending = (
        select(_rows.number)
        .where(_rows.webhook_suffix == webhook_suffix, _waits)
        .order_by(_rows.number)
        .with_for_update()
        .cte("waiting")
    )
    return (
        update(webhook_deliveries)
        .where(_rows.number.in_(select(pending.c.number)))
        .values(state="dead", ended_at=int(now), error=DISABLED, lease_owner=None)
    )


class SqlWebhookQueue:
    """Implements `server.domain.webhooks.WebhookQueue` for the worker `worker_id`."""

    def __init__(self, database: Database, commits: GroupCommit, clock: Clock, worker_id: str) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._worker_id = worker_id

    async def claim(self, until: float, limit: int, but_to: Collection[str] = ()) -> Sequence[DueDelivery]:
        now = self._clock.now()
        due = (
            select(_rows.number)
            .where(_waits, _rows.due_ms <= _ms(now), _is_next, *_not_to(but_to))
            .order_by(_rows.due_ms, _rows.number)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        lease = (
            update(webhook_deliveries)
            .where(_rows.number.in_(select(due.c.number)))
            .values(lease_owner=self._worker_id, due_ms=_ms(until))
            .returning(_rows.number)
        )

        async def work(connection: AsyncConnection) -> list[DueDelivery]:
            numbers = list((await connection.execute(lease)).scalars())
            if not numbers:
                return []
            query: Select[Any] = (
                select(
                    *(_rows.number, _rows.event_suffix, _rows.webhook_suffix, _rows.attempts, _rows.queued_ms),
                    *(webhooks.c.team_id, webhooks.c.url, webhooks.c.disabled, webhook_events.c.payload),
                    *(webhooks.c.secret, webhooks.c.previous_secret, webhooks.c.previous_expires_at),
                )
                .join(webhooks, webhooks.c.suffix == _rows.webhook_suffix)
                .join(webhook_events, webhook_events.c.suffix == _rows.event_suffix)
                .where(_rows.number.in_(numbers))
                .order_by(_rows.number)
            )
            return [
                DueDelivery(
                    number=row.number,
                    team_id=row.team_id,
                    webhook_suffix=row.webhook_suffix,
                    event_suffix=row.event_suffix,
                    url=row.url,
                    secrets=signing_secrets(row, now),
                    disabled=row.disabled,
                    attempts=row.attempts,
                    queued_at=row.queued_ms / MS,
                    payload=row.payload,
                )
                for row in await connection.execute(query)
            ]

        return await self._commits.submit(work)

    async def next_due(self, but_to: Collection[str] = ()) -> float | None:
        query = select(_rows.due_ms).where(_waits, _is_next, *_not_to(but_to)).order_by(_rows.due_ms).limit(1)

        async def work(connection: AsyncConnection) -> float | None:
            due_ms: int | None = await connection.scalar(query)
            return None if due_ms is None else due_ms / MS

        return await self._database.read(work)

    async def record(self, due: DueDelivery, outcome: Outcome) -> bool:
        has_ended = outcome.due_at is None
        next_ms = _ms(outcome.at if outcome.due_at is None else outcome.due_at)
        values = {
            "state": outcome.state,
            "attempts": due.attempts + 1,
            "due_ms": next_ms,
            "lease_owner": None,
            "attempted_at": int(outcome.at),
            "ended_at": int(outcome.at) if has_ended else None,
            "status": outcome.status,
            "error": outcome.error,
        }
        written = (
            update(webhook_deliveries)
            .where(_rows.number == due.number, _waits, _rows.lease_owner == self._worker_id)
            .values(values)
            .returning(_rows.subject)
        )

        async def work(connection: AsyncConnection) -> bool:
            is_disabled = False
            for change in _of_endpoint(due, outcome):
                row = (await connection.execute(change)).one_or_none()
                is_disabled = is_disabled or (row is not None and row.disabled)
            subject = (await connection.execute(written)).scalar_one_or_none()
            if is_disabled:
                await connection.execute(end_pending(due.webhook_suffix, outcome.at))
            elif subject is not None:
                # What comes after it is looked at when it may be sent, and not before.
                following = (
                    _rows.subject == subject,
                    _rows.webhook_suffix == due.webhook_suffix,
                    _rows.number > due.number,
                )
                await connection.execute(update(webhook_deliveries).where(*following, _waits).values(due_ms=next_ms))
            return subject is not None

        # In a transaction of its own: two workers that wrote of the same endpoints in groups could wait for each other.
        return await self._database.write(work)

    async def release(self, numbers: Collection[int]) -> None:
        if not numbers:
            return
        ours = (_rows.number.in_(sorted(numbers)), _waits, _rows.lease_owner == self._worker_id)
        statement = update(webhook_deliveries).where(*ours).values(lease_owner=None, due_ms=_ms(self._clock.now()))

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(statement)

        await self._commits.submit(work)


def _of_endpoint(due: DueDelivery, outcome: Outcome) -> Sequence[Any]:
    """What an attempt means for its endpoint, where it means anything; each tells whether that is disabled.

    An endpoint that has been given another address meanwhile is not who answered.
    """
    asked = webhooks.c.suffix == due.webhook_suffix, webhooks.c.url == due.url
    one = update(webhooks).where(*asked).returning(webhooks.c.disabled)
    at = int(outcome.at)
    if outcome.state == "delivered":
        return (one.where(webhooks.c.failing_since.is_not(None)).values(failing_since=None),)
    if outcome.disable:
        gone = {"disabled": True, "disabled_reason": "gone", "updated_at": at}
        return (one.where(~webhooks.c.disabled).values(gone),)
    changes = [one.where(webhooks.c.failing_since.is_(None), ~webhooks.c.disabled).values(failing_since=at)]
    if outcome.state == "dead" and outcome.failing_s is not None:
        for_long = webhooks.c.failing_since <= at - int(outcome.failing_s)
        failing = {"disabled": True, "disabled_reason": "failing", "updated_at": at}
        changes.append(one.where(for_long, ~webhooks.c.disabled).values(failing))
    return changes


def _not_to(but_to: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    if not but_to:
        return ()
    names = sorted(but_to)
    theirs = select(webhooks.c.suffix).where(or_(webhooks.c.suffix.in_(names), webhooks.c.team_id.in_(names)))
    return (_rows.webhook_suffix.not_in(theirs),)


def _ms(seconds: float) -> int:
    return int(seconds * MS)
