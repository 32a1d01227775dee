"""What headers tell of a provider's rate limits, and what that does to an offer's weight."""

from __future__ import annotations

import pytest

from server.domain.events import Headroom
from server.pipeline.health.offers import Health
from server.pipeline.health.standing import AMPLE, room
from server.providers.rate_limits import MAX_RESET_S, USUAL_RESET_S, headroom_of
from tests.fakes.health import EPOCH, KEY, HandClock, steady


def openai(of: str, left: object, limit: object, reset: str | None = None) -> dict[str, str]:
    told = {f"x-ratelimit-remaining-{of}": str(left), f"x-ratelimit-limit-{of}": str(limit)}
    return told if reset is None else {**told, f"x-ratelimit-reset-{of}": reset}


def anthropic(of: str, left: int, limit: int, reset: str) -> dict[str, str]:
    name = f"anthropic-ratelimit-{of}"
    return {f"{name}-remaining": str(left), f"{name}-limit": str(limit), f"{name}-reset": reset}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        (openai("requests", 59, 60, "1s"), Headroom(59 / 60, 1.0)),
        ({**openai("requests", 59, 60, "1s"), **openai("tokens", 1500, 150_000, "6m0s")}, Headroom(0.01, 360.0)),
        (openai("tokens", 0, 100, "12ms"), Headroom(0.0, 0.012)),
        (openai("requests", 1, 10, "2m59.56s"), Headroom(0.1, 179.56)),
        (openai("requests", 1, 10, "1h0m3.5s"), Headroom(0.1, MAX_RESET_S)),
        (openai("requests-day", 1, 10, "33011.382867"), Headroom(0.1, MAX_RESET_S)),
        (openai("tokens-minute", 1, 10), Headroom(0.1, USUAL_RESET_S)),
        (openai("requests-minute", 1, 10, "7.5"), Headroom(0.1, 7.5)),
        ({**openai("tokens-hour", 2, 10, "90"), **openai("tokens-month", 9, 10, "90")}, Headroom(0.2, 90.0)),
        (openai("req-minute", 3, 10, "soon"), Headroom(0.3, USUAL_RESET_S)),
        (openai("tokens", 12, 10, "1s"), Headroom(1.0, 1.0)),
        (openai("tokens", -1, -1), None),
        (openai("tokens", 0, 0), None),
        (openai("tokens", "many", 10), None),
        (openai("tokens", "nan", 10), None),
        ({"x-ratelimit-remaining-tokens": "5"}, None),
        (anthropic("input-tokens", 5, 50, "2023-11-14T22:13:50Z"), Headroom(0.1, 30.0)),
        (anthropic("output-tokens", 5, 50, "2023-11-14T22:13:10+00:00"), Headroom(0.1, 0.0)),
        (
            {**anthropic("requests", 40, 50, "2023-11-14T22:13:21Z"), **anthropic("tokens", 10, 50, "never")},
            Headroom(0.2, USUAL_RESET_S),
        ),
    ],
)
def test_the_tightest_limit_counts_until_its_reset(headers: dict[str, str], expected: Headroom | None) -> None:
    now = EPOCH  # 2023-11-14T22:13:20Z
    told = headroom_of(headers, now)
    assert told == expected or (
        told is not None
        and expected is not None
        and (told.share, told.reset_s) == pytest.approx((expected.share, expected.reset_s))
    )


def show(health: Health, share: float, reset_s: float = 30.0) -> None:
    watch = health.start(KEY)
    assert watch is not None
    watch.told(Headroom(share, reset_s))
    watch.succeeded(streamed=True, latency_ms=100.0, tokens=5, took_s=1.0)


def test_little_left_is_less_weight_until_the_reset() -> None:
    clock = HandClock()
    health = steady(clock)
    scores = []
    for share in (1.0, AMPLE, AMPLE / 2, 0.0):
        show(health, share)
        clock.now_s += 1.0
        scores.append(health.entry(KEY).standing(clock.now_s).score)
    assert scores == pytest.approx([1.0, 1.0, 0.5, 0.0])
    assert health.entry(KEY).standing(clock.now_s).breaker == "closed", "it has refused nothing"
    clock.now_s += 30.0
    assert health.entry(KEY).standing(clock.now_s).score == pytest.approx(1.0)


def test_what_was_said_last_counts() -> None:
    clock = HandClock()
    health = steady(clock)
    show(health, 0.0, 600.0)
    show(health, 0.9, 5.0)
    clock.now_s += 1.0
    assert health.entry(KEY).standing(clock.now_s).score == pytest.approx(1.0)


def test_nothing_is_taken_as_long_as_there_is_plenty() -> None:
    assert [room(used) for used in (0.0, 0.5, 1 - AMPLE, 1.0)] == pytest.approx([1, 1, 1, 0])
