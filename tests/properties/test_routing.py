"""What holds of every route: filters and ranking over whatever catalogue, health and wishes there may be."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.errors import GatewayError
from server.domain.pricing import PriceList
from server.domain.request import Endpoint, GenerationRequest, MaxPrice, Role, RoutingPreferences, Text, Turn
from server.domain.routing import Candidate
from server.pipeline.health.offers import Health
from server.pipeline.health.rank import Ranking, rank
from server.pipeline.health.router import RankByHealth
from server.pipeline.health.standing import RouteKey, Standing
from server.pipeline.route import candidates
from tests.fakes.health import HandClock, fail, offers
from tests.unit.test_route import ADAPTERS

NAMES = tuple(f"p{index}" for index in range(6))
SORTS = st.sampled_from((None, "price", "latency", "throughput"))

_offer_facts = st.fixed_dictionaries(
    {
        "endpoints": st.sampled_from((frozenset({Endpoint.CHAT}), frozenset({Endpoint.EMBEDDINGS}))),
        "params": st.sampled_from((None, frozenset({"temperature"}), frozenset({"seed"}))),
        "prices": st.integers(0, 3).map(lambda usd: PriceList({"input_text_tokens": usd * 10**9})),
        "context_length": st.none() | st.integers(1, 3),
    }
)


def catalog_of(keyed: set[str], *models: dict[str, dict[str, Any]]) -> Catalog:
    providers = {
        name: Provider(name, "openai", "http://p", missing_key_env=None if name in keyed else "KEY") for name in NAMES
    }
    made = [
        Model(f"a/m{number}", tuple(Offer(providers[name], "m", **facts) for name, facts in offered.items()))
        for number, offered in enumerate(models)
    ]
    return Catalog(providers, {model.id: model for model in made})


_offered = st.dictionaries(st.sampled_from(NAMES), _offer_facts, min_size=1)
_catalogs = st.builds(catalog_of, st.sets(st.sampled_from(NAMES), min_size=3), _offered, _offered)
_some = st.lists(st.sampled_from(NAMES), max_size=4).map(tuple)
_wishes = st.builds(
    RoutingPreferences,
    order=_some,
    only=_some,
    ignore=_some,
    allow_fallbacks=st.booleans(),
    require_parameters=st.booleans(),
    sort=SORTS,
    max_price=st.none() | st.integers(0, 3).map(lambda usd: MaxPrice(prompt=str(usd))),
    fallback_models=st.sampled_from(((), ("a/m1",))),
    session_id=st.none() | st.text(min_size=1, max_size=5),
)


@given(
    _catalogs,
    _wishes,
    st.sampled_from(("a/m0", "p0:a/m0", "p3:a/m0")),
    st.sampled_from(({}, {"seed": "seed"})),
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 8)),
    st.integers(),
)
def test_every_offer_is_tried_or_its_row_says_why_not(
    catalog: Catalog,
    wishes: RoutingPreferences,
    model: str,
    parameters: dict[str, str],
    failures: dict[str, int],
    seed: int,
) -> None:
    turns = (Turn(Role.USER, (Text("x" * 8),)),)
    request = GenerationRequest(endpoint=Endpoint.CHAT, model=model, turns=turns, parameters=parameters, routing=wishes)
    health = Health(HandClock(), random.Random(seed).random)
    ranker = RankByHealth(health)
    try:
        candidates(catalog, request, ADAPTERS, ranker)
        for name, times in failures.items():
            fail_often(health, times, RouteKey(name, "a/m0", Endpoint.CHAT))
        route = candidates(catalog, request, ADAPTERS, ranker)
    except GatewayError as refusal:
        assert refusal.param is not None  # noqa: PT017 - whether it is refused is what is being asked
        return
    pin, _, bare = model.rpartition(":")
    models = (bare, *(() if pin else wishes.fallback_models))
    asked = Counter(offer.provider.id for one in dict.fromkeys(models) for offer in catalog.models[one].offers)
    seen = {(one.offer.provider.id, one.offer.provider_model) for one in route.candidates}
    assert len(seen) == len(route.candidates) >= 1
    assert len(route.assessments) == len(route.candidates)
    tried = Counter(one.offer.provider.id for one in route.candidates)
    left_out = Counter(row.provider for row in route.rejected)
    # Two models of a provider may be one and the same offer, which is tried once.
    assert set(asked) == set(tried + left_out)
    assert all(asked[name] >= count for name, count in (tried + left_out).items())
    assert all(is_permitted(one, request, pin) for one in route.candidates)


def fail_often(health: Health, times: int, key: RouteKey) -> None:
    """Until its breaker opens, if it does."""
    for _ in range(times):
        if health.entry(key).breaker.state(health.now_s) == "closed":
            fail(health, 1, key)


def is_permitted(one: Candidate, request: GenerationRequest, pin: str) -> bool:
    wishes, offer, provider = request.routing, one.offer, one.offer.provider.id
    price = offer.prices.rates["input_text_tokens"] / 10**9
    return (
        provider not in wishes.ignore
        and (not wishes.only or provider in wishes.only)
        and pin in ("", provider)
        and Endpoint.CHAT in offer.endpoints
        and offer.provider.is_configured
        and (wishes.max_price is None or price <= float(wishes.max_price.prompt or 0))
        and (not wishes.require_parameters or offer.params is None or set(request.parameters) <= offer.params)
        and (offer.context_length is None or offer.context_length > 1)
    )


_standings = st.builds(
    Standing,
    score=st.floats(0, 1),
    breaker=st.sampled_from(("closed", "closed", "open", "half_open")),
    probe=st.sampled_from(("due", "free", "taken")),
    first_token_ms=st.none() | st.floats(1, 1e6),
    throughput_tps=st.none() | st.floats(1, 1e6),
    in_flight=st.integers(0, 3),
)


@given(
    st.lists(st.tuples(_standings, st.floats(0.01, 0.99)), min_size=1, max_size=8, unique_by=lambda pair: pair[1]),
    SORTS,
    st.sampled_from((0.05, 0.5)),
    st.data(),
)
def test_the_catalogues_order_means_nothing(
    drawn: list[tuple[Standing, float]], sort: Any, probing: float, data: st.DataObject
) -> None:
    """With the same number drawn for each, whatever place it has, the result is the same: so chances are, too."""
    found = offers(len(drawn), prices=tuple(range(len(drawn))))
    entries = list(zip(found, drawn, strict=True))
    shuffled = data.draw(st.permutations(entries))
    assert ranked(entries, sort, probing) == ranked(shuffled, sort, probing)


def ranked(entries: list[tuple[Candidate, tuple[Standing, float]]], sort: Any, probing: float) -> list[str]:
    usable = [one for one in entries if may_be_called(one[1][0])]
    draws = [chance for _, (_, chance) in usable]
    if any(standing.breaker == "half_open" for _, (standing, _) in usable):
        draws.insert(0, probing)
    numbers = iter(draws)
    ranking = rank(
        [candidate for candidate, _ in entries],
        [standing for _, (standing, _) in entries],
        RoutingPreferences(sort=sort),
        lambda: next(numbers),
    )
    return order(ranking)


def may_be_called(standing: Standing) -> bool:
    return standing.breaker == "closed" or (standing.breaker == "half_open" and standing.probe != "taken")


def order(ranking: Ranking) -> list[str]:
    return [one.candidate.offer.provider.id for one in ranking.order]


@pytest.mark.parametrize("turned", [False, True])
def test_shares_do_not_depend_on_the_catalogues_order(turned: bool) -> None:
    standings = [Standing(0.5), Standing(), Standing(first_token_ms=100.0), Standing(first_token_ms=400.0)]
    entries = list(zip(offers(4), standings, strict=True))
    if turned:
        entries.reverse()
    draw = random.Random(7).random
    firsts = Counter(
        order(rank([one for one, _ in entries], [standing for _, standing in entries], RoutingPreferences(), draw))[0]
        for _ in range(8000)
    )
    assert [firsts[name] / 8000 for name in NAMES[:4]] == pytest.approx([0.163, 0.327, 0.327, 0.183], abs=0.02)
