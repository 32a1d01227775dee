"""In which order candidates are tried: a pure function of how they stand, what the client wishes and a random draw.

Whoever may be called is drawn by weight, without replacement; of the first two drawn the one with less to do goes
first. So the best is preferred and yet not stampeded, and equals share alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Literal, TypeAlias
from zlib import crc32

import msgspec

from server.domain.request import RoutingPreferences
from server.domain.routing import Candidate
from server.pipeline.health.standing import Standing

Mode = Literal["balanced", "price", "latency", "throughput"]

PROBE_SHARE: Final = 0.1
SLACK: Final = 1.25
"""Latencies and throughputs within this factor of the best count as equal: that much is noise."""
SHARP: Final = 4.0
"""Half the speed is a sixteenth of the weight, where the client asked for speed."""
AFFINE_SCORE: Final = 0.8
"""A session stays where it is as long as that offer's health is at least this."""
CHEAP_SCORE: Final = 0.5
"""Who asks for the cheapest gets it as long as its health is at least this."""
_LEAST: Final = 1e-9
_TOO_ILL: Final = 1 << 62
_BITS: Final = (1 << 64) - 1

_PROBED, _WELL, _HALF_OPEN = range(3)


class Ranked(msgspec.Struct, frozen=True):
    """A candidate in its place. `score`, from 0 to 1, is its weight in the draw; `reason` is empty where it is as good
    as any, or says what set it back or forward: `probe`, `health`, `price`, `latency`, `throughput`, `recovering`, or
    why its breaker is open.
    """

    candidate: Candidate
    standing: Standing
    score: float
    reason: str = ""


class Ranking(msgspec.Struct, frozen=True):
    """`order` is what may be tried, `avoided` what may not: its breaker is open. `order` may be empty."""

    order: tuple[Ranked, ...]
    avoided: tuple[Ranked, ...] = ()


_Keyed: TypeAlias = tuple[tuple[int, int, int, int, float], Ranked]
"""What a candidate is sorted by: tier, place of its model, place in `order`, price where asked for, the draw."""


class _Scale(msgspec.Struct, frozen=True):
    """The best of all candidates, None where unknown."""

    price: int
    latency_ms: float | None
    throughput_tps: float | None
    streamed: bool


def rank(
    candidates: Sequence[Candidate],
    standings: Sequence[Standing],
    wishes: RoutingPreferences,
    draw: Callable[[], float],
    *,
    streamed: bool = True,
    affinity: str | None = None,
) -> Ranking:
    """`standings` are those of `candidates`, one by one. `affinity` names what should stay with one offer.

    A model always comes before its fallback models, and then a provider of `order` before all others; only among those
    that no wish tells apart does the draw decide. Takes time in proportion to n log n of the candidates.
    """
    may_wait = wishes.allow_fallbacks  # for another candidate, if the first was a probe that fails
    may_probe = may_wait and draw() < PROBE_SHARE
    probed: Candidate | None = None
    usable: list[tuple[Candidate, Standing]] = []
    avoided: list[Ranked] = []
    for candidate, standing in zip(candidates, standings, strict=True):
        if standing.breaker == "open" or (standing.breaker == "half_open" and standing.probe == "taken"):
            avoided.append(Ranked(candidate, standing, 0.0, standing.reason))
        else:
            usable.append((candidate, standing))
    if not usable:
        return Ranking((), tuple(avoided))

    mode: Mode = wishes.sort or "balanced"
    prices = [sum(candidate.offer.prices.rates.values()) for candidate, _ in usable]
    scale = _scale(usable, prices, streamed)
    seed = None if affinity is None else _seed(affinity)
    models = {id_: place for place, id_ in enumerate(dict.fromkeys(one.model.id for one in candidates))}
    named = {provider_id: place for place, provider_id in reversed(list(enumerate(wishes.order)))}
    places = [(models[one.model.id], named.get(one.offer.provider.id, len(named))) for one, _ in usable]
    first = min(places)

    keyed: list[_Keyed] = []
    for (candidate, standing), place, price in zip(usable, places, prices, strict=True):
        weight, reason = _weight(standing, price, scale, mode, seed is not None)
        tier = _WELL
        if standing.breaker == "half_open":
            wanted = probed is None and place == first and (may_probe or (standing.probe == "due" and may_wait))
            tier, reason = (_PROBED, "probe") if wanted else (_HALF_OPEN, standing.reason)
            probed = candidate if wanted else probed
        cost = 0
        if mode == "price":
            cost = price if standing.score >= CHEAP_SCORE else _TOO_ILL
        chance = draw() if seed is None else _lot(seed, candidate)
        last = -math.log(max(chance, _LEAST)) / max(weight, _LEAST)
        keyed.append(((tier, *place, cost, last), Ranked(candidate, standing, weight, reason)))
    keyed.sort(key=_key)
    if seed is None:
        _prefer_idler(keyed)
    return Ranking(tuple(ranked for _, ranked in keyed), tuple(avoided))


def last_resorts(avoided: Sequence[Ranked], draw: Callable[[], float]) -> list[Ranked]:
    """Those that may be tried where nobody else is left: first who did well lately, and else by chance.

    None that has said when it wants to be called again.
    """
    may = [one for one in avoided if not one.standing.is_told]
    return sorted(may, key=lambda one: (-one.standing.in_a_row, draw()))


def _key(keyed: _Keyed) -> tuple[int, int, int, int, float]:
    return keyed[0]


def _prefer_idler(keyed: list[_Keyed]) -> None:
    """Two choices: where the first two differ by the draw alone, the other if it would still have less to do."""
    start = 1 if keyed[0][0][0] == _PROBED else 0
    if len(keyed) < start + 2:
        return
    (key, one), (other_key, other) = keyed[start], keyed[start + 1]
    if key[:4] == other_key[:4] and _load(other, 1) < _load(one, 0):
        keyed[start], keyed[start + 1] = keyed[start + 1], keyed[start]


def _load(ranked: Ranked, more: int) -> float:
    return (ranked.standing.in_flight + more) / max(ranked.score, _LEAST)


def _weight(standing: Standing, price: int, scale: _Scale, mode: Mode, is_affine: bool) -> tuple[float, str]:
    """The weight in the draw, and what lowers it most. What changes by the second would tear sessions apart."""
    health = standing.score
    if is_affine and health >= AFFINE_SCORE:
        health = 1.0
    other, what = 1.0, ""
    if mode == "balanced":
        other, what = (1.0 if price <= scale.price else (scale.price + 1) / (price + 1)), "price"
        if not is_affine and (quickness := _quickness(standing, scale)) < 1.0:
            health, other, what = health * other, math.sqrt(quickness), "latency"
    elif mode == "latency":
        other, what = _quickness(standing, scale) ** SHARP, "latency"
    elif mode == "throughput":
        other, what = _fastness(standing, scale) ** SHARP, "throughput"
    if health >= 1.0 and other >= 1.0:
        return 1.0, ""
    return health * other, what if other < standing.score else "health"


def _scale(usable: Sequence[tuple[Candidate, Standing]], prices: Sequence[int], streamed: bool) -> _Scale:
    latencies = [ms for _, one in usable if (ms := one.first_token_ms if streamed else one.answer_ms) is not None]
    speeds = [one.throughput_tps for _, one in usable if one.throughput_tps is not None]
    return _Scale(min(prices), min(latencies, default=None), max(speeds, default=None), streamed)


def _quickness(standing: Standing, scale: _Scale) -> float:
    best_ms = scale.latency_ms
    latency_ms = standing.first_token_ms if scale.streamed else standing.answer_ms
    if latency_ms is None or best_ms is None or latency_ms <= SLACK * best_ms:
        return 1.0
    return SLACK * best_ms / latency_ms


def _fastness(standing: Standing, scale: _Scale) -> float:
    tps = standing.throughput_tps
    if tps is None or scale.throughput_tps is None or tps * SLACK >= scale.throughput_tps:
        return 1.0
    return SLACK * tps / scale.throughput_tps


def _seed(affinity: str) -> int:
    return int.from_bytes(blake2b(affinity.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _lot(seed: int, candidate: Candidate) -> float:
    """From 0 to 1, always the same for one session and offer, on every worker."""
    name = crc32(candidate.offer.provider.id.encode(), crc32(candidate.model.id.encode()))
    mixed = (seed ^ (name * 0x9E3779B97F4A7C15)) & _BITS
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _BITS
    return (mixed ^ (mixed >> 31)) / _BITS
