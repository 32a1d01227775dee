"""In which order candidates are tried: a pure function of how they stand, what the client wishes and a random draw.

Whoever may be called is drawn by weight, without replacement; of the first two drawn the one with less to do goes
first. So the best is preferred and yet not stampeded, and equals share alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Final, TypeAlias
from zlib import crc32

import msgspec
from msgspec.structs import replace

from server.domain.request import RoutingPreferences
from server.domain.routing import Assessment, Candidate
from server.domain.trace import Mode
from server.pipeline.health.standing import Standing

PROBE_SHARE: Final = 0.1
SLACK: Final = 1.25
"""Latencies and throughputs within this factor of the best count as equal: that much is noise."""
SHARP: Final = 4.0
"""Half the speed is a sixteenth of the weight, where the client asked for speed."""
AFFINE_SCORE: Final = 0.8
"""A session stays where it is as long as that offer's health is at least this."""
CHEAP_SCORE: Final = 0.5
"""Who asks for the cheapest gets it as long as its health is at least this."""
_key: Final = itemgetter(0)
_LEAST: Final = 1e-9
_TOO_ILL: Final = 1 << 62
_BITS: Final = (1 << 64) - 1

_PROBED, _WELL, _HALF_OPEN = range(3)


class Ranked(Assessment, frozen=True):
    """A candidate in its place. `score`, from 0 to 1, is its weight in the draw; `reason` is empty where it is as good
    as any, or says what set it back or forward: `probe`, `health`, `price`, `latency`, `throughput`, or why its breaker
    is open. `chance` is what was drawn for it, None where nothing was.
    """

    candidate: Candidate
    standing: Standing
    chance: float | None = None


class Ranking(msgspec.Struct, frozen=True):
    """`order` is what may be tried, `avoided` what may not: its breaker is open. `order` may be empty."""

    order: tuple[Ranked, ...]
    avoided: tuple[Ranked, ...] = ()


_Keyed: TypeAlias = tuple[tuple[int, int, int, float], Ranked]
"""What a candidate is sorted by: tier, place by wish, price where asked for, the draw."""


class _Scale(msgspec.Struct, frozen=True):
    """The best of all candidates, as far as the mode asks for it; None where unknown."""

    mode: Mode
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
    mode: Mode = wishes.sort or "balanced"
    if len(candidates) == 1 and standings[0].breaker == "closed":  # what there is to compare with is itself
        weight, reason = _health(standings[0], affinity is not None)
        return Ranking((Ranked(weight, "closed", reason, candidates[0], standings[0]),))
    usable: list[tuple[Candidate, Standing]] = []
    avoided: list[Ranked] = []
    may_probe = False
    for candidate, standing in zip(candidates, standings, strict=True):
        if standing.breaker == "closed":
            usable.append((candidate, standing))
        elif standing.breaker == "open" or standing.probe == "taken":
            avoided.append(Ranked(0.0, standing.breaker, standing.reason, candidate, standing))
        else:
            usable.append((candidate, standing))
            may_probe = wishes.allow_fallbacks  # else there is nobody to go to, if the probe fails
    if not usable:
        return Ranking((), tuple(avoided))
    is_drawn = may_probe and draw() < PROBE_SHARE

    scale = _scale(usable, mode, streamed)
    seed = None if affinity is None else _seed(affinity)
    places = _places(candidates, usable, wishes.order)
    keyed: list[_Keyed] = []
    probes: list[_Keyed] = []
    for (candidate, standing), place in zip(usable, places, strict=True):
        weight, reason = _weight(candidate, standing, scale, affinity is not None)
        is_well = standing.breaker == "closed"
        cost = 0
        if mode == "price":
            cost = candidate.offer.prices.compared if standing.score >= CHEAP_SCORE else _TOO_ILL
        chance = draw() if seed is None else _lot(seed, candidate)
        wait = -math.log(chance if chance > _LEAST else _LEAST) / (weight if weight > _LEAST else _LEAST)
        tier = _WELL if is_well else _HALF_OPEN
        why = reason if is_well else standing.reason
        one = ((tier, place, cost, wait), Ranked(weight, standing.breaker, why, candidate, standing, chance))
        keyed.append(one)
        if may_probe and not is_well and (is_drawn or standing.probe == "due"):
            probes.append(one)
    if probes:
        _put_first(min(probes, key=_key), keyed, min(places))
    keyed.sort(key=_key)
    if seed is None:
        _prefer_idler(keyed)
    return Ranking(tuple([ranked for _, ranked in keyed]), tuple(avoided))


def _places(
    candidates: Sequence[Candidate], usable: Sequence[tuple[Candidate, Standing]], order: Sequence[str]
) -> list[int]:
    """What comes before what whatever the draw: models as they are named, and of each the providers of `order`."""
    model = candidates[0].model
    if not order and all(one.model is model for one in candidates):
        return [0] * len(usable)
    models = {id_: place for place, id_ in enumerate(dict.fromkeys(one.model.id for one in candidates))}
    named = {provider_id: place for place, provider_id in reversed(list(enumerate(order)))}
    return [models[one.model.id] * (len(order) + 1) + named.get(one.offer.provider.id, len(order)) for one, _ in usable]


def last_resorts(avoided: Sequence[Ranked], draw: Callable[[], float]) -> list[Ranked]:
    """Those that may be tried where nobody else is left: first who did well lately, and else by chance.

    None that has said when it wants to be called again.
    """
    may = [one for one in avoided if not one.standing.is_told]
    return sorted(may, key=lambda one: (-one.standing.in_a_row, draw()))


def _put_first(probe: _Keyed, keyed: list[_Keyed], first: int) -> None:
    """Make this one the probe, one at a time, unless a wish puts others before it."""
    (_, place, cost, wait), ranked = probe
    if place == first:
        keyed[keyed.index(probe)] = ((_PROBED, place, cost, wait), replace(ranked, reason="probe"))


def _prefer_idler(keyed: list[_Keyed]) -> None:
    """Two choices: where the first two differ by the draw alone, the other if it would still have less to do."""
    start = 1 if keyed[0][0][0] == _PROBED else 0
    if len(keyed) < start + 2:
        return
    (key, one), (other_key, other) = keyed[start], keyed[start + 1]
    if key[:3] == other_key[:3] and _load(other, 1) < _load(one, 0):
        keyed[start], keyed[start + 1] = keyed[start + 1], keyed[start]


def _load(ranked: Ranked, more: int) -> float:
    return (ranked.standing.in_flight + more) / max(ranked.score, _LEAST)


def _health(standing: Standing, is_affine: bool) -> tuple[float, str]:
    """The weight as far as health decides it. What changes by the second would tear sessions apart."""
    if standing.score >= 1.0 or (is_affine and standing.score >= AFFINE_SCORE):
        return 1.0, ""
    return standing.score, "health"


def _weight(candidate: Candidate, standing: Standing, scale: _Scale, is_affine: bool) -> tuple[float, str]:
    """The weight in the draw, and what lowers it most."""
    health, reason = _health(standing, is_affine)
    other, what = 1.0, ""
    if scale.mode == "balanced":
        price = candidate.offer.prices.compared
        if price > scale.price:
            other, what = (scale.price + 1) / (price + 1), "price"
        if not is_affine and (quickness := _quickness(standing, scale)) < 1.0:
            health, other, what = health * other, math.sqrt(quickness), "latency"
    elif scale.mode == "latency":
        other, what = _quickness(standing, scale) ** SHARP, "latency"
    elif scale.mode == "throughput":
        other, what = _fastness(standing, scale) ** SHARP, "throughput"
    if other >= 1.0:
        return health, reason
    return health * other, what if other < standing.score else "health"


def _scale(usable: Sequence[tuple[Candidate, Standing]], mode: Mode, streamed: bool) -> _Scale:
    price, latencies, speeds = 0, [], []
    if mode == "balanced":
        price = min([one.offer.prices.compared for one, _ in usable])
    if mode in ("balanced", "latency"):
        latencies = [ms for _, one in usable if (ms := one.first_token_ms if streamed else one.answer_ms) is not None]
    elif mode == "throughput":
        speeds = [one.throughput_tps for _, one in usable if one.throughput_tps is not None]
    return _Scale(mode, price, min(latencies) if latencies else None, max(speeds) if speeds else None, streamed)


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
