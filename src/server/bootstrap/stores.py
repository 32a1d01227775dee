"""What a worker keeps and reads in the database, the ledger first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import msgspec
import structlog

from server.bootstrap.background import purging, running
from server.clock import UuidV7
from server.domain.errors import GatewayError
from server.domain.ports import Clock
from server.settings import Settings
from server.storage.audit import purge_audit
from server.storage.database import Database
from server.storage.generations import SqlRecords
from server.storage.group_commit import GroupCommit
from server.storage.idempotency import SqlIdempotencyStore
from server.storage.ledger import SqlLedger
from server.storage.months import Months
from server.storage.responses import SqlResponseStore
from server.storage.schema import require_current_schema, verify
from server.storage.sweeper import Sweeper
from server.storage.webhook_events import purge_events

__all__ = ["RecordsLost", "Stores", "open_stores"]

log = structlog.get_logger("server.worker")


class RecordsLost(Exception):
    """Settlements were given up, `count` of them."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


class Stores(msgspec.Struct, frozen=True):
    """`ledger` has the worker's id; `outcomes` are those of requests with an idempotency key."""

    database: Database
    commits: GroupCommit
    ledger: SqlLedger
    records: SqlRecords
    responses: SqlResponseStore
    outcomes: SqlIdempotencyStore


async def open_stores(stack: AsyncExitStack, settings: Settings, clock: Clock, ids: UuidV7) -> Stores:
    """Open until `stack` ends, which raises RecordsLost if any were. Raises DatabaseUnusable."""
    await _require_schema(settings.database_url)
    database = Database.open(settings.database_url, first=require_current_schema)
    stack.push_async_callback(database.close)
    commits = GroupCommit(database)
    stack.push_async_callback(commits.close)
    responses = SqlResponseStore(database, commits, clock)
    records = SqlRecords(database, commits, clock, record_days=settings.record_days)
    purges: Sequence[Callable[[], Awaitable[int]]] = (
        *(responses.purge, records.purge_contents, records.purge_records, Months(database, clock).prepare),
        partial(purge_audit, commits, clock),
        partial(purge_events, commits, clock),
    )
    await stack.enter_async_context(running(*map(purging, purges)))
    ledger, lease_s = SqlLedger(database, clock, ids.new()), settings.worker_lease_s
    sweeper = Sweeper(database, clock, ledger.worker_id, lease_s=lease_s)
    stack.push_async_callback(sweeper.end)
    outcomes = SqlIdempotencyStore(
        *(database, commits, clock, ledger.worker_id), lease_s=lease_s, can_judge=lambda: sweeper.can_judge
    )
    await stack.enter_async_context(running(sweeper.run(), purging(outcomes.purge)))
    stack.push_async_callback(_close_books, ledger)
    return Stores(database, commits, ledger, records, responses, outcomes)


async def _close_books(ledger: SqlLedger) -> None:
    """Raises RecordsLost, so that nobody takes the end for a good one."""
    await ledger.close()
    if ledger.lost:
        raise RecordsLost(ledger.lost)


async def _require_schema(url: str) -> None:
    """Refuse a schema that is not this release's; a database that is down is waited for by each call instead."""
    try:
        await verify(url)
    except GatewayError:
        log.warning("the database does not answer; calls are refused until it does")
