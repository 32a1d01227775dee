"""What workers tell each other of providers through Valkey; and how they do without where it fails them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.clock import UuidV7
from server.domain.errors import FailureCategory, GatewayError
from server.domain.ports import Clock
from server.pipeline.health.figures import MINUTE
from server.pipeline.health.offers import Health
from server.pipeline.health.share import Sharing
from server.storage import teams, valkey_health
from server.storage.database import Database
from server.storage.health_reports import KEPT_S
from server.storage.valkey_client import Reply, ValkeyConnection
from server.storage.valkey_health import FIRST_PAUSE_S, MAX_PAUSE_S, STEP_S, ValkeyHealthExchange, index_of
from server.storage.valkey_url import parse_valkey_url
from tests.fakes.health import fail, middle, succeed
from tests.integration.databases import ManualClock, migrated
from tests.integration.test_health_sharing import ROUTE, Source
from tests.integration.valkey import ValkeyServer

PASSWORD = "canary-b7d1"


class Worker:
    def __init__(self, name: str, url: str, database: Database, clock: Clock) -> None:
        self.clock = clock
        self.health = Health(clock, middle)
        self.exchange = ValkeyHealthExchange(parse_valkey_url(url), database, clock, name)
        self.sharing = Sharing(self.health, self.exchange, Source(), clock)

    @property
    def breaker(self) -> str:
        return self.health.entry(ROUTE).standing(self.clock.monotonic()).breaker

    def attempts(self) -> float:
        return self.health.entry(ROUTE).reading(self.clock.monotonic()).windows[MINUTE].attempts

    async def share(self) -> bool:
        """Exchange once; whether that was possible."""
        try:
            await self.sharing.exchange()
        except GatewayError:
            return False
        return True


Hire = Callable[..., Worker]


@pytest.fixture
async def gateway(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Database]:
    """The database of a gateway that has started."""
    async with migrated(f"sqlite+aiosqlite:///{tmp_path / 'gateway.db'}") as database:
        await teams.Teams(database, clock, UuidV7()).create(teams.DEFAULT_TEAM)
        yield database


@pytest.fixture
def hire(valkey: ValkeyServer, gateway: Database, clock: ManualClock) -> Iterator[Hire]:
    hired: list[Worker] = []

    def worker(name: str, url: str = valkey.url, database: Database = gateway) -> Worker:
        hired.append(Worker(name, url, database, clock))
        return hired[-1]

    yield worker
    for one in hired:
        one.exchange.close()


@pytest.fixture
async def index(gateway: Database) -> str:
    (team,) = await teams.Teams(gateway, ManualClock(), UuidV7()).list()
    return index_of(team.id)


async def ask(server: ValkeyServer, *command: str | bytes | int) -> Reply:
    connection = await ValkeyConnection.open(parse_valkey_url(server.url))
    try:
        (reply,) = await connection.ask(command, largest=1 << 24)
        return reply
    finally:
        connection.close()


def about_valkey(logs: list[Any]) -> list[tuple[str, str]]:
    return [(log["event"], log.get("trouble", "")) for log in logs if log["event"].startswith("valkey")]


GONE, BACK = ("valkey_unavailable", "unreachable"), ("valkey_available_again", "")


@pytest.mark.parametrize("way", ["url", "unix_url"])
async def test_workers_see_each_others_breakers_and_figures(
    valkey: ValkeyServer, hire: Hire, clock: ManualClock, way: str
) -> None:
    one, other = hire("one", getattr(valkey, way)), hire("other", getattr(valkey, way))
    succeed(other.health, 3, ROUTE)
    fail(one.health, 5, ROUTE)
    with capture_logs() as logs:
        assert await other.share()
        assert await one.share()
        assert await other.share()
    assert (one.breaker, other.breaker) == ("open", "open")
    assert (one.attempts(), other.attempts()) == pytest.approx((8, 8))
    assert [log["seen_by"] for log in logs if log["event"] == "breaker"] == ["one"]
    assert about_valkey(logs) == []


async def test_an_open_breaker_survives_all_workers_for_as_long_as_reports_are_kept(
    valkey: ValkeyServer, hire: Hire, clock: ManualClock, index: str
) -> None:
    old = hire("old")
    fail(old.health, 1, ROUTE, category=FailureCategory.QUOTA_EXHAUSTED)
    await old.share()
    old.exchange.close()
    clock.advance(10.0)
    new = hire("new")
    await new.share()
    assert (new.breaker, new.health.entry(ROUTE).breaker.reason) == ("open", "quota_exhausted")
    for key in (index, f"{index}:old"):
        left = await ask(valkey, "TTL", key)
        assert isinstance(left, int)
        assert KEPT_S - 60 < left <= KEPT_S


async def test_only_what_is_new_is_read_and_an_idle_worker_writes_nothing(hire: Hire, clock: ManualClock) -> None:
    one, other = hire("one"), hire("other")
    await one.share()
    assert await other.exchange.others({}) == []
    succeed(one.health, 1, ROUTE)
    await one.share()
    await one.share()
    (report,) = await other.exchange.others({})
    assert await other.exchange.others({"one": report.number}) == []
    succeed(one.health, 1, ROUTE)
    await one.share()
    (newer,) = await other.exchange.others({"one": report.number})
    assert newer.number > report.number
    clock.advance(KEPT_S + 1.0)
    assert await other.exchange.others({}) == []


async def test_gateways_with_databases_of_their_own_never_meet(hire: Hire, clock: ManualClock, tmp_path: Path) -> None:
    async with migrated(f"sqlite+aiosqlite:///{tmp_path / 'another.db'}") as another:
        await teams.Teams(another, clock, UuidV7()).create(teams.DEFAULT_TEAM)
        ours, theirs = hire("ours"), hire("theirs", database=another)
        fail(ours.health, 5, ROUTE)
        assert await ours.share()
        assert await theirs.share()
        assert (ours.breaker, theirs.breaker) == ("open", "closed")


async def test_a_server_that_is_dead_from_the_start_is_waited_for_with_pauses(
    valkey: ValkeyServer, hire: Hire, clock: ManualClock
) -> None:
    valkey.kill()
    one, other = hire("one"), hire("other")
    fail(one.health, 5, ROUTE)
    with capture_logs() as logs:
        for _ in range(20):
            assert not await one.share()
            clock.advance(FIRST_PAUSE_S)
    assert about_valkey(logs) == [GONE]
    assert (one.breaker, other.breaker) == ("open", "closed")

    valkey.start()
    with capture_logs() as logs:
        clock.advance(MAX_PAUSE_S)
        assert await one.share()
        assert await other.share()
    assert about_valkey(logs) == [BACK]
    assert other.breaker == "open"


async def test_one_that_lost_everything_is_told_again(valkey: ValkeyServer, hire: Hire, clock: ManualClock) -> None:
    one, other = hire("one"), hire("other")
    fail(one.health, 1, ROUTE, category=FailureCategory.QUOTA_EXHAUSTED)
    await one.share()
    await other.share()
    valkey.kill()
    with capture_logs() as logs:
        assert not await one.share()
        assert not await one.share()
        valkey.start()
        assert not await one.share(), "the pause after a failure"
        clock.advance(FIRST_PAUSE_S)
        assert await one.share()
    assert about_valkey(logs) == [GONE, BACK]
    late = hire("late")
    assert await late.share()
    assert late.breaker == "open"


async def test_a_server_that_hangs_holds_nobody_up(valkey: ValkeyServer, hire: Hire, clock: ManualClock) -> None:
    one, other = hire("one"), hire("other")
    assert await one.share()
    valkey.signal(signal.SIGSTOP)
    fail(one.health, 5, ROUTE)
    with capture_logs() as logs:
        for worker in (one, one, other, other):
            began = time.monotonic()
            assert not await worker.share()
            assert time.monotonic() - began < STEP_S + 10
    assert [(log["trouble"], log["cause"]) for log in logs if log["event"] == "valkey_unavailable"] == [
        ("unreachable", "no answer within 1 s"),
        ("unreachable", "no answer within 1 s"),
    ], "one of each worker"
    valkey.signal(signal.SIGCONT)
    clock.advance(FIRST_PAUSE_S)
    assert await one.share()
    assert await other.share()
    assert other.breaker == "open"


async def test_goodbye_to_a_server_that_hangs_is_short(valkey: ValkeyServer, hire: Hire) -> None:
    one = hire("one")
    assert await one.share()
    valkey.signal(signal.SIGSTOP)
    fail(one.health, 5, ROUTE)
    began = time.monotonic()
    await one.sharing.close()
    assert time.monotonic() - began < STEP_S + 10


async def test_a_wrong_password_is_one_clear_line_and_is_never_shown(gateway: Database, clock: ManualClock) -> None:
    server = ValkeyServer(password="right")
    server.start()
    try:
        wrong, none, right = (
            Worker(name, f"redis://{who}127.0.0.1:{server.port}", gateway, clock)
            for name, who in (("wrong", f":{PASSWORD}@"), ("none", ""), ("right", "default:right@"))
        )
        fail(wrong.health, 5, ROUTE)
        with capture_logs() as logs:
            for _ in range(3):
                assert not await wrong.share()
                clock.advance(MAX_PAUSE_S)
            assert not await none.share()
            assert await right.share()
        lines = [log for log in logs if log["event"].startswith("valkey")]
        assert [(log["trouble"], log["cause"].partition(" ")[0]) for log in lines] == [
            ("refused", "WRONGPASS"),
            ("refused", "NOAUTH"),
        ]
        assert PASSWORD not in str(logs)
        assert wrong.breaker == "open"
        right.exchange.close()
    finally:
        server.remove()


async def test_reports_that_are_too_many_or_too_long_stay_unread(
    valkey: ValkeyServer, hire: Hire, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAX_REPORT_BYTES", "MAX_READ_BYTES"):
        monkeypatch.setattr(valkey_health, name, 1000 if name == "MAX_REPORT_BYTES" else 3000)
    monkeypatch.setattr(valkey_health, "MAX_REPORTS", 10)
    for number in range(12):
        clock.advance(1.0)
        await hire(f"w{number}").exchange.publish(1, b"x" * 1000)
    with capture_logs() as logs:
        await hire("long").exchange.publish(1, b"x" * 1001)
    assert [log["event"] for log in logs] == ["health_report_too_long"]
    reader, known = hire("reader"), dict[str, int]()
    sizes = []
    for _ in range(4):
        shared = await reader.exchange.others(known)
        known |= {report.worker_id: report.number for report in shared}
        sizes.append(len(shared))
    assert sizes == [4, 4, 2, 0]
    assert set(known) == {f"w{number}" for number in range(2, 12)}, "the newest"


async def test_the_sharing_of_a_worker_goes_on_through_an_outage(
    valkey: ValkeyServer, gateway: Database, clock: ManualClock
) -> None:
    one = Worker("one", valkey.url, gateway, clock)
    running = asyncio.create_task(one.sharing.run())
    try:
        valkey.kill()
        with capture_logs() as logs:
            async with asyncio.timeout(30):
                while GONE not in about_valkey(logs):  # noqa: ASYNC110 - a log line is no event
                    await asyncio.sleep(0.02)
            valkey.start()
            clock.advance(MAX_PAUSE_S)
            async with asyncio.timeout(30):
                while BACK not in about_valkey(logs):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        one.exchange.close()
