"""Whatever is wrong with the first provider, the second answers: whole or streamed, in every dialect."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
import pytest
import trustme
from msgspec.structs import replace

from rest_bridge.errors import error_body
from server.domain.catalog import Catalog, Dialect, Model, Offer, Provider, ProviderProfile, Routing
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Call
from server.domain.ledger import SpendLimit
from server.domain.request import Endpoint
from server.pipeline.health.standing import RouteKey
from server.probes import unused_port
from server.storage.database import Database
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.anthropic_wire import error_reply
from tests.fakes.gemini_upstream import KEY as GEMINI_KEY
from tests.fakes.gemini_upstream import GeminiUpstream
from tests.fakes.gemini_wire import status
from tests.fakes.openai_upstream import Upstream, error, json_reply
from tests.fakes.wire import Reply
from tests.integration.money import PRICES, Till, till
from tests.integration.test_generate import ROUTING, Bench, account_of, bench, text_of

__all__ = ["bench"]

MODEL = "a/b:free"


class Kind(NamedTuple):
    """A dialect, or one of the APIs of it, and how it refuses a key and a pace."""

    dialect: Dialect
    profile: ProviderProfile
    unauthorised: Reply
    limited: Reply


WAIT = {"retry-after": "7"}
OPENAI = (error(401, code="invalid_api_key"), error(429, code="rate_limit_exceeded", headers=WAIT))
KINDS = {
    "openai_chat": Kind("openai", ProviderProfile(), *OPENAI),
    "openai_responses": Kind("openai", ProviderProfile(apis=frozenset({"responses"})), *OPENAI),
    "anthropic": Kind(
        "anthropic",
        ProviderProfile(),
        error_reply(401, "authentication_error", "invalid x-api-key"),
        error_reply(429, "rate_limit_error", "Slow down.", headers=WAIT),
    ),
    "gemini": Kind(
        "gemini",
        ProviderProfile(),
        json_reply(status(401, "UNAUTHENTICATED", "No."), status=401),
        json_reply(status(429, "RESOURCE_EXHAUSTED", "No."), status=429, headers=WAIT),
    ),
}
TROUBLES = {
    "401": ("credentials", "open"),
    "429": ("rate_limited", "open"),
    "refused": ("connection", "closed"),
    "tls": ("connection", "closed"),
}


@pytest.fixture
async def distrusted() -> AsyncIterator[str]:
    """Where somebody answers whom no authority vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with Upstream(tls=context) as upstream:
        yield upstream.base_url
        assert upstream.requests == []


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("name", KINDS)
async def test_r5_a_stream_falls_back_as_a_whole_answer_does(
    bench: Bench, distrusted: str, name: str, trouble: str
) -> None:
    kind = KINDS[name]
    async with AnthropicUpstream() as anthropic, GeminiUpstream() as gemini:
        upstreams: dict[str, Any] = {"openai": bench.first, "anthropic": anthropic, "gemini": gemini}
        upstream = upstreams[kind.dialect]
        if trouble in ("401", "429"):
            upstream.script(*[kind.unauthorised if trouble == "401" else kind.limited] * 2)
        address = {"refused": f"http://127.0.0.1:{unused_port()}/v1", "tls": distrusted}
        base_url, key = address.get(trouble, upstream.base_url), GEMINI_KEY if name == "gemini" else "key"
        broken = Provider("first", kind.dialect, base_url, key, profile=kind.profile)
        bench.current = catalog(broken, Provider("second", "openai", bench.second.base_url))
        seen = []
        for stream in (False, True):
            bench.forget()
            events = await bench.run(stream=stream, order=("first", "second"))
            meta = account_of(events).meta
            assert (text_of(events), meta.provider, meta.attempts) == ("Hello there!", "second", 2)
            known = bench.health.entry(RouteKey("first", MODEL, Endpoint.CHAT)).breaker
            state = known.state(bench.clock.monotonic())
            seen.append(([row.outcome for row in meta.routing], state, known.reason))
        assert seen[0] == seen[1]
        category, expected = TROUBLES[trouble]
        assert seen[0][:2] == ([f"failed: {category}", "chosen"], expected)
        assert len(upstream.requests) == (2 if trouble in ("401", "429") else 0)


def catalog(*providers: Provider, routing: Routing = ROUTING) -> Catalog:
    offers = tuple(
        Offer(provider, "claude-test-1" if provider.dialect == "anthropic" else "test-1", frozenset({Endpoint.CHAT}),
              max_output_tokens=100)
        for provider in providers
    )  # fmt: skip
    return Catalog({provider.id: provider for provider in providers}, {MODEL: Model(MODEL, offers)}, routing=routing)


# What needs an account: the record, and what a key may spend.


@pytest.fixture
async def counter(database: Database) -> AsyncIterator[Till]:
    async with till(database) as counter:
        yield counter


def paid(*providers: Provider) -> tuple[Offer, ...]:
    return tuple(Offer(one, "test-1", frozenset({Endpoint.CHAT}), prices=PRICES) for one in providers)


def unreachable() -> tuple[Provider, Provider]:
    return (
        Provider("refused", "openai", f"http://127.0.0.1:{unused_port()}/v1"),
        Provider("nameless", "openai", "http://no-such-host.invalid/v1"),
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_r7_a_call_that_never_got_an_answer_is_an_attempt_as_any(counter: Till, stream: bool) -> None:
    providers = (*unreachable(), Provider("healthy", "openai", counter.first.base_url))
    counter.current = Catalog(
        {one.id: one for one in providers}, {"a/b": Model("a/b", paid(*providers))}, routing=Routing(max_attempts=3)
    )
    order = tuple(one.id for one in providers)
    call = counter.call()
    await counter.run(call, counter.request(stream=stream, order=order))
    record = await counter.settled(call)
    assert (record.status_code, record.success, record.provider) == (200, True, "healthy")
    assert [(one.provider, one.status, one.error_code, one.billed) for one in record.attempts] == [
        ("refused", None, "connection", False),
        ("nameless", None, "connection", False),
        ("healthy", 200, None, True),
    ]

    counter.first.script(error(503, "Busy."))
    with pytest.raises(GatewayError) as failed:
        await counter.run(counter.call(), counter.request(stream=stream, order=order))
    body = msgspec.json.decode(msgspec.json.encode(error_body(failed.value, "gen_1")))
    assert (body["status_code"], body["reason"], body["attempt_count"]) == (502, "all_candidates_failed", 3)
    assert body["failed_providers"] == list(order)
    assert body["failed_statuses"] == [0, 0, 503]
    assert [sample["status"] for sample in body["failure_sample"]] == [0, 0, 503]


def two_models(counter: Till) -> None:
    """`a/a` is offered by x alone, `a/b` by y, ten thousand times dearer."""
    one = Provider("x", "openai", counter.first.base_url)
    other = Provider("y", "openai", counter.second.base_url)
    dear = replace(PRICES, rates={dimension: 10_000 * nanos for dimension, nanos in PRICES.rates.items()})
    offers = (replace(paid(other)[0], prices=dear),)
    counter.current = Catalog(
        {"x": one, "y": other},
        {"a/a": Model("a/a", paid(one), max_output_tokens=10), "a/b": Model("a/b", offers, max_output_tokens=10)},
        routing=ROUTING,
    )


def fallback(counter: Till, **wishes: Any) -> Any:
    return counter.request(model="a/a", fallback_models=("a/b",), **wishes)


async def test_r19_a_fallback_model_is_not_taken_from_a_provider_that_was_not_allowed(counter: Till) -> None:
    two_models(counter)
    counter.first.script(error(500, "Sorry."))
    with pytest.raises(GatewayError) as failed:
        await counter.run(counter.call(), fallback(counter, only=("x",)))
    assert failed.value.reason is Reason.ALL_CANDIDATES_FAILED
    assert [(one.provider, one.status) for one in failed.value.failures] == [("x", 500)]
    assert counter.second.requests == []

    counter.first.script(error(500, "Sorry."))
    await counter.run(counter.call(), fallback(counter))
    assert len(counter.second.requests) == 1, "who names nobody gets it from there"


async def test_r19_what_a_key_may_spend_bounds_its_fallback_models_too(counter: Till) -> None:
    two_models(counter)

    def call() -> Call:
        usual = counter.call()
        return replace(usual, principal=replace(usual.principal, spend_limit=SpendLimit(1_000_000)))

    with pytest.raises(GatewayError) as refused:
        await counter.run(call(), fallback(counter))
    assert refused.value.reason is Reason.KEY_LIMIT_REACHED
    assert (counter.first.requests, counter.second.requests) == ([], [])

    await counter.run(call(), counter.request(model="a/a"))
    assert len(counter.first.requests) == 1, "its own model is within the limit"
