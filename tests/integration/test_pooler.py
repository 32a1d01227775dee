"""PgBouncer before PostgreSQL (L11): in session mode all is well, in transaction mode nothing begins."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from server.domain.errors import GatewayError, Reason
from server.storage import migrate, pooler
from server.storage.database import Database, DatabaseUnusable
from server.storage.schema import require_current_schema
from tests.integration.databases import ManualClock, Pooler, PostgresServer, migrated
from tests.integration.ledger_world import CENT, USD, Request, make_teams, opened, problems, wallet
from tests.integration.test_doctor import Doctor

OPERATIONS = 1000


@pytest.fixture
async def name(postgres: PostgresServer) -> str:
    """Of a database that has its schema."""
    name = await postgres.create_database()
    await migrate.upgrade(postgres.url(name))
    return name


async def spend(database: Database, clock: ManualClock, count: int) -> None:
    async with opened(database, clock, reserve_wait_s=30) as ledger:

        async def lane() -> None:
            for _ in range(count // 8):
                request = Request()
                await ledger.reserve(request.hold(CENT))
                await ledger.settle(request.settlement(1))

        await asyncio.gather(*(lane() for _ in range(8)))


async def test_l11_in_session_mode_a_thousand_pass(postgres: PostgresServer, name: str, clock: ManualClock) -> None:
    with Pooler(postgres, "session") as before:
        async with migrated(before.url(name)) as database:
            await make_teams(database, clock, 10 * USD)
            await spend(database, clock, OPERATIONS)
            assert await wallet(database) == (10 * USD - OPERATIONS, 0)
            assert await problems(database) == []


async def test_l11_a_pooler_with_one_session_to_lend_is_found_out(
    postgres: PostgresServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooler, "WAIT_S", 0.3)
    with Pooler(postgres, "transaction", sessions=1) as before, pytest.raises(DatabaseUnusable):
        await migrate.upgrade(before.url(name))


async def test_l11_in_transaction_mode_every_program_refuses_in_words(
    postgres: PostgresServer, name: str, tmp_path: Path
) -> None:
    with Pooler(postgres, "transaction") as before:
        with pytest.raises(DatabaseUnusable, match="pool_mode = transaction"):
            await migrate.upgrade(before.url(name))
        code, findings = await Doctor(tmp_path).findings(AISTATS_DATABASE_URL=before.url(name))
        assert code == 1
        assert findings["database"]["text"] == pooler.REFUSAL
        worker = Database.open(before.url(name), first=require_current_schema)
        try:
            with capture_logs() as logs, pytest.raises(GatewayError) as refused:
                await worker.read(require_current_schema)
        finally:
            await worker.close()
        assert refused.value.reason is Reason.DATABASE_UNAVAILABLE
        assert [line["text"] for line in logs] == [pooler.REFUSAL]
