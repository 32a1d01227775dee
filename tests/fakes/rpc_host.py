"""A real gRPC host with its real guard and key check, on a uvloop of its own in a thread.

It stands where pytest-grpc expects a `grpc.Server`, so that blocking stubs of the test call the real thing.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
import uvloop

from server.clock import SystemClock, UuidV7
from server.domain.errors import GatewayError
from server.domain.identity import Arrival, Scope
from server.logs import with_what_is_always_logged
from server.pipeline.authenticate import Authenticate
from server.reception import FrontDesk
from server.rpc.interceptors import Guard
from server.rpc.registry import Collector
from server.storage import migrate
from server.storage.database import Database
from server.storage.key_records import KeyRecords
from server.storage.keys import SqlKeyStore
from server.storage.teams import Teams
from tests.fakes.hosting import CHOSEN, Hosting

T = TypeVar("T")

Metadata = tuple[tuple[str, str], ...]


class HostKeys(msgspec.Struct, frozen=True):
    """Keys as their owners send them."""

    inference: str
    management: str
    expired: str
    revoked: str


class LogBook:
    """A logger whose lines a test can read."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self.logger: Any = structlog.wrap_logger(
            structlog.WriteLogger(self._text),
            processors=[
                with_what_is_always_logged,
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        )

    @property
    def text(self) -> str:
        return self._text.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def clear(self) -> None:
        self._text.seek(0)
        self._text.truncate()


def rest_error(error: GatewayError, arrival: Arrival) -> tuple[int, bytes]:
    """The bridge's mapping in small: enough to see that what it returns is what is sent."""
    body = {
        "generation_id": arrival.generation_id,
        "error": error.code.value,
        "description": error.description,
        "upstream_error": {"message": error.failures[-1].upstream.message if error.failures else None},
    }
    return 400, msgspec.json.encode(body)


class HostThread:
    """Register servicers as with a server, `add_insecure_port("unix:…")`, `start()`, `stop()`.

    Without a `kind` it is the host of AISTATS_HOST, as `aistats-gateway up` has it.
    """

    def __init__(self, directory: Path, kind: str | None = None, *, max_concurrent_calls: int = 1000) -> None:
        self._kind = kind or CHOSEN
        self.log = LogBook()
        self.keys: HostKeys
        self.guard: Guard
        self.tcp_port = 0
        self._collector = Collector()
        self.database_url = f"sqlite+aiosqlite:///{directory / 'gateway.db'}"
        self._socket: Path | None = None
        self._max_concurrent_calls = max_concurrent_calls
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._grace_s = 0.0
        self._thread = threading.Thread(target=self._run, name="host")

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        self._collector.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self._collector.add_registered_method_handlers(service, handlers)

    def add_insecure_port(self, address: str) -> None:
        self._socket = Path(address.removeprefix("unix:"))

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(60)
        if self._failure is not None:
            raise self._failure

    def stop(self, grace: float | None = None) -> None:
        self._grace_s = grace or 0.0
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the host's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(self._serve())
            except BaseException as failure:
                self._failure = failure
                self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with AsyncExitStack() as stack:
            reception = await self._open_reception(stack)
            self.guard = Guard(
                reception,
                SystemClock(),
                rest_error,
                log=self.log.logger,
                max_concurrent_calls=self._max_concurrent_calls,
            )
            host = Hosting(self._kind, self._collector.routes(self.guard), unix_socket=self._socket)
            await host.start()
            self.tcp_port = host.tcp_port
            self._ready.set()
            await self._stop.wait()
            await host.stop(self._grace_s)

    async def _open_reception(self, stack: AsyncExitStack) -> FrontDesk:
        clock, ids = SystemClock(), UuidV7()
        await migrate.upgrade(self.database_url)
        database = Database.open(self.database_url)
        stack.push_async_callback(database.close)
        await Teams(database, clock, ids).create("acme")
        records = KeyRecords(database, clock)
        made = [
            await records.create(team="acme", name="inference", scopes=frozenset({Scope.INFERENCE})),
            await records.create(team="acme", name="management", scopes=frozenset({Scope.MANAGEMENT})),
            await records.create(team="acme", name="expired", scopes=frozenset(Scope), expires_at=int(clock.now()) - 1),
            await records.create(team="acme", name="revoked", scopes=frozenset(Scope)),
        ]
        await records.revoke(made[3].id)
        self.keys = HostKeys(*(key.key for key in made))
        return FrontDesk(Authenticate(SqlKeyStore(database, clock)), ids, clock)


def bearer(key: str) -> Metadata:
    return (("authorization", f"Bearer {key}"),)
