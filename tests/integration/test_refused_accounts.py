"""A provider that refuses our account, from its reply on a real socket to what every worker makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.errors import FailureCategory, GatewayError, Reason
from server.domain.request import Endpoint
from server.pipeline.health.offers import Health
from server.pipeline.health.share import Sharing
from server.pipeline.health.standing import RouteKey
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.health_reports import SqlHealthExchange
from tests.fakes.health import fail, middle, succeed
from tests.fakes.openai_upstream import error, json_reply
from tests.integration.databases import ManualClock
from tests.integration.test_generate import ROUTING, Bench, account_of, bench
from tests.integration.test_health_sharing import commits

__all__ = ["bench", "commits"]

MODELS = ("a/b:free", "a/c:free")
ONE, TWO = (RouteKey("first", model, Endpoint.CHAT) for model in MODELS)


def catalog(*providers: Provider) -> Catalog:
    """Every provider offers both models."""
    offers = tuple(Offer(provider, "test-1", frozenset({Endpoint.CHAT})) for provider in providers)
    return Catalog(
        {provider.id: provider for provider in providers},
        {model: Model(model, offers) for model in MODELS},
        routing=ROUTING,
    )


def quota(name: str) -> Any:
    violation = {"quotaId": name}
    details = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}]
    body = {"error": {"code": 429, "message": "Used up.", "status": "RESOURCE_EXHAUSTED", "details": details}}
    return json_reply(body, status=429)


@pytest.mark.parametrize(
    ("reply", "other_model"),
    [
        (error(401), "open"),
        (error(402), "open"),
        (error(400, "Your credit balance is too low to access the API.", type="invalid_request_error"), "closed"),
        (error(429, "Out of credit.", code="insufficient_quota"), "open"),
        (quota("GenerateRequestsPerDayPerProject"), "open"),
        (quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), "closed"),
        (error(403), "closed"),
    ],
    ids=["401", "402", "400", "no_quota", "quota_of_all", "quota_of_model", "403"],
)
async def test_a_refused_account_is_asked_for_no_model_again(bench: Bench, reply: Any, other_model: str) -> None:
    bench.current = catalog(*(Provider(name, "openai", it.base_url) for name, it in bench.upstreams()))
    bench.first.script(reply)
    assert account_of(await bench.run()).meta.provider == "second"
    assert [standing.breaker for standing in bench.health.standings((ONE, TWO))] == ["open", other_model]
    await bench.run(model=MODELS[1])
    assert len(bench.first.requests) == (1 if other_model == "open" else 2)


async def test_a_caller_cannot_put_the_words_into_a_providers_mouth(bench: Bench) -> None:
    bench.current = catalog(*(Provider(name, "openai", it.base_url) for name, it in bench.upstreams()))
    said = "Invalid value: 'credit balance is too low'. Supported values are: 'low' and 'high'."
    bench.first.script(error(400, said, type="invalid_request_error", param="reasoning_effort"))
    with pytest.raises(GatewayError) as refused:
        await bench.run()
    assert refused.value.reason is Reason.UPSTREAM_REJECTED_REQUEST
    assert [standing.breaker for standing in bench.health.standings((ONE, TWO))] == ["closed", "closed"]


async def test_every_worker_learns_it_for_all_models_and_that_it_is_over(
    database: Database, commits: GroupCommit, clock: ManualClock
) -> None:
    class Source:
        current = catalog(Provider("first", "openai", "http://upstream", api_key="old"))

    healths = [Health(clock, middle) for _ in "ab"]
    workers = [
        Sharing(health, SqlHealthExchange(database, commits, clock, name), Source(), clock)
        for name, health in zip("ab", healths, strict=True)
    ]
    one, other = healths
    succeed(other, 1, TWO)
    fail(one, 1, ONE, category=FailureCategory.QUOTA_EXHAUSTED)
    for worker in workers:
        await worker.exchange()
    assert [standing.breaker for standing in other.standings((ONE, TWO))] == ["open", "open"]

    clock.advance(40.0)
    succeed(other, 1, TWO)
    for worker in reversed(workers):
        await worker.exchange()
    for health in healths:
        assert [standing.breaker for standing in health.standings((ONE, TWO))] == ["closed", "closed"]
    for worker in workers * 2:
        await worker.exchange()
    for health in healths:
        assert [standing.breaker for standing in health.standings((ONE, TWO))] == ["closed", "closed"]


async def test_a_new_key_is_tried_at_once(database: Database, commits: GroupCommit, clock: ManualClock) -> None:
    class Source:
        def __init__(self) -> None:
            self.current = catalog(
                *(Provider(name, "openai", "http://upstream", "old") for name in ("first", "second"))
            )

    healths, sources = [Health(clock, middle) for _ in "ab"], [Source(), Source()]
    workers = [
        Sharing(health, SqlHealthExchange(database, commits, clock, name), source, clock)
        for name, health, source in zip("ab", healths, sources, strict=True)
    ]
    other = ONE._replace(provider="second")
    for worker in workers:
        await worker.exchange()
    fail(healths[0], 1, ONE, category=FailureCategory.CREDENTIALS)
    fail(healths[0], 1, other, category=FailureCategory.CREDENTIALS)
    for worker in workers:
        await worker.exchange()

    def states() -> list[list[str]]:
        return [[standing.breaker for standing in health.standings((ONE, TWO, other))] for health in healths]

    assert states() == [["open"] * 3] * 2
    for source, worker in zip(sources, workers, strict=True):
        providers = Provider("first", "openai", "http://upstream", "new"), source.current.providers["second"]
        source.current = catalog(*providers)
        await worker.exchange()
    for worker in workers * 2:
        await worker.exchange()
    assert states() == [["closed", "closed", "open"]] * 2
