"""Rate limits that are nearly used up, from the headers on a real socket to the weight on every worker."""

from __future__ import annotations

from typing import Any

import pytest

from server.domain.catalog import Catalog, Model
from server.domain.events import Headroom
from server.pipeline.health.offers import Health
from server.pipeline.health.share import Sharing
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.health_reports import SqlHealthExchange
from tests.fakes.chat_wire import completion, frame, text_chunks
from tests.fakes.health import KEY, middle, offers
from tests.fakes.openai_upstream import error, json_reply, sse
from tests.integration.databases import ManualClock
from tests.integration.test_generate import Bench, account_of, bench
from tests.integration.test_health_sharing import commits
from tests.integration.test_routing_by_health import standing

__all__ = ["bench", "commits"]

ROUTE = KEY._replace(provider="p0")


def nearly_empty(stream: bool, reset: str = "30s") -> Any:
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "500",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-remaining-tokens": "100",
        "x-ratelimit-reset-tokens": reset,
    }
    if stream:
        return sse(frame(text_chunks("Hi")), headers=headers)
    return json_reply(completion("Hi"), headers=headers)


@pytest.mark.parametrize("stream", [True, False])
async def test_who_has_little_left_is_spared_and_asked_where_nobody_else_is(bench: Bench, stream: bool) -> None:
    bench.first.script(nearly_empty(stream))
    await bench.run(stream=stream, order=())
    assert len(bench.first.requests) == 1
    assert standing(bench).breaker == "closed"
    assert standing(bench).score == pytest.approx(0.05)
    for _ in range(3):
        await bench.run(stream=stream, order=())
    assert (len(bench.first.requests), len(bench.second.requests)) == (1, 3)
    bench.second.script(error(500))
    assert account_of(await bench.run(order=())).meta.provider == "first"


async def test_a_refusal_tells_of_it_as_well(bench: Bench) -> None:
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "3"}
    bench.first.script(error(503, headers=headers))
    await bench.run()
    assert bench.health.entry(KEY._replace(provider="first", model="a/b:free")).pressure.used == pytest.approx(0.95)


async def test_it_is_forgotten_at_the_reset(bench: Bench) -> None:
    bench.first.script(nearly_empty(True, reset="0s"))
    await bench.run()
    assert standing(bench).score == 1.0


async def test_every_worker_knows_until_the_reset(database: Database, commits: GroupCommit, clock: ManualClock) -> None:
    found = offers(2)

    class Source:
        current = Catalog(
            {one.offer.provider.id: one.offer.provider for one in found},
            {"a/b": Model("a/b", tuple(one.offer for one in found))},
        )

    healths = [Health(clock, middle) for _ in "ab"]
    one, other = (
        Sharing(health, SqlHealthExchange(database, commits, clock, name), Source(), clock)
        for name, health in zip("ab", healths, strict=True)
    )
    watch = healths[0].start(ROUTE)
    assert watch is not None
    watch.told(Headroom(0.1, 20.0))
    watch.succeeded(streamed=True, latency_ms=100.0, tokens=5, took_s=1.0)
    await one.exchange()
    await other.exchange()
    clock.advance(1.0)
    assert [health.entry(ROUTE).standing(clock.monotonic()).score for health in healths] == pytest.approx([0.5, 0.5])
    await other.exchange()
    await one.exchange()
    clock.advance(20.0)
    assert [health.entry(ROUTE).standing(clock.monotonic()).score for health in healths] == pytest.approx([1.0, 1.0])
