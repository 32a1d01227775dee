"""Workers that know idempotency keys, over one database, one pair of scripted upstreams and one team with credit."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack
from typing import Any, Self, TypeVar

from rest_bridge.app import RestApp
from rest_bridge.audio import AudioRest
from rest_bridge.chat import ChatRest
from rest_bridge.http import RestRequest, RestResponse
from rest_bridge.idempotency import IdempotentRunner
from server.clock import UuidV7
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Arrival, Call, Principal, Scope
from server.domain.ledger import Settlement
from server.domain.record import GenerationRecord
from server.domain.restrictions import Restrictions
from server.pipeline.generate import Generator
from server.pipeline.refusals import RecordRefusals
from server.pipeline.speak import Speak
from server.pipeline.transcribe import Transcribe
from server.providers.openai import OpenAIAdapter
from server.storage.database import Database, Work
from server.storage.group_commit import GroupCommit
from server.storage.idempotency import SqlIdempotencyStore
from server.storage.ledger import SqlLedger
from server.storage.teams import Teams
from server.transport import Transport
from tests.fakes import wire
from tests.fakes.chat_wire import frame, text_chunks
from tests.fakes.health import steady
from tests.fakes.openai_upstream import Call as Do
from tests.fakes.replies import chunked
from tests.fakes.rest import Reply, pieces_of, read
from tests.integration.databases import ManualClock
from tests.integration.money import CREDIT, till

BODY: dict[str, Any] = {"model": "a/b", "max_tokens": 100, "messages": [{"role": "user", "content": "hi there, you"}]}
STREAM: dict[str, Any] = {**BODY, "stream": True}
PATH = "/v1/chat/completions"

T = TypeVar("T")


class Gate:
    """A point in an upstream's reply where it waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def wait(self, _: wire.Request) -> None:
        self.reached.set()
        await self._opened.wait()

    def open(self) -> None:
        self._opened.set()


def words(first: str, gate: Gate, *others: str, one_byte: bool = False) -> wire.Reply:
    """A streamed answer with a gate behind its first word; `one_byte` sends each byte by itself."""
    frames = frame(text_chunks(first, *others))
    pieces: list[bytes | wire.Step] = [*frames[:2], Do(gate.wait), *frames[2:]]
    if one_byte:
        pieces = [part for piece in pieces for part in (_bytes(piece) if isinstance(piece, bytes) else [piece])]
    return chunked(pieces)


def _bytes(piece: bytes) -> list[bytes]:
    return [piece[at : at + 1] for at in range(len(piece))]


class LockedLedger(SqlLedger):
    """A ledger whose settlements, while it is not `locked`, take as long as the test wants."""

    locked: asyncio.Event
    asked: asyncio.Event

    @classmethod
    def make(cls, *arguments: Any) -> Self:
        ledger = cls(*arguments)
        ledger.locked, ledger.asked = asyncio.Event(), asyncio.Event()
        ledger.locked.set()
        return ledger

    def settle(self, settlement: Settlement) -> asyncio.Future[None]:
        async def late() -> None:
            self.asked.set()
            await self.locked.wait()
            await durable

        durable = super().settle(settlement)
        return asyncio.ensure_future(late())


class LosesAnswers(Database):
    """A database that does what the next transaction asks for, and then is away: nobody is told. `away` ends that."""

    loses = False
    away = False
    asked = 0
    """Transactions while it was away."""

    async def write(self, work: Work[T]) -> T:
        if self.away:
            self.asked += 1
            raise GatewayError(Reason.DATABASE_UNAVAILABLE, "on purpose", retry_after_s=1.0)
        result = await super().write(work)
        if self.loses:
            self.loses, self.away = False, True
            raise GatewayError(Reason.DATABASE_UNAVAILABLE, "on purpose", retry_after_s=1.0)
        return result


class Worker:
    """One worker's bridge, with a store, ledger and pipeline of its own. Its keys may be in another `database`."""

    def __init__(
        self, counter: Counter, ledger: LockedLedger, *, database: Database | None = None, **limits: Any
    ) -> None:
        self.ledger = ledger
        self._counter = counter
        database = database or counter.database
        self._commits = GroupCommit(database)
        self._is_stopped = False
        self.store = SqlIdempotencyStore(database, self._commits, counter.clock, ledger.worker_id)
        self.runner = IdempotentRunner(self.store, ledger, counter.till.clock, **limits)
        generate = Generator(
            counter.till,
            {"openai": counter.adapter},
            ledger,
            counter.till.clock,
            counter.till.shutdown,
            counter.till.drains,
            steady(counter.till.clock),
        )
        routes = (*ChatRest(generate).routes(), *AudioRest(Speak(generate), Transcribe(generate)).routes())
        self._app = RestApp(counter, routes, RecordRefusals(ledger), self.runner)

    async def send(
        self,
        body: Any,
        *,
        path: str = PATH,
        key: str | None = "key-1",
        team_id: str | None = None,
        deadline_in_s: float | None = None,
    ) -> RestResponse:
        """The response, whose body is not read yet."""
        counter = self._counter
        arrival = counter.arrive(deadline_in_s=deadline_in_s)
        headers = {"authorization": team_id or counter.team_id, "content-type": "application/json"}
        if key is not None:
            headers["idempotency-key"] = key
        data = encoded(body)
        return await self._app(RestRequest("POST", path, headers, pieces_of(data), arrival))

    async def post(self, body: Any, **more: Any) -> Reply:
        return await read(await self.send(body, **more))

    def fingerprint(self, body: Any) -> bytes:
        return hashlib.sha256(f"POST {PATH}\n".encode() + encoded(body)).digest()

    async def stop(self, grace_s: float = 10.0) -> None:
        """As `bootstrap` does it. Idempotent."""
        if not self._is_stopped:
            self._is_stopped = True
            await self.runner.close(grace_s)
            await self._counter.till.drains.close()
            await self.ledger.close()
            await self._commits.close()


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


class Counter:
    """What the workers share. It is their reception too: here the authorization is the team's id."""

    def __init__(self, database: Database, clock: ManualClock, stack: AsyncExitStack) -> None:
        self.database, self.clock = database, clock
        self.held_to = Restrictions()
        """What the keys of the next requests are held to."""
        self._stack = stack
        self._ids = UuidV7()

    async def open(self) -> None:
        self.till = await self._stack.enter_async_context(till(self.database))
        transport = await self._stack.enter_async_context(Transport())
        self.adapter = OpenAIAdapter(transport, self.till.clock, self._ids)
        self.upstream, self.team_id = self.till.first, self.till.team_id

    async def worker(self, **options: Any) -> Worker:
        worker = Worker(self, LockedLedger.make(self.database, self.till.clock, self._ids.new()), **options)
        self._stack.push_async_callback(worker.stop)
        return worker

    def loses_answers(self) -> LosesAnswers:
        """The same database, by another way."""
        opened = LosesAnswers.open(self.database.engine.url.render_as_string(hide_password=False), quiet=True)
        self._stack.push_async_callback(opened.close)
        assert isinstance(opened, LosesAnswers)
        return opened

    def arrive(
        self,
        *,
        suffix: str | None = None,
        request_id: str | None = None,
        deadline_in_s: float | None = None,
        client: str = "",
    ) -> Arrival:
        now_s = self.till.clock.monotonic()
        deadline_s = None if deadline_in_s is None else now_s + deadline_in_s
        return Arrival(suffix or self._ids.new(), request_id or "req-1", now_s, int(self.clock.now()), deadline_s)

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        return Call(arrival, Principal(authorization or "", "key", frozenset({scope}), restrictions=self.held_to))

    async def another_team(self) -> str:
        """With the same credit."""
        first, self.till.team_id = self.till.team_id, ""
        other = await Teams(self.database, self.till.clock, self._ids).create("another")
        self.till.team_id = other.id
        await self.till.top_up(CREDIT)
        self.till.team_id = first
        return other.id

    async def spent(self, team_id: str | None = None) -> int:
        first, self.till.team_id = self.till.team_id, team_id or self.till.team_id
        try:
            return await self.till.spent()
        finally:
            self.till.team_id = first

    async def record(self, reply: Reply) -> GenerationRecord:
        suffix = reply.headers["x-generation-id"].removeprefix("gen_")
        return await self.till.settled(Call(self.arrive(suffix=suffix), Principal(self.team_id, "key", frozenset())))
