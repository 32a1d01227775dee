"""The outbox: an event is written in the transaction of what it tells of, with a delivery for each endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
from sqlalchemy import Connection, Row, Select, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.ports import Clock, IdSource
from server.domain.video_jobs import VideoJob
from server.domain.webhooks import EVENT_TYPES
from server.storage.group_commit import GroupCommit
from server.storage.tables import webhook_deliveries, webhook_events, webhooks
from server.storage.webhook_rows import MS, wants

__all__ = ["RETENTION_S", "Outbox", "Teller", "purge_events", "write_event"]

RETENTION_S: Final = 30 * 86_400
"""How long events and their deliveries can be seen, and replayed."""
PURGE_BATCH: Final = 500

Teller: TypeAlias = Callable[[VideoJob], bytes]
"""The video as its team sees it, as JSON."""

_encode = msgspec.json.Encoder().encode


class _Payload(msgspec.Struct, frozen=True):
    """The body of an event."""

    id: str
    object: str
    type: str
    created_at: int
    data: msgspec.Raw


class Outbox:
    """Keeps what is to be told of video jobs. A team without an endpoint costs one look-up and writes nothing."""

    def __init__(self, ids: IdSource, clock: Clock, tell: Teller) -> None:
        self._ids = ids
        self._clock = clock
        self._tell = tell

    def note(self, connection: Connection, job: VideoJob) -> None:
        """What has become of a job, within the transaction that writes it; the row of the job is locked."""
        type_ = f"video.{job.status.value}"
        if type_ not in EVENT_TYPES:
            return
        wanting = [row.suffix for row in _enabled(connection, job.team_id) if wants(row, type_)]
        if wanting:
            data = self._tell(job)
            write_event(
                *(connection, self._ids, job.team_id, type_, f"video_{job.suffix}", data, wanting),
                now=self._clock.now(),
            )


def write_event(
    connection: Connection,
    ids: IdSource,
    team_id: str,
    type_: str,
    subject: str,
    data: bytes,
    wanting: Sequence[str],
    *,
    now: float,
) -> str:
    """An event, and a delivery to each of the endpoints `wanting`; its suffix."""
    suffix = ids.new()
    payload = _encode(_Payload(f"evt_{suffix}", "event", type_, int(now), msgspec.Raw(data)))
    event = {
        "suffix": suffix,
        "team_id": team_id,
        "type": type_,
        "subject": subject,
        "created_at": int(now),
        "payload": payload,
    }
    connection.execute(insert(webhook_events), event)
    now_ms = int(now * MS)
    deliveries = [
        {
            "webhook_suffix": webhook,
            "event_suffix": suffix,
            "subject": subject,
            "state": "pending",
            "attempts": 0,
            "queued_ms": now_ms,
            "due_ms": now_ms,
        }
        for webhook in wanting
    ]
    connection.execute(insert(webhook_deliveries), deliveries)
    return suffix


async def purge_events(commits: GroupCommit, clock: Clock, limit: int = PURGE_BATCH) -> int:
    """Delete up to `limit` events that are too old, with their deliveries, the oldest first; how many.

    Call it again until it says 0.
    """
    old = (
        select(webhook_events.c.suffix)
        .where(webhook_events.c.created_at <= int(clock.now()) - RETENTION_S)
        .order_by(webhook_events.c.created_at)
        .limit(limit)
    )

    async def work(connection: AsyncConnection) -> int:
        return (await connection.execute(delete(webhook_events).where(webhook_events.c.suffix.in_(old)))).rowcount

    return await commits.submit(work)


def _enabled(connection: Connection, team_id: str) -> Sequence[Row[Any]]:
    """A team's endpoints; none of them is deleted before the transaction ends."""
    query: Select[Any] = (
        select(webhooks.c.suffix, webhooks.c.events_json)
        .where(webhooks.c.team_id == team_id, ~webhooks.c.disabled)
        .order_by(webhooks.c.suffix)
        .with_for_update(read=True, key_share=True)
    )
    return connection.execute(query).all()
