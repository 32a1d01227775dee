"""How one offer stands at one moment: what ranking and `GET /v1/health` know of it."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from server.domain.health import BreakerState
from server.domain.request import Endpoint
from server.pipeline.health.figures import LONG, MINUTE, SHORT, Reading, Sums

PRIOR: Final = 5.0
"""Successes taken for granted, so that the first failure of an offer is not its ruin."""
WELL: Final = 0.97
"""From this success rate on, offers count as equally well."""
RAMP_S: Final = 60.0
RAMP_START: Final = 0.1
"""After its breaker closed, an offer gets this share of its weight, and all of it `RAMP_S` later."""
HALF_OPEN_SCORE: Final = 0.1
AMPLE: Final = 0.2
"""With this share of its rate limit left an offer has all of its weight, with nothing left none."""


class RouteKey(NamedTuple):
    """What has figures and a breaker of its own: an offer, by provider and model of the catalogue, at an endpoint."""

    provider: str
    model: str
    endpoint: Endpoint


class Standing(msgspec.Struct, frozen=True):
    """`score` is from 0 (avoided) to 1; latencies and throughput are None where they have not been measured.

    `probe`: `due` where the next request should test a half-open offer, `free` where it may, `taken` where not.
    `in_a_row`: attempts that went well since it opened. `retry_s` is on the clock's monotonic seconds, and means
    something while the breaker is open. `is_told`: the provider itself asked not to be called yet.
    """

    score: float = 1.0
    breaker: BreakerState = "closed"
    reason: str = ""
    retry_s: float = 0.0
    probe: str = "free"
    first_token_ms: float | None = None
    answer_ms: float | None = None
    throughput_tps: float | None = None
    in_flight: int = 0
    in_a_row: int = 0
    is_told: bool = False


UNMEASURED: Final = Standing()


def health_score(reading: Reading, since_closed_s: float) -> float:
    """From 0 to 1: what the success rate, refusals for their rate and a recent recovery leave of an offer's weight."""
    short, minute = reading.windows[SHORT], reading.windows[MINUTE]
    success = min(short.success_rate(PRIOR), minute.success_rate(PRIOR))
    room = 1.0 - max(short.limited_share(PRIOR), minute.limited_share(PRIOR))
    score: float = min(1.0, success / WELL) ** 4 * room**2
    return score * ramp(since_closed_s)


def room(used: float) -> float:
    """From 0 to 1: what is left of an offer's weight where so much of its rate limit is used up."""
    return min(1.0, (1.0 - used) / AMPLE)


def ramp(since_closed_s: float) -> float:
    if since_closed_s >= RAMP_S:
        return 1.0
    return RAMP_START + (1.0 - RAMP_START) * max(0.0, since_closed_s) / RAMP_S


def lately(reading: Reading) -> Sums:
    """The latest window that holds enough for a mean: a minute, else five."""
    minute = reading.windows[MINUTE]
    return minute if minute.attempts >= 1.0 else reading.windows[LONG]
