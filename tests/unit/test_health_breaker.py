"""The breaker: what opens it, for how long, what a probe may do, and what never counts."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from server.domain.errors import FailureCategory
from server.pipeline.health.breaker import EARLY_PROBES, MAX_BACK_OFF_S, PROBES
from server.pipeline.health.offers import NEUTRAL, Health
from tests.fakes.health import KEY, HandClock, fail, middle, succeed


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def health(clock: HandClock) -> Health:
    return Health(clock, lambda: 0.0)


def state(health: Health) -> str:
    return health.entry(KEY).standing(health.now_s).breaker


def wait_s(health: Health) -> float:
    return health.entry(KEY).breaker.retry_s - health.now_s


def probe(health: Health, *, works: bool = True, retry_after_s: float | None = None) -> None:
    watch = health.start(KEY)
    assert watch is not None
    if works:
        watch.succeeded(streamed=True, latency_ms=1.0, tokens=1, took_s=1.0)
    else:
        category = FailureCategory.SERVER_ERROR if retry_after_s is None else FailureCategory.RATE_LIMITED
        watch.failed(category, retry_after_s)


@pytest.mark.parametrize(("failures", "expected"), [(1, "closed"), (4, "closed"), (5, "open")])
def test_few_failures_conclude_nothing(health: Health, failures: int, expected: str) -> None:
    fail(health, failures)
    assert state(health) == expected


def test_the_floor_grows_with_traffic(health: Health, clock: HandClock) -> None:
    for _ in range(6000):
        clock.now_s += 0.01
        succeed(health)
    fail(health, 20)
    assert state(health) == "closed"
    for _ in range(100):
        clock.now_s += 0.01
        if state(health) == "open":
            break
        fail(health)
    assert state(health) == "open"


def test_slow_traffic_opens_it_too(health: Health, clock: HandClock) -> None:
    for _ in range(5):
        clock.now_s += 10.0
        fail(health)
    assert state(health) == "open"


def test_a_fifth_of_errors_does_not_open_it(health: Health, clock: HandClock) -> None:
    for number in range(1000):
        clock.now_s += 0.2
        (fail if number % 5 == 0 else succeed)(health)
    assert state(health) == "closed"


@pytest.mark.parametrize("category", sorted(NEUTRAL))
def test_what_is_not_the_providers_fault_never_counts(health: Health, category: FailureCategory) -> None:
    fail(health, 50, category=category)
    entry = health.entry(KEY)
    assert (state(health), entry.standing(health.now_s).score, entry.in_flight) == ("closed", 1.0, 0)
    assert entry.figures.reading(health.now_s).windows[0].attempts == 0


def test_an_attempt_that_its_client_cancelled_counts_neither_way(health: Health) -> None:
    for _ in range(50):
        watch = health.start(KEY)
        assert watch is not None
        watch.dropped()
        watch.failed(FailureCategory.TIMEOUT)
    assert state(health) == "closed"
    assert health.entry(KEY).in_flight == 0


@pytest.mark.parametrize("category", [FailureCategory.CREDENTIALS, FailureCategory.QUOTA_EXHAUSTED])
def test_a_refused_account_opens_it_at_once(health: Health, category: FailureCategory) -> None:
    succeed(health, 100)
    fail(health, category=category)
    assert state(health) == "open"
    assert health.entry(KEY).breaker.reason == category.value


def test_the_newest_retry_after_counts(health: Health, clock: HandClock) -> None:
    fail(health, category=FailureCategory.RATE_LIMITED, retry_after_s=1.0)
    for seconds in (5.0, 30.0):
        clock.now_s += wait_s(health)
        probe(health, works=False, retry_after_s=seconds)
        assert wait_s(health) == pytest.approx(seconds)


def test_a_later_deadline_replaces_an_earlier_one(health: Health, clock: HandClock) -> None:
    slow, slower = health.start(KEY), health.start(KEY)
    assert slow is not None
    assert slower is not None
    fail(health, category=FailureCategory.RATE_LIMITED, retry_after_s=1.0)
    slow.failed(FailureCategory.RATE_LIMITED, 60.0)
    slower.failed(FailureCategory.RATE_LIMITED, 2.0)
    assert wait_s(health) == pytest.approx(60.0)
    clock.now_s += 60.0
    assert health.start(KEY) is not None
    assert health.start(KEY) is None


def test_a_limited_provider_is_no_last_resort(health: Health, clock: HandClock) -> None:
    for _ in range(4):
        fail(health, category=FailureCategory.RATE_LIMITED, retry_after_s=1.5)
        assert health.start(KEY, last_resort=True) is None
        clock.now_s += wait_s(health)
    clock.now_s -= 1.0
    assert state(health) == "open", "it has said so for the fourth time, and is given more time than it asked for"
    assert health.start(KEY, last_resort=True) is not None, "but not where nobody else is left"


def test_last_resorts_close_it_before_its_time_if_all_go_well(health: Health) -> None:
    fail(health, 5)
    assert health.start(KEY) is None
    for number in range(2 * EARLY_PROBES):
        assert state(health) == "open"
        watch = health.start(KEY, last_resort=True)
        assert watch is not None
        if number == EARLY_PROBES - 1:
            watch.failed(FailureCategory.TIMEOUT)
        else:
            watch.shown()
    assert state(health) == "closed"


def test_all_probes_must_pass(health: Health, clock: HandClock) -> None:
    fail(health, 5)
    clock.now_s += wait_s(health)
    assert state(health) == "half_open"
    for _ in range(PROBES - 1):
        probe(health)
    assert state(health) == "half_open"
    probe(health, works=False)
    assert state(health) == "open"
    clock.now_s += wait_s(health)
    for _ in range(PROBES):
        probe(health)
    assert state(health) == "closed"


def test_a_probe_without_an_end_is_given_up(health: Health, clock: HandClock) -> None:
    fail(health, 5)
    clock.now_s += wait_s(health)
    assert health.start(KEY) is not None
    clock.now_s += 59.0
    assert health.start(KEY) is None
    clock.now_s += 1.0
    assert health.start(KEY) is not None


def test_back_off_doubles_up_to_its_limit_and_starts_afresh_in_the_end(health: Health, clock: HandClock) -> None:
    fail(health, 5)
    waits = [wait_s(health)]
    for _ in range(7):
        clock.now_s += wait_s(health)
        probe(health, works=False)
        waits.append(wait_s(health))
    assert waits == pytest.approx([30, 60, 120, 240, 480, 750, 750, 750])
    clock.now_s += wait_s(health)
    for _ in range(PROBES):
        probe(health)
    fail(health, 5)
    assert wait_s(health) > 700, "a relapse"
    clock.now_s += wait_s(health)
    for _ in range(PROBES):
        probe(health)
    clock.now_s += 2000.0
    fail(health, 5)
    assert wait_s(health) == pytest.approx(30.0)


def test_jitter_spreads_what_opened_together(clock: HandClock) -> None:
    rng = random.Random(7)
    waits = []
    for _ in range(50):
        health = Health(clock, rng.random)
        fail(health, 5)
        waits.append(wait_s(health))
    assert 30.0 <= min(waits) < 31.0
    assert 35.0 < max(waits) <= 36.0


def test_transitions_are_logged_with_their_evidence(health: Health, clock: HandClock) -> None:
    with capture_logs() as logs:
        fail(health, 5)
        clock.now_s += wait_s(health)
        for _ in range(PROBES):
            probe(health)
    opened, closed = logs
    assert {
        "event": "breaker",
        "provider": "x",
        "model": "a/b",
        "endpoint": "chat",
        "to": "open",
    }.items() <= opened.items()
    assert (opened["reason"], opened["waits_s"], opened["failed"], opened["of"]) == ("error_rate", 30.0, 4.1, 4.1)
    assert (closed["to"], closed["probes_passed"], closed["open_s"]) == ("closed", PROBES, 30.0)


def test_what_the_catalogue_no_longer_has_is_forgotten(health: Health) -> None:
    fail(health, 5)
    health.keep(set())
    assert list(health.entries()) == []


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(("ok", "bad", "limited", "gone"))), max_size=200))
def test_no_history_opens_it_for_longer_than_the_limit_or_leaks_an_attempt(history: list[tuple[float, str]]) -> None:
    clock = HandClock()
    health = Health(clock, middle)
    for waited_s, outcome in history:
        clock.now_s += waited_s
        watch = health.start(KEY) or health.start(KEY, last_resort=True)
        if watch is None:
            assert health.entry(KEY).breaker.is_told(clock.now_s)
            continue
        match outcome:
            case "ok":
                watch.succeeded(streamed=False, latency_ms=1.0, tokens=1, took_s=1.0)
            case "bad":
                watch.failed(FailureCategory.CONNECTION)
            case "limited":
                watch.failed(FailureCategory.RATE_LIMITED, 1e9)
            case _:
                watch.dropped()
        standing = health.entry(KEY).standing(clock.now_s)
        assert 0.0 <= standing.score <= 1.0
        assert health.entry(KEY).in_flight == 0
        assert standing.breaker == "closed" or standing.retry_s - clock.now_s <= MAX_BACK_OFF_S + 1e-6
    assert sum(1 for _ in itertools.islice(health.entries(), 2)) <= 1
