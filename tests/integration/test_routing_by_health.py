"""What attempts teach the router, through the whole pipeline and real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.domain.errors import GatewayError, Reason
from server.domain.health import ProviderHealth
from server.domain.request import Endpoint
from server.pipeline.health.breaker import EARLY_PROBES
from server.pipeline.health.standing import RouteKey, Standing
from server.pipeline.health.view import MeasuredHealth
from tests.fakes.openai_upstream import chat_stream, error, silent
from tests.integration.test_generate import Bench, account_of, bench, text_of

__all__ = ["bench"]


def standing(bench: Bench, name: str = "first") -> Standing:
    return bench.health.entry(RouteKey(name, "a/b:free", Endpoint.CHAT)).standing(bench.clock.monotonic())


def told(bench: Bench, name: str = "first") -> ProviderHealth:
    providers = MeasuredHealth(bench, bench.health, bench.clock).providers()
    return next(provider for provider in providers if provider.id == name)


async def wear_out(bench: Bench, times: int = 5, reply: Any = None) -> None:
    bench.first.script(*[reply or error(500)] * times)
    for _ in range(times):
        await bench.run()


async def test_who_keeps_failing_is_left_alone_and_the_rows_say_why(bench: Bench) -> None:
    await wear_out(bench)
    account = account_of(await bench.run())
    assert len(bench.first.requests) == 5
    assert account.meta.provider == "second"
    rows = [(row.provider, row.outcome, row.score, row.breaker) for row in account.meta.routing]
    assert rows == [("second", "chosen", 1.0, "closed"), ("first", "avoided: error_rate", 0.0, "open")]


async def test_health_tells_what_was_measured(bench: Bench) -> None:
    await wear_out(bench)
    first, second = told(bench), told(bench, "second")
    assert (first.status, first.breaker.state, first.breaker.reason, first.score) == ("down", "open", "error_rate", 0.0)
    assert first.breaker.opened_at is not None
    assert first.breaker.retry_at is not None
    assert 29.0 <= first.breaker.retry_at - first.breaker.opened_at <= 37.0
    assert (first.requests_1m, first.success_rate, first.routes[0].breaker) == (5, 0.0, "open")
    assert (second.status, second.success_rate, second.requests_1m, second.in_flight) == ("ok", 1.0, 5, 0)
    assert 0 < second.ttft_ms <= second.latency_p95_ms * 1.01
    assert second.throughput_tps > 0


async def test_failures_of_a_fallback_count_as_well(bench: Bench) -> None:
    bench.first.script(*[error(500)] * 9)
    bench.second.script(*[error(500)] * 9)
    for _ in range(9):
        with pytest.raises(GatewayError):
            await bench.run()
    assert (standing(bench).breaker, standing(bench, "second").breaker) == ("open", "open")


@pytest.mark.parametrize("status", [402, 401])
async def test_a_refused_account_is_not_asked_again(bench: Bench, status: int) -> None:
    bench.first.script(error(status))
    assert account_of(await bench.run()).meta.provider == "second"
    assert standing(bench).breaker == "open"
    await bench.run()
    assert len(bench.first.requests) == 1


async def test_a_session_does_not_hold_on_to_who_is_limited(bench: Bench) -> None:
    limited = error(429, code="rate_limit_exceeded", headers={"retry-after": "30"})
    bench.first.script(limited)
    account = account_of(await bench.run(session_id="s"))
    assert account.meta.provider == "second"
    assert standing(bench).reason == "rate_limited"


async def test_with_all_limited_nobody_is_called_and_the_client_is_told_when(bench: Bench) -> None:
    for upstream, wait in ((bench.first, "30"), (bench.second, "20")):
        upstream.script(error(429, code="rate_limit_exceeded", headers={"retry-after": wait}))
    with pytest.raises(GatewayError):
        await bench.run()
    with pytest.raises(GatewayError) as refused:
        await bench.run()
    assert refused.value.reason is Reason.PROVIDERS_UNAVAILABLE
    assert refused.value.retry_after_s == pytest.approx(20.0, abs=1.0)
    assert (len(bench.first.requests), len(bench.second.requests)) == (1, 1)


async def test_an_only_provider_is_called_whatever_it_said(bench: Bench) -> None:
    bench.first.script(error(429, code="rate_limit_exceeded", headers={"retry-after": "30"}))
    with pytest.raises(GatewayError) as limited:
        await bench.run(only=("first",))
    assert (limited.value.reason, limited.value.retry_after_s) == (Reason.UPSTREAM_RATE_LIMITED, 30.0)
    assert standing(bench).breaker == "open"
    assert text_of(await bench.run(only=("first",))) == "Hello there!"


async def test_with_all_failing_the_least_bad_is_tried_and_may_come_back(bench: Bench) -> None:
    await test_failures_of_a_fallback_count_as_well(bench)
    calls = len(bench.first.requests) + len(bench.second.requests)
    bench.first.script(*[chat_stream("back")] * EARLY_PROBES)
    for _ in range(EARLY_PROBES):
        assert text_of(await bench.run()) == "back"
    assert len(bench.first.requests) + len(bench.second.requests) == calls + EARLY_PROBES
    assert standing(bench).breaker == "closed"


async def test_a_burst_at_the_only_one_left_is_let_through(bench: Bench) -> None:
    await wear_out(bench)
    await asyncio.gather(*[bench.run(only=("first",)) for _ in range(8)])
    assert (len(bench.first.requests), standing(bench).breaker) == (5 + 8, "open")


async def test_a_callers_haste_is_not_the_providers_fault(bench: Bench) -> None:
    bench.limit(first_byte_timeout_s=20.0)
    bench.first.script(*[silent()] * 6)
    for _ in range(6):
        with pytest.raises(GatewayError) as late:
            await bench.run(deadline_in_s=0.05)
        assert late.value.reason is Reason.UPSTREAM_TIMEOUT
    assert (standing(bench).breaker, standing(bench).score) == ("closed", 1.0)


async def test_a_provider_that_keeps_silent_is_to_blame(bench: Bench) -> None:
    bench.limit(first_byte_timeout_s=1.0)
    await wear_out(bench, reply=silent())
    assert standing(bench).breaker == "open"


async def test_clients_that_leave_and_wrong_requests_count_neither_way(bench: Bench) -> None:
    bench.first.script(*[silent()] * 6)
    for number in range(6):
        running = asyncio.create_task(bench.run())
        await bench.first.wait_request(number + 1)
        running.cancel()
        await asyncio.wait([running])
    bench.first.script(*[error(400, "No.", type="invalid_request_error")] * 6)
    for _ in range(6):
        with pytest.raises(GatewayError):
            await bench.run()
    assert (standing(bench).breaker, standing(bench).score, standing(bench).in_flight) == ("closed", 1.0, 0)
