"""A second provider beside a slow first one: who answers, who is cancelled, and what both cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.domain.catalog import Catalog, Model, Offer, Provider, Routing
from server.domain.errors import FailureCategory, GatewayError, Reason
from server.domain.identity import TeamPolicy
from server.domain.request import Endpoint
from server.pipeline.health.figures import MINUTE
from server.pipeline.health.standing import RouteKey
from server.storage.database import Database
from tests.fakes.chat_wire import chat_chunks, role_chunk, usage, usage_chunk
from tests.fakes.openai_upstream import Hang, Pause, chat_stream, error, silent
from tests.integration.money import Till, till
from tests.integration.test_generate import Bench, account_of, bench, text_of

__all__ = ["bench"]

AFTER_S = 0.1


@pytest.fixture
def hedged(bench: Bench) -> Bench:
    bench.limit(hedge_after_s=AFTER_S, max_attempts=3)
    return bench


def slow(after_s: float, *pieces: str) -> Any:
    return [Pause(after_s), *chat_stream(*pieces)]


def outcomes(events: list[Any]) -> dict[str, str]:
    return {row.provider: row.outcome for row in account_of(events).meta.routing}


def in_flight(bench: Bench) -> list[int]:
    keys = [RouteKey(name, "a/b:free", Endpoint.CHAT) for name in ("first", "second")]
    return [bench.health.entry(key).in_flight for key in keys]


async def test_the_first_to_show_output_wins_and_the_other_is_cancelled(bench: Bench) -> None:
    after_s = 1.0
    bench.limit(hedge_after_s=after_s)
    bench.first.script(silent())
    bench.second.script(chat_stream("se", "cond"))
    began_s = time.monotonic()
    events = await bench.run()
    assert after_s <= time.monotonic() - began_s < 10
    assert text_of(events) == "second"
    assert outcomes(events) == {"first": "outrun", "second": "chosen"}
    account = account_of(events)
    assert (account.meta.provider, account.meta.attempts) == ("second", 2)
    assert account.meta.latency_ms < 1000 * after_s, "from when this one was called"
    assert account.meta.gateway_ms < 1000 * after_s, "nobody waited for the gateway"
    await bench.first.wait_disconnect()
    assert in_flight(bench) == [0, 0]


async def test_who_was_only_slow_may_still_win(hedged: Bench) -> None:
    hedged.first.script(slow(2 * AFTER_S, "fi", "rst"))
    hedged.second.script(silent())
    events = await hedged.run()
    assert text_of(events) == "first"
    assert outcomes(events) == {"first": "chosen", "second": "outrun"}
    assert account_of(events).meta.provider == "first"
    await hedged.second.wait_disconnect()


async def test_a_silent_provider_is_known_to_be_slow(hedged: Bench) -> None:
    hedged.first.script(silent())
    await hedged.run()
    entry, now_s = hedged.health.entry(RouteKey("first", "a/b:free", Endpoint.CHAT)), hedged.clock.monotonic()
    minute = entry.reading(now_s).windows[MINUTE]
    assert (entry.standing(now_s).breaker, minute.attempts) == ("closed", 0)
    assert minute.first_token_ms is not None
    assert minute.first_token_ms >= 1000 * AFTER_S


@pytest.mark.parametrize(
    ("limits", "wishes"),
    [
        ({"hedge_after_s": None}, {}),
        ({"max_attempts": 1}, {}),
        ({}, {"allow_fallbacks": False}),
        ({}, {"only": ("first",)}),
        ({}, {"stream": False}),
        ({}, {"model": "first:a/b:free"}),
    ],
    ids=["off", "one_attempt", "no_fallbacks", "one_provider", "whole_answer", "pinned"],
)
async def test_nobody_else_is_called(bench: Bench, limits: dict[str, Any], wishes: dict[str, Any]) -> None:
    bench.limit(**{"hedge_after_s": AFTER_S, **limits})
    bench.first.script([Pause(3 * AFTER_S), *chat_stream("slow")] if wishes.get("stream", True) else slow(3 * AFTER_S))
    events = await bench.run(**wishes)
    assert account_of(events).meta.provider == "first"
    assert bench.second.requests == []


async def test_who_is_fast_enough_costs_one_call(bench: Bench) -> None:
    bench.limit(hedge_after_s=10.0)
    assert outcomes(await bench.run()) == {"first": "chosen", "second": "not_needed"}
    assert bench.second.requests == []


async def test_a_failure_while_both_run_leaves_the_other(hedged: Bench) -> None:
    hedged.first.script([Pause(2 * AFTER_S), *error(500)])
    hedged.second.script(slow(2 * AFTER_S, "second"))
    events = await hedged.run()
    assert text_of(events) == "second"
    assert outcomes(events) == {"first": "failed: server_error", "second": "chosen"}


@pytest.mark.parametrize(
    ("second", "reason"), [(error(503), Reason.ALL_CANDIDATES_FAILED), (error(400), Reason.UPSTREAM_REJECTED_REQUEST)]
)
async def test_both_fail(hedged: Bench, second: Any, reason: Reason) -> None:
    hedged.first.script([Pause(2 * AFTER_S), *error(500)])
    hedged.second.script(second)
    with pytest.raises(GatewayError) as failed:
        await hedged.run()
    assert failed.value.reason is reason
    assert {failure.provider for failure in failed.value.failures} == {"first", "second"}
    assert in_flight(hedged) == [0, 0]


async def test_there_is_one_hedge_and_no_attempt_too_many(hedged: Bench) -> None:
    """Four providers, all silent: two at once, then one alone, and that is all."""
    upstreams = {"p1": hedged.first, "p2": hedged.second, "p3": hedged.first, "p4": hedged.second}
    providers = {name: Provider(name, "openai", upstream.base_url) for name, upstream in upstreams.items()}
    offers = tuple(Offer(provider, "test-1", frozenset({Endpoint.CHAT})) for provider in providers.values())
    routing = Routing(timeout_s=60.0, first_byte_timeout_s=0.4, max_attempts=3, hedge_after_s=AFTER_S)
    hedged.current = Catalog(providers, {"a/b:free": Model("a/b:free", offers)}, routing=routing)
    for upstream in (hedged.first, hedged.second):
        upstream.script(silent(), silent())
    began_s = time.monotonic()
    with pytest.raises(GatewayError) as late:
        await hedged.run(order=("p1", "p2", "p3", "p4"))
    assert [failure.provider for failure in late.value.failures] == ["p1", "p2", "p3"]
    assert {failure.category for failure in late.value.failures} == {FailureCategory.TIMEOUT}
    assert time.monotonic() - began_s >= 0.8, "the third was called when both had failed"
    assert len(hedged.first.requests) + len(hedged.second.requests) == 3


async def test_a_client_that_leaves_ends_both(hedged: Bench) -> None:
    hedged.first.script(silent())
    hedged.second.script(silent())
    running = asyncio.create_task(hedged.run())
    await hedged.second.wait_request()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await hedged.first.wait_disconnect()
    await hedged.second.wait_disconnect()
    assert in_flight(hedged) == [0, 0]


async def test_a_shutdown_ends_both(hedged: Bench) -> None:
    hedged.first.script(silent())
    hedged.second.script(silent())
    running = asyncio.create_task(hedged.run())
    await hedged.second.wait_request()
    hedged.shutdown.begin()
    with pytest.raises(GatewayError) as ended:
        await asyncio.wait_for(running, 30)
    assert ended.value.reason is Reason.SHUTTING_DOWN
    await hedged.first.wait_disconnect()
    await hedged.second.wait_disconnect()


# What it costs.


@pytest.fixture
async def counter(database: Database) -> AsyncIterator[Till]:
    async with till(database) as counter:
        counter.limit(hedge_after_s=AFTER_S)
        yield counter


def says_what_it_used(input_tokens: int) -> Any:
    """A provider that counts the prompt at once, and then thinks."""
    return [*chat_chunks([role_chunk(), usage_chunk(usage(input_tokens, 0))], done=False)[:-1], Hang()]


async def test_what_both_used_is_charged_and_on_the_record(counter: Till) -> None:
    counter.first.script(says_what_it_used(11))
    counter.second.script(chat_stream("done", usage_=usage(9, 20)))
    call = counter.call()
    await counter.run(call, counter.request(order=("first",)))
    record = await counter.settled(call)
    assert [(one.provider, one.error_code, one.status, one.billed) for one in record.attempts] == [
        ("first", "outrun", None, True),
        ("second", None, 200, True),
    ]
    assert [one.cost_nanos for one in record.attempts] == [11 * 150, 9 * 150 + 20 * 600]
    assert record.cost_nanos == await counter.spent() == 20 * 150 + 20 * 600
    assert (record.success, record.provider, await counter.kinds(call)) == (True, "second", ["reserve", "settle"])


async def test_an_outrun_provider_that_said_nothing_costs_nothing(counter: Till) -> None:
    counter.first.script(silent())
    counter.second.script(chat_stream("done", usage_=usage(9, 20)))
    call = counter.call()
    await counter.run(call, counter.request(order=("first",)))
    record = await counter.settled(call)
    assert [one.billed for one in record.attempts] == [False, True]
    assert await counter.spent() == 9 * 150 + 20 * 600


async def test_credit_is_held_for_both(counter: Till) -> None:
    held = []
    for stream in (False, True):
        counter.first.script(silent())
        call = counter.call()
        running = asyncio.create_task(counter.run(call, counter.request(stream=stream, order=("first",))))
        await counter.first.wait_request(len(counter.first.requests) + 1)
        held.append((await counter.wallet())[1])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await counter.settled(call)
    assert held[1] == 2 * held[0] > 0


async def test_a_stream_that_is_read_to_its_end_for_nobody_races_all_the_same(counter: Till) -> None:
    counter.policy = TeamPolicy(on_disconnect="drain")
    counter.first.script(silent())
    counter.second.script(slow(AFTER_S, "a", "b"))
    call = counter.call()
    running = asyncio.create_task(counter.run(call, counter.request(order=("first",))))
    await counter.second.wait_request()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    record = await counter.settled(call)
    assert (record.provider, record.disconnect) == ("second", "drained")
    await counter.first.wait_disconnect()
