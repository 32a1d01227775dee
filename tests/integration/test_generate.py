"""The pipeline from a call to its account, with the real adapter and transport, against scripted upstreams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from server.clock import SystemClock, UuidV7
from server.domain.catalog import Catalog, Dialect, Model, Offer, Provider, Routing
from server.domain.errors import FailureCategory, GatewayError, Reason
from server.domain.events import GenerationEvent, Settled, Started, TextDelta
from server.domain.identity import Arrival, Call, Principal
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint, GenerationRequest, Role, RoutingPreferences, Text, Turn
from server.pipeline.drain import Drains
from server.pipeline.generate import Generator
from server.pipeline.shutdown import Shutdown
from server.providers.anthropic import AnthropicAdapter
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter
from server.storage.ledger import SqlLedger
from server.storage.teams import Teams
from server.transport import Transport
from tests.fakes.chat_wire import chat_chunks, delta_chunk, finish_chunk, role_chunk
from tests.fakes.health import steady
from tests.fakes.openai_upstream import Hang, Upstream, chat_stream, chat_unary, error, silent
from tests.integration.databases import migrated

ROUTING = Routing(timeout_s=60.0, first_byte_timeout_s=20.0, idle_timeout_s=20.0, max_attempts=2)


class Bench:
    """Two upstreams that offer one model, and the pipeline before them."""

    def __init__(
        self, first: Upstream, second: Upstream, transport: Transport, ledger: SqlLedger, teams: Teams, team_id: str
    ) -> None:
        self.teams, self.team_id = teams, team_id
        self.first, self.second = first, second
        self.shutdown = Shutdown()
        self.clock, self.ids = SystemClock(), UuidV7()
        self.current = self._catalog(ROUTING)
        self.adapters: dict[Dialect, ProviderAdapter] = {
            "openai": OpenAIAdapter(transport, self.clock, self.ids),
            "anthropic": AnthropicAdapter(transport, self.clock, self.ids),
            "gemini": GeminiAdapter(transport, self.clock, self.ids),
        }
        self._ledger = ledger
        self.forget()

    def forget(self) -> None:
        """A pipeline that knows nothing of its providers' health."""
        self.health = steady(self.clock)
        self.generate = Generator(self, self.adapters, self._ledger, self.clock, self.shutdown, Drains(), self.health)

    def _catalog(self, routing: Routing) -> Catalog:
        providers = {name: Provider(name, "openai", upstream.base_url) for name, upstream in self.upstreams()}
        offers = tuple(Offer(provider, "test-1", frozenset({Endpoint.CHAT})) for provider in providers.values())
        return Catalog(providers, {"a/b:free": Model("a/b:free", offers)}, routing=routing)

    def upstreams(self) -> tuple[tuple[str, Upstream], ...]:
        return ("first", self.first), ("second", self.second)

    def limit(self, **limits: Any) -> None:
        self.current = self._catalog(msgspec.structs.replace(ROUTING, **limits))

    async def run(
        self,
        *,
        stream: bool = True,
        model: str = "a/b:free",
        endpoint: Endpoint = Endpoint.CHAT,
        deadline_in_s: float | None = None,
        **wishes: Any,
    ) -> list[GenerationEvent]:
        """Every event, up to the end or to what is raised; `self.seen` keeps those before a failure."""
        now_s = self.clock.monotonic()
        deadline_s = None if deadline_in_s is None else now_s + deadline_in_s
        arrival = Arrival(self.ids.new(), "request", now_s, int(self.clock.now()), deadline_s)
        request = GenerationRequest(
            endpoint=endpoint,
            model=model,
            turns=(Turn(Role.USER, (Text("hi"),)),),
            stream=stream,
            routing=RoutingPreferences(**{"order": ("first",), **wishes}),
        )
        self.seen: list[GenerationEvent] = []
        call = Call(arrival, Principal(self.team_id, "key", frozenset()))
        async with aclosing(self.generate(call, request)) as batches:
            async for batch in batches:
                self.seen += batch
        return self.seen


@pytest.fixture
async def bench(sqlite_url: str) -> AsyncIterator[Bench]:
    async with migrated(sqlite_url) as database, Upstream() as first, Upstream() as second, Transport() as transport:
        teams = Teams(database, SystemClock(), UuidV7())
        team = await teams.create("team")
        ledger = SqlLedger(database, SystemClock(), "worker")
        yield Bench(first, second, transport, ledger, teams, team.id)
        await ledger.close()


def text_of(events: list[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def account_of(events: list[GenerationEvent]) -> Settled:
    last = events[-1]
    assert isinstance(last, Settled)
    return last


@pytest.mark.parametrize("stream", [True, False])
async def test_a_generation_begins_with_started_and_ends_with_its_account(bench: Bench, stream: bool) -> None:
    events = await bench.run(stream=stream)
    assert isinstance(events[0], Started)
    account = account_of(events)
    assert text_of(events) == "Hello there!"
    assert (account.usage.input_tokens, account.usage.output_tokens, account.usage.source) == (9, 3, "provider")
    assert (account.meta.provider, account.meta.attempts) == ("first", 1)
    assert [row.outcome for row in account.meta.routing] == ["chosen", "not_needed"]
    assert 0 < account.meta.latency_ms <= account.meta.generation_ms


async def test_tokens_are_counted_where_no_provider_does(bench: Bench) -> None:
    bench.first.script(chat_chunks([role_chunk(), delta_chunk({"content": "word " * 40}), finish_chunk()]))
    usage = account_of(await bench.run()).usage
    assert usage.source == "counted"
    assert usage.output_tokens == 50
    assert usage.input_tokens > 0


@pytest.mark.parametrize(
    ("script", "category"),
    [
        (error(500), FailureCategory.SERVER_ERROR),
        (error(429, code="rate_limit_exceeded"), FailureCategory.RATE_LIMITED),
        (error(401), FailureCategory.CREDENTIALS),
        (silent(), FailureCategory.TIMEOUT),
        (chat_chunks([role_chunk()], done=False), FailureCategory.CONNECTION),
        (chat_chunks([role_chunk(), {"error": {"message": "Busy.", "code": "server_is_overloaded"}}]), None),
    ],
    ids=lambda value: getattr(value, "value", None) or "script",
)
async def test_a_failure_before_output_goes_to_the_next(
    bench: Bench, script: Any, category: FailureCategory | None
) -> None:
    if category is FailureCategory.TIMEOUT:
        bench.limit(first_byte_timeout_s=3.0)
    bench.first.script(script)
    bench.second.script(chat_stream("se", "cond"))
    events = await bench.run()
    assert text_of(events) == "second"
    assert sum(isinstance(event, Started) for event in events) == 1
    account = account_of(events)
    assert (account.meta.provider, account.meta.attempts) == ("second", 2)
    assert category is None or account.meta.routing[0].outcome == f"failed: {category.value}"


async def test_a_failure_after_output_is_not_replayed(bench: Bench) -> None:
    bench.first.script(chat_chunks([role_chunk(), delta_chunk({"content": "Hel"})], done=False))
    with pytest.raises(GatewayError) as broken:
        await bench.run()
    assert broken.value.reason is Reason.STREAM_INTERRUPTED
    assert text_of(bench.seen) == "Hel"
    assert bench.second.requests == []


@pytest.mark.parametrize("wishes", [{"allow_fallbacks": False}, {"only": ("first",)}])
async def test_no_fallback_where_none_is_wished(bench: Bench, wishes: dict[str, Any]) -> None:
    bench.first.script(error(503))
    with pytest.raises(GatewayError) as failed:
        await bench.run(**wishes)
    assert failed.value.reason is Reason.ALL_CANDIDATES_FAILED
    assert (len(bench.first.requests), len(bench.second.requests)) == (1, 0)


async def test_a_request_that_is_wrong_is_wrong_everywhere(bench: Bench) -> None:
    bench.first.script(error(400, "No such role.", type="invalid_request_error", param="messages[0].role"))
    with pytest.raises(GatewayError) as refused:
        await bench.run()
    assert (refused.value.reason, refused.value.param) == (Reason.UPSTREAM_REJECTED_REQUEST, "messages[0].role")
    assert bench.second.requests == []


async def test_the_smallest_wait_is_told_where_all_are_limited(bench: Bench) -> None:
    for upstream, wait in ((bench.first, "30"), (bench.second, "5")):
        upstream.script(error(429, code="rate_limit_exceeded", headers={"retry-after": wait}))
    with pytest.raises(GatewayError) as limited:
        await bench.run(stream=False)
    assert (limited.value.reason, limited.value.retry_after_s) == (Reason.UPSTREAM_RATE_LIMITED, 5)
    assert [failure.provider for failure in limited.value.failures] == ["first", "second"]


async def test_no_more_attempts_than_allowed(bench: Bench) -> None:
    bench.limit(max_attempts=1)
    bench.first.script(error(500))
    with pytest.raises(GatewayError):
        await bench.run()
    assert bench.second.requests == []


async def test_a_stream_may_outlast_the_time_for_an_answer(bench: Bench) -> None:
    bench.limit(timeout_s=2.0)
    bench.first.script(chat_stream(*"abcdefghij", every_s=0.25))
    began_s = time.monotonic()
    assert text_of(await bench.run()) == "abcdefghij"
    assert time.monotonic() - began_s > 2.2


async def test_a_stalled_stream_and_an_answer_that_never_comes_are_timeouts(bench: Bench) -> None:
    bench.limit(idle_timeout_s=0.3)
    bench.first.script(chat_chunks([role_chunk(), delta_chunk({"content": "a"})], done=False, end=Hang()))
    with pytest.raises(GatewayError) as stalled:
        await bench.run()
    assert stalled.value.reason is Reason.UPSTREAM_TIMEOUT
    await bench.first.wait_disconnect()

    bench.limit(timeout_s=0.4)
    bench.first.script(silent())
    began_s = time.monotonic()
    with pytest.raises(GatewayError) as hung:
        await bench.run(stream=False)
    assert hung.value.reason is Reason.UPSTREAM_TIMEOUT
    assert time.monotonic() - began_s < 10
    assert bench.second.requests == []


async def test_the_callers_deadline_bounds_everything(bench: Bench) -> None:
    bench.first.script(chat_stream(*"abcdefghij", every_s=0.1))
    with pytest.raises(GatewayError) as late:
        await bench.run(deadline_in_s=0.5)
    assert late.value.reason is Reason.UPSTREAM_TIMEOUT
    await bench.first.wait_disconnect()


async def test_a_shutdown_ends_what_waits_with_an_error_that_says_so(bench: Bench) -> None:
    bench.first.script(chat_stream("a", "b", every_s=20.0))
    running = asyncio.create_task(bench.run())
    await bench.first.wait_request()
    await asyncio.sleep(0.2)
    bench.shutdown.begin()
    with pytest.raises(GatewayError) as ended:
        await asyncio.wait_for(running, 30)
    assert ended.value.reason is Reason.SHUTTING_DOWN
    await bench.first.wait_disconnect()
    with pytest.raises(GatewayError):
        await bench.run()
    assert len(bench.first.requests) == 1


async def test_cancelling_closes_the_upstream_at_once_and_tries_nobody_else(bench: Bench) -> None:
    bench.first.script(silent())
    running = asyncio.create_task(bench.run(stream=False))
    await bench.first.wait_request()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await bench.first.wait_disconnect()
    assert bench.second.requests == []


async def test_nobody_can_use_another_teams_cache_key(bench: Bench) -> None:
    bench.first.script(chat_unary(), chat_unary(), chat_unary())
    sent = []
    other = await bench.teams.create("other")
    for team in (bench.team_id, other.id, bench.team_id):
        arrival = Arrival(bench.ids.new(), "r", bench.clock.monotonic(), 0)
        request = GenerationRequest(
            endpoint=Endpoint.CHAT,
            model="a/b:free",
            turns=(Turn(Role.USER, (Text("hi"),)),),
            passthrough={"prompt_cache_key": msgspec.Raw(b'"x"')},
            routing=RoutingPreferences(order=("first",)),
            parameters={"prompt_cache_key": "prompt_cache_key"},
        )
        async with aclosing(bench.generate(Call(arrival, Principal(team, "k", frozenset())), request)) as batches:
            async for _ in batches:
                pass
        sent.append(bench.first.requests[-1].json["prompt_cache_key"])
    assert sent[0] == sent[2] != sent[1]
    assert "x" not in sent
