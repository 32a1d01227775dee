"""Providers that the operator takes out of service: what the database keeps, and what workers make of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.clock import SystemClock
from server.domain.errors import GatewayError, Reason
from server.domain.health import DrainedProvider
from server.pipeline.health.drained import FollowDrained
from server.pipeline.health.offers import Health
from server.pipeline.health.polling import INTERVAL_S
from server.pipeline.health.standing import RAMP_S, RAMP_START
from server.storage.database import Database
from server.storage.drained import SqlDrained
from tests.fakes.health import KEY, middle, succeed
from tests.fakes.openai_upstream import chat_stream, error
from tests.fakes.wire import Pause
from tests.integration.databases import ManualClock
from tests.integration.test_generate import Bench, account_of, bench, text_of
from tests.integration.test_routing_by_health import told

__all__ = ["bench"]

KNOWN_WITHIN_S = 20.0


@pytest.fixture
def table(database: Database, clock: ManualClock) -> SqlDrained:
    return SqlDrained(database, clock)


async def test_who_is_drained_stays_so_until_it_is_brought_back(table: SqlDrained, clock: ManualClock) -> None:
    since = int(clock.now())
    assert await table.drain("b", "they are down") is True
    assert await table.drain("a") is True
    clock.advance(60)
    assert await table.drain("b") is False
    assert await table.list() == [DrainedProvider("a", since), DrainedProvider("b", since, "they are down")]
    assert await table.drain("b", "still down") is False
    assert (await table.list())[1] == DrainedProvider("b", since, "still down")
    assert await table.undrain("b") is True
    assert await table.undrain("b") is False
    assert [one.provider for one in await table.list()] == ["a"]


async def test_workers_call_it_no_more_and_then_a_little_at_first(table: SqlDrained, clock: ManualClock) -> None:
    health = Health(clock, middle)
    worker = FollowDrained(health, table)
    succeed(health, 20)
    await table.drain(KEY.provider, "maintenance")
    with capture_logs() as logs:
        await worker.follow()
        await worker.follow()
    assert health.start(KEY) is None
    assert logs == [{"event": "provider_drained", "log_level": "warning", "provider": "x", "reason": "maintenance"}]
    await table.undrain(KEY.provider)
    with capture_logs() as logs:
        await worker.follow()
    assert [log["event"] for log in logs] == ["provider_undrained"]
    assert health.start(KEY) is not None
    assert health.entry(KEY).standing(clock.monotonic()).score == pytest.approx(RAMP_START)
    clock.advance(RAMP_S)
    assert health.entry(KEY).standing(clock.monotonic()).score == 1.0


async def test_a_worker_that_runs_comes_to_know(database: Database) -> None:
    health, table = Health(SystemClock(), middle), SqlDrained(database, SystemClock())
    following = asyncio.create_task(FollowDrained(health, table).run())
    try:
        await asyncio.sleep(INTERVAL_S / 2)
        for provider_ids in (frozenset({"x"}), frozenset()):
            await (table.drain("x") if provider_ids else table.undrain("x"))
            async with asyncio.timeout(KNOWN_WITHIN_S):
                while health.drained != provider_ids:  # noqa: ASYNC110 - how soon it is known is the test
                    await asyncio.sleep(0.02)
    finally:
        following.cancel()


class Away:
    """A database that is down."""

    async def list(self) -> list[DrainedProvider]:
        raise GatewayError(Reason.DATABASE_UNAVAILABLE, "The database is away.")


async def test_without_a_database_the_last_word_holds(clock: ManualClock) -> None:
    health = Health(clock, middle)
    health.drained = frozenset({"x"})
    worker = FollowDrained(health, Away())
    await worker.start()
    with suppress(GatewayError):
        await worker.follow()
    assert (health.drained, worker.answers) == (frozenset({"x"}), False)


async def test_requests_go_elsewhere_and_the_rows_say_why(bench: Bench) -> None:
    bench.health.drained = frozenset({"first"})
    account = account_of(await bench.run())
    assert account.meta.provider == "second"
    assert [(row.provider, row.outcome, row.score) for row in account.meta.routing] == [
        ("second", "chosen", 1.0),
        ("first", "drained", 0.0),
    ]
    assert bench.first.requests == []
    first = told(bench)
    assert (first.status, first.score, [route.score for route in first.routes]) == ("drained", 0.0, [0.0])
    bench.health.drained = frozenset()
    assert account_of(await bench.run()).meta.provider == "first"


@pytest.mark.parametrize("wishes", [{}, {"only": ("first",)}, {"allow_fallbacks": False}])
async def test_with_all_drained_the_client_is_told_so(bench: Bench, wishes: dict[str, Any]) -> None:
    bench.health.drained = frozenset({"first", "second"})
    with pytest.raises(GatewayError) as refused:
        await bench.run(**wishes)
    assert (refused.value.reason, refused.value.code.value) == (Reason.PROVIDERS_UNAVAILABLE, "unavailable_error")
    assert '"first"' in refused.value.description
    assert "out of service" in refused.value.description
    assert bench.first.requests == bench.second.requests == []


async def test_a_request_under_way_ends_where_it_is(bench: Bench) -> None:
    bench.first.script(chat_stream("to ", "the end", every_s=0.05))
    running = asyncio.create_task(bench.run())
    await bench.first.wait_request()
    bench.health.drained = frozenset({"first"})
    assert text_of(await running) == "to the end"


async def test_a_request_under_way_does_not_fall_back_to_it(bench: Bench) -> None:
    bench.first.script((Pause(0.1), *error(500)))
    running = asyncio.create_task(bench.run())
    await bench.first.wait_request()
    bench.health.drained = frozenset({"second"})
    with pytest.raises(GatewayError) as failed:
        await running
    assert failed.value.reason is Reason.ALL_CANDIDATES_FAILED
    assert bench.second.requests == []
