"""A clock that is turned by hand, and what stands still where health is under test."""

from __future__ import annotations

from server.domain.catalog import Model, Offer, Provider
from server.domain.errors import FailureCategory
from server.domain.ports import Clock
from server.domain.pricing import PriceList
from server.domain.request import Endpoint
from server.domain.routing import Candidate
from server.pipeline.health.offers import Health
from server.pipeline.health.standing import RouteKey

KEY = RouteKey("x", "a/b", Endpoint.CHAT)
EPOCH = 1_700_000_000.0


class HandClock:
    """Implements `server.domain.ports.Clock`; `now_s` is both times, the wall's with an offset."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def now(self) -> float:
        return EPOCH + self.now_s

    def monotonic(self) -> float:
        return self.now_s


def middle() -> float:
    """A draw that prefers nobody."""
    return 0.5


def steady(clock: Clock) -> Health:
    """Health with such a draw: among equals the catalogue's order."""
    return Health(clock, middle)


def offers(count: int, *, prices: tuple[int, ...] = ()) -> list[Candidate]:
    """Candidates of one model, by providers p0, p1, …; `prices` are nano-USD per million tokens of input."""
    made = [
        Offer(
            Provider(f"p{index}", "openai", "http://upstream"),
            "m",
            frozenset({Endpoint.CHAT}),
            prices=PriceList({"input_text_tokens": prices[index]}) if prices else PriceList(),
        )
        for index in range(count)
    ]
    model = Model("a/b", tuple(made))
    return [Candidate(model, offer) for offer in made]


def succeed(health: Health, times: int = 1, key: RouteKey = KEY, *, latency_ms: float = 100.0) -> None:
    for _ in range(times):
        watch = health.start(key)
        assert watch is not None
        watch.succeeded(streamed=True, latency_ms=latency_ms, tokens=50, took_s=1.0)


def fail(
    health: Health,
    times: int = 1,
    key: RouteKey = KEY,
    *,
    category: FailureCategory = FailureCategory.SERVER_ERROR,
    retry_after_s: float | None = None,
) -> None:
    for _ in range(times):
        watch = health.start(key)
        assert watch is not None
        watch.failed(category, retry_after_s)
