"""A provider that refuses our account refuses all of its offers: they open and close together."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.request import Endpoint
from server.pipeline.health.offers import Health
from server.pipeline.health.standing import RouteKey
from tests.fakes.health import HandClock, fail, steady, succeed

ONE, TWO, THREE = (RouteKey("x", f"a/{name}", Endpoint.CHAT) for name in ("one", "two", "three"))
ELSEWHERE = ONE._replace(provider="y")
REFUSED = FailureCategory.CREDENTIALS


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def health(clock: HandClock) -> Health:
    known = steady(clock)
    for key in (ONE, TWO, ELSEWHERE):
        succeed(known, 1, key)
    return known


def states(health: Health, *keys: RouteKey) -> list[str]:
    return [standing.breaker for standing in health.standings(keys)]


@pytest.mark.parametrize("category", [FailureCategory.CREDENTIALS, FailureCategory.QUOTA_EXHAUSTED])
def test_all_offers_open_at_once_and_each_says_why(health: Health, category: FailureCategory) -> None:
    with capture_logs() as logs:
        fail(health, 1, ONE, category=category)
    assert states(health, ONE, TWO, ELSEWHERE) == ["open", "open", "closed"]
    told = [(log["model"], log["reason"], log.get("failure"), log.get("account_used_for")) for log in logs]
    assert told == [("a/one", category.value, category.value, None), ("a/two", category.value, None, "a/one")]
    assert states(health, THREE) == ["open"], "also one that nobody has asked for until now"
    assert len({health.entry(key).breaker.retry_s for key in (ONE, TWO, THREE)}) == 1


def test_one_probe_that_works_closes_all(health: Health, clock: HandClock) -> None:
    fail(health, 1, ONE, category=REFUSED)
    clock.now_s = health.entry(ONE).breaker.retry_s
    assert states(health, ONE, TWO) == ["half_open", "half_open"]
    with capture_logs() as logs:
        succeed(health, 1, TWO)
    assert states(health, ONE, TWO, THREE) == ["closed"] * 3
    assert [(log["model"], log["to"]) for log in logs] == [("a/two", "closed"), ("a/one", "closed")]


def test_a_renewed_key_is_believed_before_its_time(health: Health) -> None:
    fail(health, 1, ONE, category=REFUSED)
    watch = health.start(ONE, last_resort=True)
    assert watch is not None
    watch.shown()
    assert states(health, ONE, TWO) == ["closed", "closed"]


def test_a_probe_that_is_refused_keeps_all_away_for_longer(health: Health, clock: HandClock) -> None:
    fail(health, 1, ONE, category=REFUSED)
    first_s = health.entry(ONE).breaker.retry_s - clock.now_s
    clock.now_s += first_s
    fail(health, 1, TWO, category=REFUSED)
    assert states(health, ONE, TWO) == ["open", "open"]
    assert health.entry(ONE).breaker.retry_s - clock.now_s == pytest.approx(2 * first_s)


def test_a_refusal_of_one_model_is_that_models(health: Health, clock: HandClock) -> None:
    watch = health.start(ONE)
    assert watch is not None
    watch.failed(FailureCategory.QUOTA_EXHAUSTED, of_model=True)
    assert states(health, ONE, TWO, THREE) == ["open", "closed", "closed"]
    assert health.entry(ONE).breaker.reason == "model_refused"
    clock.now_s = health.entry(ONE).breaker.retry_s
    succeed(health, 1, ONE)
    assert states(health, ONE) == ["closed"]


def test_what_is_open_for_another_reason_stays_so(health: Health, clock: HandClock) -> None:
    fail(health, 4, TWO)
    fail(health, 1, ONE, category=REFUSED)
    assert [health.entry(key).breaker.reason for key in (ONE, TWO)] == ["credentials", "error_rate"]
    clock.now_s = health.entry(ONE).breaker.retry_s
    succeed(health, 1, ONE)
    assert states(health, ONE, TWO) == ["closed", "half_open"]


@pytest.mark.parametrize(
    ("failure", "is_of_model"),
    [
        (ProviderFailure(REFUSED, status=401), False),
        (ProviderFailure(REFUSED, status=403), True),
        (ProviderFailure(REFUSED), True),
        (ProviderFailure(FailureCategory.QUOTA_EXHAUSTED, status=400), True),
        (ProviderFailure(REFUSED, status=400, is_of_model=False), False),
        (ProviderFailure(FailureCategory.QUOTA_EXHAUSTED, status=402), False),
        (ProviderFailure(FailureCategory.QUOTA_EXHAUSTED, status=429, is_of_model=True), True),
    ],
)
def test_whom_a_refusal_concerns(failure: ProviderFailure, is_of_model: bool) -> None:
    assert failure.is_of_model is is_of_model
