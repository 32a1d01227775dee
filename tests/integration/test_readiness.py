"""`grpc.health.v1` on a real worker: each service takes calls as long as it has what it needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.bootstrap import worker
from server.clock import SystemClock
from server.hosts.health import MAX_WATCHERS
from server.pipeline.shutdown import Shutdown
from server.settings import Settings
from server.storage import migrate
from server.storage.database import Database
from server.storage.drained import SqlDrained
from tests.fakes.hosting import CHOSEN, Hosting
from tests.integration.databases import PostgresServer

PACKAGE = "aistats.gateway.v1"
CHAT, CHAT_REST = f"{PACKAGE}.ChatService", f"{PACKAGE}.ChatRestService"
CREDITS, HEALTH = f"{PACKAGE}.CreditsService", f"{PACKAGE}.HealthService"
SERVING, NOT_SERVING = "SERVING", "NOT_SERVING"
TOLD_WITHIN_S = 30.0

CONFIG = """
replace_catalog: true
providers: [{id: acme, dialect: openai, base_url: "http://127.0.0.1:1/v1"}]
models:
  - id: acme/chat:free
    offers: [{provider: acme, provider_model: a, endpoints: [chat]}]
"""


class Client:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = health_pb2_grpc.HealthStub(channel)

    async def status(self, service: str = "") -> str:
        reply = await self._stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        return name_of(reply)

    def watch(self, service: str = "") -> Any:
        return self._stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)


def name_of(reply: Any) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


async def told(watch: Any) -> str:
    async with asyncio.timeout(TOLD_WITHIN_S):
        return name_of(await watch.read())


@asynccontextmanager
async def serving(directory: Path, url: str, shutdown: Shutdown) -> AsyncIterator[tuple[Client, Hosting]]:
    """A worker, and a client of it."""
    (directory / "gateway.yaml").write_text(CONFIG)
    settings = Settings(data_dir=directory, config=directory / "gateway.yaml", database_url=url, drain_timeout_s=30)
    path = directory / "worker.sock"
    await migrate.upgrade(url)
    make_host = partial(Hosting, CHOSEN, unix_socket=path)
    serving = worker(settings, path, make_host, shutdown)
    async with serving as host, grpc.aio.insecure_channel(f"unix:{path}") as channel:
        yield Client(channel), host


async def test_what_generates_needs_a_provider_in_service(database_url: str, tmp_path: Path) -> None:
    async with serving(tmp_path, database_url, Shutdown()) as (client, _):
        services = (f"{PACKAGE}.ResponsesService", f"{PACKAGE}.MessagesRestService", CHAT, CHAT_REST, CREDITS, HEALTH)
        assert [await client.status(service) for service in services] == [NOT_SERVING, NOT_SERVING, *[SERVING] * 4]
        watch = client.watch(CHAT_REST)
        assert await told(watch) == SERVING
        database = Database.open(database_url)
        try:
            drained = SqlDrained(database, SystemClock())
            await drained.drain("acme")
            assert await told(watch) == NOT_SERVING
            assert [await client.status(service) for service in (CHAT, CREDITS, HEALTH, "")] == [
                NOT_SERVING,
                *[SERVING] * 3,
            ]
            await drained.undrain("acme")
            assert await told(watch) == SERVING
        finally:
            await database.close()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """One that a test may stop."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


async def test_without_a_database_only_health_is_served(own_postgres: PostgresServer, tmp_path: Path) -> None:
    url = own_postgres.url(await own_postgres.create_database())
    async with serving(tmp_path, url, Shutdown()) as (client, _):
        watch = client.watch(CREDITS)
        assert await told(watch) == SERVING
        await asyncio.to_thread(own_postgres.stop)
        assert await told(watch) == NOT_SERVING
        assert [await client.status(service) for service in (CHAT, HEALTH, "")] == [NOT_SERVING, SERVING, SERVING]
        await asyncio.to_thread(own_postgres.start)
        assert await told(watch) == SERVING


async def test_a_worker_that_leaves_says_so_and_waits_for_nobody_who_watches(sqlite_url: str, tmp_path: Path) -> None:
    shutdown = Shutdown()
    async with serving(tmp_path, sqlite_url, shutdown) as (client, host):
        watches = [client.watch(service) for service in ("", CHAT, HEALTH)]
        assert [await told(watch) for watch in watches] == [SERVING] * 3
        shutdown.leaving.set()
        assert [await told(watch) for watch in watches] == [NOT_SERVING] * 3
        for watch in watches:
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await told(watch)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert [await client.status(service) for service in ("", CHAT, HEALTH)] == [NOT_SERVING] * 3
        async with asyncio.timeout(30):
            await host.stop(60.0)


async def test_an_unknown_service_is_not_found_and_may_be_watched(sqlite_url: str, tmp_path: Path) -> None:
    async with serving(tmp_path, sqlite_url, Shutdown()) as (client, _):
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await client.status("nobody.Service")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        assert await told(client.watch("nobody.Service")) == "SERVICE_UNKNOWN"


async def test_so_many_may_watch_and_no_more(sqlite_url: str, tmp_path: Path) -> None:
    async with serving(tmp_path, sqlite_url, Shutdown()) as (client, _):
        watches = [client.watch() for _ in range(MAX_WATCHERS)]
        assert {await told(watch) for watch in watches} == {SERVING}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await told(client.watch())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await client.status() == SERVING
        for watch in watches:
            watch.cancel()
