"""A pipeline that charges: real ledger and database, real adapter and transport, scripted upstreams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import Update, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import SystemClock, UuidV7
from server.domain.catalog import Catalog, Model, Offer, Provider, Routing
from server.domain.events import GenerationEvent
from server.domain.identity import Arrival, Call, Principal, TeamPolicy
from server.domain.pricing import PriceList
from server.domain.record import GenerationRecord
from server.domain.request import Endpoint, GenerationRequest, Role, RoutingPreferences, Sampling, Text, Turn
from server.domain.work import Work
from server.pipeline.drain import Drains
from server.pipeline.generate import Generator
from server.pipeline.shutdown import Shutdown
from server.providers.openai import OpenAIAdapter
from server.storage.database import Database
from server.storage.ledger import SqlLedger
from server.storage.tables import generation_contents, generations, ledger_entries, wallets
from server.storage.teams import Teams
from server.transport import Transport
from tests.fakes.health import steady
from tests.fakes.openai_upstream import Upstream

PRICES = PriceList({"input_text_tokens": 150_000_000, "output_text_tokens": 600_000_000})
"""150 and 600 nano-dollars a token."""
ROUTING = Routing(timeout_s=60.0, first_byte_timeout_s=20.0, idle_timeout_s=20.0, max_attempts=2)
"""A busy machine is never taken for a silent provider: who is about silence sets a limit (`Till.limit`)."""
CREDIT = 10_000_000_000


class Till:
    """One team with credit, two upstreams that offer the paid model `a/b`, and the pipeline before them."""

    def __init__(
        self, database: Database, ledger: SqlLedger, first: Upstream, second: Upstream, transport: Transport
    ) -> None:
        self.database, self.ledger = database, ledger
        self.first, self.second = first, second
        self.clock, self.ids = SystemClock(), UuidV7()
        self.shutdown, self.drains = Shutdown(), Drains(limit_s=5.0)
        self.team_id = ""
        self.policy = TeamPolicy()
        self.current = self.catalog()
        adapter = OpenAIAdapter(transport, self.clock, self.ids)
        self.generate = Generator(
            self, {"openai": adapter}, ledger, self.clock, self.shutdown, self.drains, steady(self.clock)
        )

    def catalog(self, prices: PriceList = PRICES, **of_provider: Any) -> Catalog:
        providers = {
            name: Provider(name, "openai", upstream.base_url, **of_provider)
            for name, upstream in (("first", self.first), ("second", self.second))
        }
        endpoints = frozenset({Endpoint.CHAT})
        paid = tuple(Offer(provider, "test-1", endpoints, prices=prices) for provider in providers.values())
        free = tuple(Offer(provider, "test-1", endpoints) for provider in providers.values())
        models = {
            "a/b": Model("a/b", paid, max_output_tokens=1000),
            "a/b:free": Model("a/b:free", free, max_output_tokens=1000),
        }
        return Catalog(providers, models, routing=ROUTING)

    def limit(self, **limits: Any) -> None:
        """Other limits, in seconds, for the catalogue as it is."""
        routing = msgspec.structs.replace(self.current.routing, **limits)
        self.current = msgspec.structs.replace(self.current, routing=routing)

    async def open(self, credit_nanos: int = CREDIT) -> None:
        team = await Teams(self.database, self.clock, self.ids).create("payer")
        self.team_id = team.id
        await self.top_up(credit_nanos)

    async def top_up(self, nanos: int) -> None:
        """Put credit into the wallet, or take it out."""
        values = {"team_id": self.team_id, "balance_nanos": nanos}

        async def work(connection: AsyncConnection) -> None:
            if not (await connection.execute(_more(self.team_id, nanos))).rowcount:
                await connection.execute(insert(wallets).values(**values, reserved_nanos=0))
            entry = {**values, "kind": "top_up", "reserved_nanos": 0, "created_at": int(self.clock.now())}
            await connection.execute(insert(ledger_entries).values(**entry))

        await self.database.write(work)

    async def contents(self) -> dict[str, tuple[str, bytes | None, bytes]]:
        """By suffix what is kept of prompts and replies."""

        async def work(connection: AsyncConnection) -> dict[str, tuple[str, bytes | None, bytes]]:
            rows = await connection.execute(select(generation_contents))
            return {row.suffix: (row.path, row.request_json, row.reply_json) for row in rows}

        return await self.database.read(work)

    def call(self) -> Call:
        arrival = Arrival(self.ids.new(), "request", self.clock.monotonic(), int(self.clock.now()))
        return Call(arrival, Principal(self.team_id, "key", frozenset(), policy=self.policy))

    def request(self, *, stream: bool = True, model: str = "a/b", **wishes: Any) -> GenerationRequest:
        return GenerationRequest(
            endpoint=Endpoint.CHAT,
            model=model,
            turns=(Turn(Role.USER, (Text("hi there, you"),)),),
            stream=stream,
            sampling=Sampling(max_output_tokens=100),
            routing=RoutingPreferences(**wishes),
        )

    async def run(self, call: Call, request: Work, *, leave_after: int | None = None) -> list[GenerationEvent]:
        """Every event, or those of so many batches: the client then goes."""
        seen: list[GenerationEvent] = []
        taken = 0
        async with aclosing(self.generate(call, request)) as batches:
            async for batch in batches:
                seen += batch
                taken += 1
                if taken == leave_after:
                    break
        return seen

    async def settled(self, call: Call) -> GenerationRecord:
        """The record of a call that has ended, when it is on disk."""
        await self.drains.close()

        async def work(connection: AsyncConnection) -> bytes | None:
            query = select(generations.c.record_json).where(generations.c.suffix == call.suffix)
            return (await connection.execute(query)).scalar_one_or_none()

        async with asyncio.timeout(30):
            while (stored := await self.database.read(work)) is None:  # noqa: ASYNC110 - the database tells no more
                await asyncio.sleep(0.01)
        return msgspec.json.decode(stored, type=GenerationRecord)

    async def wallet(self) -> tuple[int, int]:
        """Balance and what is reserved, in nano-dollars."""

        async def work(connection: AsyncConnection) -> tuple[int, int]:
            query = select(wallets.c.balance_nanos, wallets.c.reserved_nanos).where(wallets.c.team_id == self.team_id)
            row = (await connection.execute(query)).one()
            return row.balance_nanos, row.reserved_nanos

        return await self.database.read(work)

    async def spent(self) -> int:
        """What has left the wallet. Nothing may be reserved any more."""
        balance, reserved = await self.wallet()
        assert reserved == 0
        return CREDIT - balance

    async def kinds(self, call: Call) -> list[str]:
        """The entries of a call, in their order."""

        async def work(connection: AsyncConnection) -> list[str]:
            query = (
                select(ledger_entries.c.kind)
                .where(ledger_entries.c.reservation_id == call.suffix)
                .order_by(ledger_entries.c.id)
            )
            return list((await connection.execute(query)).scalars())

        return await self.database.read(work)


def _more(team_id: str, nanos: int) -> Update:
    return update(wallets).where(wallets.c.team_id == team_id).values(balance_nanos=wallets.c.balance_nanos + nanos)


@asynccontextmanager
async def till(database: Database) -> AsyncIterator[Till]:
    async with Upstream() as first, Upstream() as second, Transport() as transport:
        ledger = SqlLedger(database, SystemClock(), UuidV7().new())
        counter = Till(database, ledger, first, second, transport)
        await counter.open()
        try:
            yield counter
        finally:
            await counter.drains.close()
            await ledger.close()
