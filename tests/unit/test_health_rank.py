"""Ranking: who is tried first, and how much of that is chance."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.domain.catalog import Model
from server.domain.request import RoutingPreferences
from server.domain.routing import Candidate
from server.pipeline.health.rank import Ranking, last_resorts, rank
from server.pipeline.health.standing import Standing
from tests.fakes.health import middle, offers

PLAIN = RoutingPreferences()
FASTEST = RoutingPreferences(sort="throughput")
QUICKEST = RoutingPreferences(sort="latency")
OPEN = Standing(0.0, "open", "error_rate", retry_s=50.0)
LIMITED = Standing(0.0, "open", "rate_limited", retry_s=5.0, is_told=True)
HALF = Standing(0.1, "half_open", "error_rate")
DUE = replace(HALF, probe="due")
TAKEN = replace(HALF, probe="taken")


def names(ranking: Ranking) -> list[str]:
    return [ranked.candidate.offer.provider.id for ranked in ranking.order]


def order(standings: list[Standing], wishes: RoutingPreferences = PLAIN, **rest: Any) -> list[str]:
    """With a draw that prefers nobody, so that the catalogue's order shows what the weights left as it was."""
    prices = rest.pop("prices", ())
    return names(rank(offers(len(standings), prices=prices), standings, wishes, middle, **rest))


def shares(
    standings: list[Standing], wishes: RoutingPreferences = PLAIN, *, draws: int = 6000, **rest: Any
) -> list[float]:
    rng, found = random.Random(11), offers(len(standings), prices=rest.pop("prices", ()))
    firsts = Counter(names(rank(found, standings, wishes, rng.random, **rest))[0] for _ in range(draws))
    return [firsts[f"p{index}"] / draws for index in range(len(standings))]


@pytest.mark.parametrize(
    ("standings", "wishes", "expected"),
    [
        ([Standing()] * 3, PLAIN, ["p0", "p1", "p2"]),
        ([Standing(0.3), Standing(), Standing(0.6)], PLAIN, ["p1", "p2", "p0"]),
        ([OPEN, Standing(), LIMITED], PLAIN, ["p1"]),
        ([HALF, Standing(0.1)], PLAIN, ["p1", "p0"]),
        ([DUE, Standing(), DUE], PLAIN, ["p0", "p1", "p2"]),
        ([DUE, Standing()], RoutingPreferences(allow_fallbacks=False), ["p1", "p0"]),
        ([TAKEN, Standing()], PLAIN, ["p1"]),
        ([Standing()] * 3, RoutingPreferences(order=("p2", "p1")), ["p2", "p1", "p0"]),
        ([Standing(), Standing(0.1), Standing()], RoutingPreferences(order=("p1",)), ["p1", "p0", "p2"]),
        ([Standing(), OPEN, Standing()], RoutingPreferences(order=("p1",)), ["p0", "p2"]),
        ([Standing(), DUE, Standing()], RoutingPreferences(order=("p2",)), ["p2", "p0", "p1"]),
        ([Standing(in_flight=9), Standing(in_flight=1)], PLAIN, ["p1", "p0"]),
        ([Standing(first_token_ms=900.0), Standing(first_token_ms=100.0)], PLAIN, ["p1", "p0"]),
        ([Standing(first_token_ms=120.0), Standing(first_token_ms=100.0)], PLAIN, ["p0", "p1"]),
        ([Standing(throughput_tps=10), Standing(throughput_tps=50)], PLAIN, ["p0", "p1"]),
        ([Standing(throughput_tps=10), Standing(throughput_tps=50)], FASTEST, ["p1", "p0"]),
        ([Standing(first_token_ms=200.0), Standing(first_token_ms=100.0)], QUICKEST, ["p1", "p0"]),
    ],
)  # fmt: skip
def test_health_and_wishes_decide(standings: list[Standing], wishes: RoutingPreferences, expected: list[str]) -> None:
    assert order(standings, wishes) == expected


def test_price_is_exact_where_asked_for_and_health_permits() -> None:
    cheapest = RoutingPreferences(sort="price")
    standings = [Standing(), Standing(0.6), Standing(0.2)]
    assert order(standings, cheapest, prices=(30, 20, 10)) == ["p1", "p0", "p2"]
    assert shares([Standing()] * 2, cheapest, prices=(11, 10), draws=200) == [0.0, 1.0]


def test_equals_share_alike_and_others_by_weight() -> None:
    assert shares([Standing()] * 3) == pytest.approx([1 / 3] * 3, abs=0.03)
    one, other = shares([Standing(), Standing(in_flight=3)], prices=(0, 0))
    assert one > 0.95 > other
    cheap, dear = shares([Standing()] * 2, prices=(100, 300))
    assert 0.05 < dear < 0.3 < cheap


def test_the_fastest_is_not_stampeded() -> None:
    busy = [Standing(first_token_ms=100.0, in_flight=40), Standing(first_token_ms=140.0, in_flight=10)]
    assert shares(busy, RoutingPreferences(sort="latency"))[0] < 0.1


def test_whole_answers_are_compared_with_whole_answers() -> None:
    standings = [
        Standing(first_token_ms=10.0, answer_ms=9000.0),
        Standing(first_token_ms=500.0, answer_ms=1000.0),
    ]
    assert order(standings, streamed=True) == ["p0", "p1"]
    assert order(standings, streamed=False) == ["p1", "p0"]


def test_a_session_stays_where_it_is() -> None:
    standings = [Standing(in_flight=n, first_token_ms=100.0 * (n + 1)) for n in range(4)]
    firsts = set()
    for session in map(str, range(64)):
        seen = {order(standings[n:] + standings[:n], affinity=session)[0] for n in range(4)}
        assert len(seen) == 1
        firsts |= seen
    assert firsts == {"p0", "p1", "p2", "p3"}


def test_a_session_leaves_who_is_not_well_and_comes_back() -> None:
    well = [Standing()] * 3
    home = order(well, affinity="s")[0]
    for state in (OPEN, HALF, Standing(0.01)):
        ill = [state if f"p{n}" == home else standing for n, standing in enumerate(well)]
        assert order(ill, affinity="s")[0] != home
    assert order(well, affinity="s")[0] == home


def test_fallback_models_come_after_unless_nothing_else_is_left() -> None:
    one, other = offers(2)
    fallback = Candidate(Model("c/d", (other.offer,)), other.offer)
    assert names(rank([one, fallback], [Standing(0.1), Standing()], PLAIN, middle)) == ["p0", "p1"]
    assert names(rank([one, fallback], [HALF, Standing()], PLAIN, middle)) == ["p1", "p0"]
    assert names(rank([one, fallback], [OPEN, Standing()], PLAIN, middle)) == ["p1"]


def test_with_all_open_the_least_bad_is_the_one_that_did_well_lately() -> None:
    ranking = rank(offers(3), [OPEN, replace(OPEN, in_a_row=2), LIMITED], PLAIN, middle)
    assert ranking.order == ()
    assert [ranked.reason for ranked in ranking.avoided] == ["error_rate", "error_rate", "rate_limited"]
    resorts = last_resorts(ranking.avoided, middle)
    assert [ranked.candidate.offer.provider.id for ranked in resorts] == ["p1", "p0"]


def test_reasons_say_what_weighed() -> None:
    standings = [Standing(), Standing(0.5), Standing(first_token_ms=100.0), Standing(first_token_ms=900.0), DUE]
    ranking = rank(offers(5), standings, PLAIN, middle)
    reasons = {ranked.candidate.offer.provider.id: ranked.reason for ranked in ranking.order}
    assert reasons == {"p0": "", "p1": "health", "p2": "", "p3": "latency", "p4": "probe"}


def test_a_probe_is_drawn_from_a_share_of_traffic() -> None:
    first, _ = shares([replace(HALF, probe="free"), Standing()], draws=4000)
    assert first == pytest.approx(0.1, abs=0.02)


_standings = st.builds(
    Standing,
    score=st.floats(0, 1),
    breaker=st.sampled_from(("closed", "open", "half_open")),
    probe=st.sampled_from(("due", "free", "taken")),
    first_token_ms=st.none() | st.floats(0, 1e6),
    throughput_tps=st.none() | st.floats(0, 1e6),
    in_flight=st.integers(0, 1000),
)


@given(
    st.lists(_standings, min_size=1, max_size=12),
    st.sampled_from((None, "price", "latency", "throughput")),
    st.none() | st.text(max_size=20),
    st.integers(),
)
def test_every_candidate_has_one_place_and_no_open_one_is_tried(
    standings: list[Standing], sort: Any, affinity: str | None, seed: int
) -> None:
    wishes = RoutingPreferences(sort=sort)
    ranking = rank(offers(len(standings)), standings, wishes, random.Random(seed).random, affinity=affinity)
    assert sorted([*names(ranking), *(one.candidate.offer.provider.id for one in ranking.avoided)]) == sorted(
        f"p{n}" for n in range(len(standings))
    )
    assert all(ranked.standing.breaker != "open" and 0.0 <= ranked.score <= 1.0 for ranked in ranking.order)
    assert sum(ranked.reason == "probe" for ranked in ranking.order) <= 1


def test_the_work_is_in_proportion_to_the_candidates() -> None:
    drawn = 0

    def draw() -> float:
        nonlocal drawn
        drawn += 1
        return 0.5

    rank(offers(50), [Standing()] * 50, PLAIN, draw)
    assert drawn == 50
