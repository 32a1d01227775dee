"""Retries and fallbacks as the lessons on them tell, on real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.domain.catalog import Catalog, Dialect, Model, Offer, Provider, ProviderProfile
from server.domain.errors import HTTP_STATUS, GatewayError, Reason
from server.domain.events import Started
from server.domain.request import Endpoint
from server.pipeline.health.standing import RouteKey, Standing
from tests.fakes.chat_wire import chat_chunks, delta_chunk, role_chunk
from tests.fakes.openai_upstream import Pause, chat_stream, chat_unary, error, json_reply, responses_events
from tests.fakes.responses_wire import text_events
from tests.integration.test_generate import ROUTING, Bench, account_of, bench, text_of

__all__ = ["bench"]

DYING = chat_chunks([role_chunk(), {"error": {"message": "Busy.", "code": "server_is_overloaded"}}])
BROKEN = chat_chunks([role_chunk(), delta_chunk({"content": "Hel"})], done=False)


def standing(bench: Bench, name: str) -> Standing:
    return bench.health.entry(RouteKey(name, "a/b:free", Endpoint.CHAT)).standing(bench.clock.monotonic())


def limited(seconds: float) -> Any:
    return error(429, code="rate_limit_exceeded", headers={"retry-after": f"{seconds}"})


async def test_r1_an_error_after_the_first_events_of_a_response_is_nobodys_business(bench: Bench) -> None:
    native = ProviderProfile(apis=frozenset({"responses"}))
    providers = {
        name: Provider(name, "openai", upstream.base_url, profile=native) for name, upstream in bench.upstreams()
    }
    offers = tuple(Offer(provider, "test-1", frozenset({Endpoint.RESPONSES})) for provider in providers.values())
    bench.current = Catalog(providers, {"a/b:free": Model("a/b:free", offers)}, routing=ROUTING)
    created, in_progress = text_events("Never", " seen")[:2]
    failure = {"type": "error", "code": "insufficient_quota", "message": "Out of quota.", "param": None}
    bench.first.script(responses_events([created, in_progress, {**failure, "sequence_number": 2}]))
    events = await bench.run(endpoint=Endpoint.RESPONSES)
    assert [request.path for request in (*bench.first.requests, *bench.second.requests)] == ["/v1/responses"] * 2
    assert sum(isinstance(event, Started) for event in events) == 1
    assert text_of(events) == "Hello there!"
    assert account_of(events).meta.routing[0].outcome == "failed: quota_exhausted"


@pytest.mark.parametrize("failure", [error(503), DYING, BROKEN], ids=["before", "at", "after"])
@pytest.mark.parametrize(
    "wishes",
    [{"allow_fallbacks": False}, {"only": ("first",)}, {"model": "first:a/b:free", "order": ()}],
    ids=["no_fallbacks", "only", "pinned"],
)
async def test_r4_who_wants_no_fallback_gets_none_whenever_it_fails(
    bench: Bench, wishes: dict[str, Any], failure: Any
) -> None:
    bench.first.script(failure)
    with pytest.raises(GatewayError):
        await bench.run(**wishes)
    assert (len(bench.first.requests), len(bench.second.requests)) == (1, 0)


async def test_r6_a_hundred_dead_attempts_leave_nothing_behind(bench: Bench) -> None:
    bench.first.script(*[DYING] * 100)
    for _ in range(100):
        bench.forget()
        assert text_of(await bench.run()) == "Hello there!"
    assert (len(bench.first.requests), len(bench.second.requests)) == (100, 100)


async def test_r10_the_newest_retry_after_is_kept_to_and_told(bench: Bench) -> None:
    for seconds in (1.0, 5.0, 30.0):
        bench.first.script(limited(seconds))
        with pytest.raises(GatewayError) as told:
            await bench.run(only=("first",))
        assert (told.value.reason, told.value.retry_after_s) == (Reason.UPSTREAM_RATE_LIMITED, seconds)
        now_s = bench.clock.monotonic()
        assert standing(bench, "first").retry_s - now_s == pytest.approx(seconds, abs=0.5)


async def test_r11_failures_of_fallbacks_alone_open_a_breaker(bench: Bench) -> None:
    bench.first.script(*[error(500)] * 5)
    bench.second.script(*[error(500)] * 5)
    for _ in range(5):
        with pytest.raises(GatewayError):
            await bench.run()
    assert (len(bench.first.requests), len(bench.second.requests)) == (5, 5)
    assert standing(bench, "second").breaker == "open"


async def test_r13_fifty_hasty_callers_change_nothing(bench: Bench) -> None:
    bench.limit(timeout_s=20.0, first_byte_timeout_s=20.0)
    slow = [Pause(0.5), *chat_unary()]
    bench.first.script(*[slow] * 50)
    late = await asyncio.gather(
        *[bench.run(stream=False, deadline_in_s=0.05) for _ in range(50)], return_exceptions=True
    )
    assert {one.reason for one in late if isinstance(one, GatewayError)} == {Reason.UPSTREAM_TIMEOUT}
    assert len(late) == 50
    assert (standing(bench, "first").breaker, standing(bench, "first").score) == ("closed", 1.0)


async def test_r13_fifty_clients_that_leave_and_fifty_wrong_requests_change_nothing(bench: Bench) -> None:
    bench.limit(timeout_s=20.0, first_byte_timeout_s=20.0)
    bench.first.script(*[[Pause(5.0), *chat_unary()]] * 50)
    leaving = [asyncio.create_task(bench.run(stream=False)) for _ in range(50)]
    await bench.first.wait_request(50)
    for one in leaving:
        one.cancel()
    await asyncio.wait(leaving)
    bench.first.script(*[error(400, "No.", type="invalid_request_error")] * 50)
    wrong = await asyncio.gather(*[bench.run() for _ in range(50)], return_exceptions=True)
    assert all(isinstance(one, GatewayError) for one in wrong)
    assert bench.second.requests == []
    first = standing(bench, "first")
    assert (first.breaker, first.score, first.in_flight) == ("closed", 1.0, 0)


FORBIDDEN_FILE = {
    "code": 403,
    "message": "You do not have permission to access the File abc or it may not exist.",
    "status": "PERMISSION_DENIED",
}
UNKNOWN_TOKENS = {"code": 400, "message": "Prompt contains invalid tokens", "type": "invalid_request_error"}


@pytest.mark.parametrize(
    ("dialect", "said"), [("gemini", FORBIDDEN_FILE), ("openai", UNKNOWN_TOKENS)], ids=["file", "tokens"]
)
async def test_r13_fifty_requests_for_what_is_not_theirs_change_nothing(
    bench: Bench, dialect: Dialect, said: dict[str, Any]
) -> None:
    providers = {name: Provider(name, dialect, upstream.base_url) for name, upstream in bench.upstreams()}
    offers = tuple(Offer(provider, "test-1", frozenset({Endpoint.CHAT})) for provider in providers.values())
    bench.current = Catalog(providers, {"a/b:free": Model("a/b:free", offers)}, routing=ROUTING)
    for number in range(1, 51):
        bench.first.script(json_reply({"error": said}, status=said["code"]))
        with pytest.raises(GatewayError) as refused:
            await bench.run()
        assert (refused.value.reason, HTTP_STATUS[refused.value.code]) == (Reason.UPSTREAM_REJECTED_REQUEST, 400)
        assert (len(bench.first.requests), len(bench.second.requests)) == (number, 0)
    assert (standing(bench, "first").breaker, standing(bench, "first").score) == ("closed", 1.0)


async def test_r17_a_provider_out_of_service_is_no_ones_retry(bench: Bench) -> None:
    bench.limit(max_attempts=3)
    bench.health.drained = frozenset({"first"})
    bench.second.script(error(503))
    with pytest.raises(GatewayError) as failed:
        await bench.run()
    assert [failure.provider for failure in failed.value.failures] == ["second"]
    assert (bench.first.requests, len(bench.second.requests)) == ([], 1)


async def test_r18_a_session_falls_over_within_the_request_that_is_limited(bench: Bench) -> None:
    for number in range(64):
        session = f"session-{number}"
        if account_of(await bench.run(session_id=session, order=())).meta.provider == "first":
            break
    assert account_of(await bench.run(session_id=session, order=())).meta.provider == "first", "it is bound"
    bench.first.script(limited(30.0))
    bench.second.script(chat_stream("from", " the other"))
    events = await bench.run(session_id=session, order=())
    assert text_of(events) == "from the other"
    assert [row.outcome for row in account_of(events).meta.routing] == ["failed: rate_limited", "chosen"]
