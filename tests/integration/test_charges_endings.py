"""However a generation ends, and however badly the database is, it is charged once or not at all and holds nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from server.clock import UuidV7
from server.domain.catalog import Offer
from server.domain.errors import GatewayError, Reason
from server.domain.events import ProviderStream
from server.domain.identity import TeamPolicy
from server.domain.ledger import Hold
from server.domain.pricing import PriceList
from server.domain.request import GENERATING, Sampling
from server.domain.work import Work
from server.pipeline import generate
from server.pipeline.admit import opening
from server.pipeline.generate import Generator
from server.storage.database import Database
from server.storage.ledger import SqlLedger
from server.storage.sweeper import Sweeper
from server.storage.tables import generations
from tests.fakes.chat_wire import usage
from tests.fakes.health import steady
from tests.fakes.openai_upstream import Call as Do
from tests.fakes.openai_upstream import chat_stream, chat_unary, error, silent
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import open_reservations, problems, stalled
from tests.integration.money import CREDIT, Till, till

COST = 10 * 150 + 20 * 600
"""Of 10 and 20 tokens."""


@pytest.fixture
async def counter(database: Database) -> AsyncIterator[Till]:
    async with till(database) as counter:
        yield counter


class Broken:
    """An adapter with a mistake in it."""

    endpoints = GENERATING

    def supports(self, offer: Offer, request: Work) -> str | None:
        return None

    async def stream(self, offer: Offer, request: Work) -> ProviderStream:
        yield ()
        raise LookupError("a mistake")


async def served(counter: Till) -> None:
    await counter.run(counter.call(), counter.request())


async def refused(counter: Till) -> None:
    counter.first.script(error(400, "No."))
    counter.second.script(error(400, "No."))
    await counter.run(counter.call(), counter.request())


async def failed(counter: Till) -> None:
    counter.first.script(error(500))
    counter.second.script(error(503))
    await counter.run(counter.call(), counter.request())


async def timed_out(counter: Till) -> None:
    counter.limit(first_byte_timeout_s=0.5)
    counter.first.script(silent())
    counter.second.script(silent())
    await counter.run(counter.call(), counter.request())


async def left(counter: Till) -> None:
    counter.first.script(chat_stream(*["word "] * 50, every_s=0.02))
    await counter.run(counter.call(), counter.request(), leave_after=3)


async def left_before_a_word(counter: Till) -> None:
    asked = len(counter.first.requests)
    counter.first.script(silent())
    running = asyncio.create_task(counter.run(counter.call(), counter.request()))
    await counter.first.wait_request(asked + 1)
    running.cancel()
    await asyncio.wait([running])


async def broke(counter: Till) -> None:
    adapters: Any = {"openai": Broken()}
    broken = Generator(
        counter, adapters, counter.ledger, counter.clock, counter.shutdown, counter.drains, steady(counter.clock)
    )
    async for _ in broken(counter.call(), counter.request()):
        pass


async def was_killed(counter: Till) -> None:
    """Another worker holds credit, and is never heard of again."""
    worker = SqlLedger(counter.database, counter.clock, UuidV7().new())
    await worker.reserve(Hold(1_000_000, opening(counter.call(), counter.request())))


Ending = Callable[[Till], Awaitable[None]]
ENDINGS: list[tuple[Ending, type[Exception] | None]] = [
    (served, None),
    (refused, GatewayError),
    (failed, GatewayError),
    (timed_out, GatewayError),
    (left, None),
    (left_before_a_word, None),
    (broke, LookupError),
    (was_killed, None),
]


async def test_b4_no_ending_leaves_anything_reserved(counter: Till, database: Database) -> None:
    for ending, raises in ENDINGS:
        counter.first.script()
        counter.second.script()
        if raises is None:
            await ending(counter)
        else:
            with pytest.raises(raises):
                await ending(counter)
    async with asyncio.timeout(30):
        while await count_records(database) < len(ENDINGS) - 1:  # noqa: ASYNC110 - the database tells no more
            await asyncio.sleep(0.01)
    assert await open_reservations(database) == 1
    long_after = ManualClock(counter.clock.now() + 60)
    assert await Sweeper(database, long_after, "other", lease_s=30).sweep() == 1
    assert (await counter.wallet())[1] == 0
    assert await open_reservations(database) == 0
    assert await problems(database) == []


async def count_records(database: Database) -> int:
    async def work(connection: AsyncConnection) -> int:
        return (await connection.execute(select(func.count()).select_from(generations))).scalar_one()

    return await database.read(work)


@pytest.mark.parametrize(("share", "passes"), [(1.0, True), (0.5, False)])
async def test_b11_without_a_limit_the_model_s_own_is_held(database: Database, share: float, passes: bool) -> None:
    async with till(database) as counter:
        counter.current = counter.catalog(PriceList({"output_text_tokens": 4_000_000_000_000}))
        bound = 1000 * 4_000_000
        await counter.top_up(int(bound * share) - CREDIT)
        request = replace(counter.request(stream=False), sampling=Sampling())
        held: list[tuple[int, int]] = []

        async def look(_: object) -> None:
            held.append(await counter.wallet())

        counter.first.script([Do(look), *chat_unary(usage_=usage(10, 20))])
        if passes:
            await counter.run(counter.call(), request)
            assert held == [(bound, bound)]
            assert await counter.wallet() == (bound - 20 * 4_000_000, 0)
            return
        with pytest.raises(GatewayError) as refusal:
            await counter.run(counter.call(), request)
        assert refusal.value.reason is Reason.INSUFFICIENT_FUNDS
        assert counter.first.requests == []
        assert await counter.wallet() == (bound // 2, 0)


async def test_u3_a_whole_answer_that_is_being_settled_when_its_client_goes(counter: Till, database: Database) -> None:
    """It is seen and not yet relayed: settled once, at its own usage."""
    counter.first.script(chat_unary(usage_=usage(10, 20)))
    call = counter.call()
    generation = counter.generate(call, counter.request(stream=False))
    async for batch in generation:
        assert batch
        break
    async with stalled(database):
        task = asyncio.create_task(anext(generation))
        await asyncio.sleep(0.1)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    record = await counter.settled(call)
    assert record.usage is not None
    assert (record.usage.source, record.cost_nanos) == ("provider", COST)
    assert await counter.kinds(call) == ["reserve", "settle"]
    assert await counter.spent() == COST


async def test_u3_a_team_that_drains_pays_for_a_whole_answer_that_came_late(counter: Till) -> None:
    counter.policy = TeamPolicy(on_disconnect="drain")
    gate = asyncio.Event()
    counter.first.script([Do(lambda _: gate.wait()), *chat_unary(usage_=usage(10, 20))])
    call = counter.call()
    task = asyncio.create_task(counter.run(call, counter.request(stream=False)))
    await counter.first.wait_request()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gate.set()
    record = await counter.settled(call)
    assert (record.disconnect, record.cost_nanos) == ("drained", COST)
    assert await counter.kinds(call) == ["reserve", "settle"]
    assert await counter.spent() == COST


async def test_a_free_answer_does_not_wait_for_a_record_that_is_late(
    counter: Till, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "RECORD_WAIT_S", 0.1)
    call = counter.call()
    async with stalled(database, "generations"):
        with capture_logs() as logs:
            await counter.run(call, counter.request(model="a/b:free"))
        assert [line["generation_id"] for line in logs if line["event"] == "record_late"] == [f"gen_{call.suffix}"]
        assert await count_records(database) == 0
    record = await counter.settled(call)
    assert (record.success, record.cost_nanos) == (True, 0)
    assert await count_records(database) == 1
