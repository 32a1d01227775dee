"""Why a generation went where it went, for a client that asks (`debug.trace`). No address and no key is in it."""

from __future__ import annotations

from typing import Literal

import msgspec

from server.domain.health import BreakerState

Mode = Literal["balanced", "price", "latency", "throughput"]
Affinity = Literal["session_id", "prompt_cache_key"]


class TracedCandidate(msgspec.Struct, frozen=True):
    """One candidate as it stood when the choice was made.

    `score` is its weight in the draw, from 0 to 1, and `reason` what set it back or forward, empty for nothing.
    `chance` is what was drawn for it, from 0 to 1, or what affinity says instead; None where nothing had to be drawn.
    `health` is its success rate and the like in one number. `latency_ms` (to the first token, or of a whole answer, as
    was asked for) and `throughput_tps` are None until measured. `price_nanos` is what a million tokens of input and as
    many of output cost together.
    """

    provider: str
    model: str
    provider_model: str
    score: float
    breaker: BreakerState
    reason: str
    chance: float | None
    health: float
    latency_ms: float | None
    throughput_tps: float | None
    in_flight: int
    price_nanos: int


class TracedAttempt(msgspec.Struct, frozen=True):
    """One call of a provider. `error` is the category of its failure, None where it succeeded, or `outrun`.

    `status` is the provider's HTTP status, 0 where there was none. Times are milliseconds: `began_ms` since the request
    came in, `latency_ms` until the first output, None where there was none, `took_ms` in all.
    """

    provider: str
    model: str
    provider_model: str
    status: int
    error: str | None
    began_ms: float
    latency_ms: float | None
    took_ms: float


class Choice(msgspec.Struct, frozen=True):
    """How candidates were put in order: first to last, and after them those that were not to be called."""

    mode: Mode
    affinity: Affinity | None
    candidates: tuple[TracedCandidate, ...]


class Trace(Choice, frozen=True):
    """The choice, and what came of it. Who did not even become a candidate is told in `Meta.routing`."""

    attempts: tuple[TracedAttempt, ...]
