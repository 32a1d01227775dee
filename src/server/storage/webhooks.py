"""The webhooks of teams, managed: each change is one transaction with its audit entry."""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET
from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.domain.keys import Actor, AuditAction
from server.domain.ports import Clock, IdSource
from server.domain.webhooks import (
    TEST_EVENT,
    Delivery,
    DeliveryState,
    IssuedWebhook,
    NewWebhook,
    Webhook,
    WebhookChanges,
    difference,
)
from server.storage.audit import write_audit
from server.storage.database import Database
from server.storage.tables import webhook_deliveries, webhook_events, webhooks
from server.storage.webhook_events import write_event
from server.storage.webhook_queue import end_pending
from server.storage.webhook_rows import (
    MS,
    SELECT_DELIVERY,
    SELECT_WEBHOOK,
    delivery_of,
    encode_events,
    webhook_of,
)

__all__ = ["MAX_WEBHOOKS", "SqlWebhooks"]

MAX_WEBHOOKS: Final = 16
"""That a team may have."""
SECRET_BYTES: Final = 32

_encode = msgspec.json.Encoder().encode


class SqlWebhooks:
    """Implements `server.domain.webhooks.WebhookStore`."""

    def __init__(self, database: Database, clock: Clock, ids: IdSource, *, max_webhooks: int = MAX_WEBHOOKS) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._max = max_webhooks

    async def create(self, actor: Actor, new: NewWebhook) -> IssuedWebhook:
        assert actor.team_id is not None, "a webhook has a team"
        secret, suffix, now = _new_secret(), self._ids.new(), int(self._clock.now())
        row = {
            "suffix": suffix,
            "team_id": actor.team_id,
            "url": new.url,
            "events_json": encode_events(new.events),
            "description": new.description,
            "secret": secret,
            "disabled": new.disabled,
            "created_at": now,
        }
        there_are = select(func.count()).where(webhooks.c.team_id == actor.team_id)

        async def work(connection: AsyncConnection) -> IssuedWebhook:
            if (await connection.scalar(there_are) or 0) >= self._max:
                raise GatewayError(
                    Reason.TOO_MANY_WEBHOOKS,
                    f"The team has {self._max} webhooks, the most that there may be: delete some.",
                )
            await connection.execute(insert(webhooks), row)
            webhook = await self._read(connection, suffix)
            await self._note(connection, actor, "webhook.create", None, webhook)
            return IssuedWebhook(webhook, secret)

        return await self._database.write(work)

    async def get(self, team_id: str, suffix: str) -> Webhook | None:
        async def work(connection: AsyncConnection) -> Webhook | None:
            row = (await connection.execute(SELECT_WEBHOOK.where(*_of(team_id, suffix)))).one_or_none()
            return None if row is None else webhook_of(row)

        return await self._database.read(work)

    async def list(self, team_id: str) -> Sequence[Webhook]:
        query = SELECT_WEBHOOK.where(webhooks.c.team_id == team_id).order_by(webhooks.c.suffix)

        async def work(connection: AsyncConnection) -> list[Webhook]:
            return [webhook_of(row) for row in await connection.execute(query)]

        return await self._database.read(work)

    async def change(self, actor: Actor, suffix: str, changes: WebhookChanges) -> Webhook | None:
        values: dict[str, Any] = {
            name: value
            for name, value in (
                ("url", changes.url),
                ("description", changes.description),
                ("disabled", changes.disabled),
            )
            if value is not UNSET
        }
        if changes.events is not UNSET:
            values["events_json"] = encode_events(changes.events)
        if changes.disabled is not UNSET:
            values |= {"disabled_reason": None, "failing_since": None}

        async def work(connection: AsyncConnection) -> Webhook | None:
            before = await self._locked(connection, actor, suffix)
            if before is None or not values:
                return before and webhook_of(before)
            now = self._clock.now()
            chosen = {**values, "updated_at": int(now)}
            await connection.execute(update(webhooks).where(webhooks.c.suffix == suffix).values(chosen))
            if changes.disabled is True:
                await connection.execute(end_pending(suffix, now))
            after = await self._read(connection, suffix)
            await self._note(connection, actor, "webhook.update", webhook_of(before), after)
            return after

        return await self._database.write(work)

    async def rotate(self, actor: Actor, suffix: str, overlap_s: int) -> IssuedWebhook | None:
        secret = _new_secret()

        async def work(connection: AsyncConnection) -> IssuedWebhook | None:
            before = await self._locked(connection, actor, suffix)
            if before is None:
                return None
            now = self._clock.now()
            values = {
                "secret": secret,
                "previous_secret": webhooks.c.secret if overlap_s else None,
                "previous_expires_at": math.ceil(now) + overlap_s if overlap_s else None,
                "updated_at": int(now),
            }
            await connection.execute(update(webhooks).where(webhooks.c.suffix == suffix).values(values))
            after = await self._read(connection, suffix)
            await self._note(connection, actor, "webhook.rotate_secret", webhook_of(before), after)
            return IssuedWebhook(after, secret)

        return await self._database.write(work)

    async def delete(self, actor: Actor, suffix: str) -> bool:
        async def work(connection: AsyncConnection) -> bool:
            before = await self._locked(connection, actor, suffix)
            if before is None:
                return False
            await connection.execute(delete(webhooks).where(webhooks.c.suffix == suffix))
            await self._note(connection, actor, "webhook.delete", webhook_of(before), None)
            return True

        return await self._database.write(work)

    async def test(self, team_id: str, suffix: str) -> Delivery | None:
        webhook_id = f"wh_{suffix}"

        async def work(connection: AsyncConnection) -> Delivery | None:
            if not await _is_open(connection, team_id, suffix):
                return None
            data, now = _encode({"webhook_id": webhook_id}), self._clock.now()
            event_suffix = await connection.run_sync(
                lambda sync: write_event(sync, self._ids, team_id, TEST_EVENT, webhook_id, data, (suffix,), now=now)
            )
            return await _delivery(connection, suffix, event_suffix)

        return await self._database.write(work)

    async def deliveries(
        self, team_id: str, suffix: str, *, state: DeliveryState | None, after: str | None, limit: int
    ) -> Sequence[Delivery] | None:
        number = webhook_deliveries.c.number
        query = SELECT_DELIVERY.where(webhook_deliveries.c.webhook_suffix == suffix).order_by(number.desc())
        if state is not None:
            query = query.where(webhook_deliveries.c.state == state)
        if after is not None:
            beyond = select(number).where(*_one(suffix, after)).scalar_subquery()
            query = query.where(number < beyond)
        known = select(webhooks.c.suffix).where(*_of(team_id, suffix))

        async def work(connection: AsyncConnection) -> list[Delivery] | None:
            if (await connection.execute(known)).one_or_none() is None:
                return None
            return [delivery_of(row) for row in await connection.execute(query.limit(limit))]

        return await self._database.read(work)

    async def replay(self, team_id: str, suffix: str, event_suffix: str) -> Delivery | None:
        ended = update(webhook_deliveries).where(*_one(suffix, event_suffix), webhook_deliveries.c.state != "pending")

        async def work(connection: AsyncConnection) -> Delivery | None:
            if not await _is_open(connection, team_id, suffix):
                return None
            await connection.execute(ended.values(self._anew()))
            return await _delivery(connection, suffix, event_suffix)

        return await self._database.write(work)

    async def replay_dead(self, team_id: str, suffix: str, since: int, limit: int) -> int | None:
        dead = (
            select(webhook_deliveries.c.number)
            .join(webhook_events, webhook_events.c.suffix == webhook_deliveries.c.event_suffix)
            .where(
                webhook_deliveries.c.webhook_suffix == suffix,
                webhook_deliveries.c.state == "dead",
                webhook_events.c.created_at >= since,
            )
            .order_by(webhook_deliveries.c.number)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> int | None:
            if not await _is_open(connection, team_id, suffix):
                return None
            statement = update(webhook_deliveries).where(webhook_deliveries.c.number.in_(dead)).values(self._anew())
            return (await connection.execute(statement)).rowcount

        return await self._database.write(work)

    def _anew(self) -> dict[str, Any]:
        now_ms = int(self._clock.now() * MS)
        return {
            "state": "pending",
            "attempts": 0,
            "queued_ms": now_ms,
            "due_ms": now_ms,
            "lease_owner": None,
            "ended_at": None,
        }

    async def _locked(self, connection: AsyncConnection, actor: Actor, suffix: str) -> Row[Any] | None:
        assert actor.team_id is not None, "a webhook has a team"
        query = SELECT_WEBHOOK.where(*_of(actor.team_id, suffix)).with_for_update(key_share=True)
        row: Row[Any] | None = (await connection.execute(query)).one_or_none()
        return row

    async def _read(self, connection: AsyncConnection, suffix: str) -> Webhook:
        return webhook_of((await connection.execute(SELECT_WEBHOOK.where(webhooks.c.suffix == suffix))).one())

    async def _note(
        self,
        connection: AsyncConnection,
        actor: Actor,
        action: AuditAction,
        before: Webhook | None,
        after: Webhook | None,
    ) -> None:
        webhook = after or before
        assert webhook is not None
        old, new = difference(before, after)
        await write_audit(
            connection,
            actor,
            action,
            team_id=webhook.team_id,
            target=webhook.id,
            at=int(self._clock.now()),
            before=old,
            after=new,
        )


async def _is_open(connection: AsyncConnection, team_id: str, suffix: str) -> bool:
    """Whether there is such an endpoint, which is not deleted meanwhile. Raises `not_ready` where it is disabled."""
    query = select(webhooks.c.disabled).where(*_of(team_id, suffix)).with_for_update(read=True, key_share=True)
    row = (await connection.execute(query)).one_or_none()
    if row is not None and row.disabled:
        raise GatewayError(Reason.NOT_READY, "The webhook is disabled: nothing is sent to it until it is enabled.")
    return row is not None


async def _delivery(connection: AsyncConnection, suffix: str, event_suffix: str) -> Delivery | None:
    row = (await connection.execute(SELECT_DELIVERY.where(*_one(suffix, event_suffix)))).one_or_none()
    return None if row is None else delivery_of(row)


def _of(team_id: str, suffix: str) -> tuple[ColumnElement[bool], ...]:
    return webhooks.c.suffix == suffix, webhooks.c.team_id == team_id


def _one(suffix: str, event_suffix: str) -> tuple[ColumnElement[bool], ...]:
    return webhook_deliveries.c.event_suffix == event_suffix, webhook_deliveries.c.webhook_suffix == suffix


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}"
