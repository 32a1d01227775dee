"""What a prompt itself demands of an offer: the kinds of input, and room for it. One table for each filter."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.errors import GatewayError, Reason
from server.domain.identity import TeamPolicy
from server.domain.pricing import PriceList, PriceTier
from server.domain.request import (
    Audio,
    Endpoint,
    File,
    FunctionTool,
    GenerationRequest,
    Image,
    MaxPrice,
    Part,
    Role,
    RoutingPreferences,
    Sampling,
    Sort,
    Text,
    ToolResult,
    Turn,
)
from server.pipeline.count_tokens import TokenEstimate
from server.pipeline.counting import count_prompt
from server.pipeline.fit import MOST_CHARS_PER_TOKEN, least_tokens
from server.pipeline.health.router import RankByHealth
from server.pipeline.route import candidates
from tests.fakes.health import HandClock, steady
from tests.unit.test_route import ADAPTERS

IMAGE = Image(url="https://example.com/cat.png")
AUDIO = Audio("aGk=", "wav")
FILE = File(data="aGk=", media_type="application/pdf")
SHOWN = ToolResult("call_1", (Text("see"), IMAGE))


class Fixed:
    """A catalogue that stays as it is."""

    def __init__(self, catalog: Catalog) -> None:
        self.current = catalog


def catalog(**facts: Any) -> Catalog:
    """One model for each provider p0, p1, …, and `a/all`, which all of them offer; `facts` are lists of theirs."""
    count = max((len(values) for values in facts.values()), default=1)
    providers = facts.pop("provider", None) or [Provider(f"p{index}", "openai", "http://p") for index in range(count)]
    offers = [
        Offer(provider, "m", frozenset(Endpoint), **{name: values[index] for name, values in facts.items()})
        for index, provider in enumerate(providers)
    ]
    models = [Model("a/all:free", tuple(offers))]
    models += [Model(f"a/m{index}:free", (offer,)) for index, offer in enumerate(offers)]
    return Catalog({provider.id: provider for provider in providers}, {model.id: model for model in models})


def request(
    *parts: Part, endpoint: Endpoint = Endpoint.CHAT, most: int | None = None, **rest: Any
) -> GenerationRequest:
    model = rest.pop("model", "a/all:free")
    turns = (Turn(Role.SYSTEM, (Text("Be terse."),)), Turn(Role.USER, parts or (Text("hi"),)))
    sampling = Sampling(max_output_tokens=most)
    return GenerationRequest(
        endpoint=endpoint, model=model, turns=turns, sampling=sampling, routing=RoutingPreferences(**rest)
    )


def words(tokens: int) -> Text:
    """A text of so many tokens at the least, together with the system turn."""
    return Text("x" * (tokens * MOST_CHARS_PER_TOKEN - len("Be terse.")))


def sorted_out(found: Catalog, asked: GenerationRequest) -> tuple[list[str], list[tuple[str, str]]]:
    """Who is left, and why the others are not."""
    route = candidates(found, asked, ADAPTERS)
    return [one.offer.provider.id for one in route.candidates], [(row.provider, row.outcome) for row in route.rejected]


TEXT, SEES = frozenset({"text"}), frozenset({"text", "image"})
HEARS, READS = frozenset({"text", "audio"}), frozenset({"text", "image", "file"})
TYPES = catalog(input_types=[TEXT, SEES, HEARS, READS, None])
NOT_TAKEN = "input_type_not_taken"


@pytest.mark.parametrize(
    ("parts", "left"),
    [
        ((Text("hi"),), ["p0", "p1", "p2", "p3", "p4"]),
        ((IMAGE,), ["p1", "p3", "p4"]),
        ((AUDIO,), ["p2", "p4"]),
        ((FILE,), ["p3", "p4"]),
        ((IMAGE, FILE), ["p3", "p4"]),
        ((IMAGE, AUDIO), ["p4"]),
        ((SHOWN,), ["p1", "p3", "p4"]),
    ],
)
def test_an_offer_gets_only_kinds_of_input_that_it_takes(parts: tuple[Part, ...], left: list[str]) -> None:
    """Nothing is held against an offer of which the catalogue says nothing."""
    others = [(f"p{index}", NOT_TAKEN) for index in range(5) if f"p{index}" not in left]
    assert sorted_out(TYPES, request(*parts)) == (left, others)


@pytest.mark.parametrize(
    ("types", "parts", "endpoint", "param", "said"),
    [
        ([TEXT], (IMAGE,), Endpoint.CHAT, "messages[1].content", "takes this input (image); they take text"),
        ([TEXT], (IMAGE,), Endpoint.RESPONSES, "input", "(image)"),
        ([TEXT], (IMAGE,), Endpoint.MESSAGES, "messages[].content[].image", "(image)"),
        ([TEXT], (FILE,), Endpoint.MESSAGES, "messages[].content[].document", "(file)"),
        ([SEES, HEARS], (FILE,), Endpoint.CHAT, "messages[1].content", "(file); they take audio, image, text"),
        ([SEES, HEARS], (IMAGE, AUDIO), Endpoint.CHAT, "messages[1].content", "(audio)"),
        ([TEXT], (SHOWN,), Endpoint.CHAT, "messages[1].content", "(image)"),
    ],
)
def test_input_that_nobody_takes_is_named(
    types: list[frozenset[str]], parts: tuple[Part, ...], endpoint: Endpoint, param: str, said: str
) -> None:
    with pytest.raises(GatewayError) as caught:
        candidates(catalog(input_types=types), request(*parts, endpoint=endpoint), ADAPTERS)
    assert (caught.value.reason, caught.value.param) == (Reason.UNSUPPORTED_PARAMETER, param)
    assert said in caught.value.description


def test_input_that_one_model_does_not_take_goes_to_a_fallback_model_that_does() -> None:
    asked = request(IMAGE, model="a/m0:free", fallback_models=("a/m1:free",))
    assert sorted_out(TYPES, asked) == (["p1"], [("p0", NOT_TAKEN)])


LENGTHS = catalog(context_length=[1000, 8000, None])
KNOWN = catalog(context_length=[1000, 8000])
SHORT = "context_too_short"
ONE_BY_ONE: dict[str, Any] = {"model": "a/m0:free", "fallback_models": ("a/m1:free",)}


@pytest.mark.parametrize(
    ("found", "asked", "left", "rejected"),
    [
        (LENGTHS, request(), ["p0", "p1", "p2"], []),
        # Among offers of one model: as long as the prompt probably is, twice the least, and eight for two turns.
        (LENGTHS, request(words(100), most=792), ["p0", "p1", "p2"], []),
        (LENGTHS, request(words(100), most=793), ["p1", "p2"], [("p0", SHORT)]),
        (LENGTHS, request(words(5000)), ["p2"], [("p0", SHORT), ("p1", SHORT)]),
        (LENGTHS, request(words(10), most=9000), ["p2"], [("p0", SHORT), ("p1", SHORT)]),
        (KNOWN, request(words(600)), ["p1"], [("p0", SHORT)]),
        # Nobody has room for what it probably is: only what cannot fit is turned away.
        (KNOWN, request(words(900), most=7100), ["p1"], [("p0", SHORT)]),
        (KNOWN, request(words(10), most=9000), ["p0", "p1"], []),
        (KNOWN, request(words(1000), most=9000), ["p1"], [("p0", SHORT)]),
        (KNOWN, request(words(7999), most=9000), ["p1"], [("p0", SHORT)]),
        # A fallback model answers otherwise, so that it comes before only where the first one certainly can't.
        (KNOWN, request(words(900), most=100, **ONE_BY_ONE), ["p0", "p1"], []),
        (KNOWN, request(words(900), most=101, **ONE_BY_ONE), ["p1"], [("p0", SHORT)]),
        (KNOWN, request(words(900), most=200, model="p0:a/all:free"), ["p0"], [("p1", "not_pinned")]),
        (KNOWN, request(words(900), most=200, only=("p0",)), ["p0"], [("p1", "not_allowed")]),
        (LENGTHS, request(IMAGE, FILE, AUDIO), ["p0", "p1", "p2"], []),
    ],
)  # fmt: skip
def test_a_prompt_goes_where_there_is_room_for_it(
    found: Catalog, asked: GenerationRequest, left: list[str], rejected: list[tuple[str, str]]
) -> None:
    kept, why = sorted_out(found, asked)
    assert (kept, sorted(why)) == (left, sorted(rejected))


@pytest.mark.parametrize(
    ("endpoint", "param"),
    [(Endpoint.CHAT, "messages"), (Endpoint.MESSAGES, "messages"), (Endpoint.RESPONSES, "input")],
)
def test_a_prompt_that_fits_nowhere_is_the_callers_error(endpoint: Endpoint, param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        candidates(KNOWN, request(words(8000), endpoint=endpoint), ADAPTERS)
    error = caught.value
    assert (error.reason, error.param, error.origin) == (Reason.CONTEXT_LENGTH_EXCEEDED, param, "user")
    assert "at least 8000 tokens, and 8000 are the longest context" in error.description


def test_how_long_a_prompt_is_can_be_asked_where_it_fits_nowhere() -> None:
    assert TokenEstimate(Fixed(KNOWN), ADAPTERS)(request(words(9000))) > 9000
    with pytest.raises(GatewayError, match="no model"):
        TokenEstimate(Fixed(KNOWN), ADAPTERS)(request(words(9000), model="a/none"))


@pytest.mark.parametrize(
    "text", ["The quick brown fox. " * 50, "    return value\n" * 50, "Überraschungsgäste " * 50, "人工知能" * 50]
)
def test_texts_of_any_kind_are_taken_for_shorter_than_they_are(text: str) -> None:
    """Tokenisers make about a token of four letters of English, of fewer in any other language."""
    assert least_tokens(request(Text(text))) < len(text) / 6


def test_tools_count_and_their_schemas_are_left_out_of_account() -> None:
    asked = replace(request(), tools=(FunctionTool("x" * 80, "y" * 720),))
    assert least_tokens(asked) == 101


@given(
    st.lists(st.none() | st.integers(1, 3000), min_size=1, max_size=6),
    st.integers(2, 3000),
    st.none() | st.integers(1, 3000),
    st.booleans(),
)
def test_nobody_who_might_have_room_is_left_out_unless_another_has(
    lengths: list[int | None], prompt: int, most: int | None, of_one_model: bool
) -> None:
    asked = request(words(prompt), most=most)
    if not of_one_model:
        names = tuple(f"a/m{index}:free" for index in range(1, len(lengths)))
        asked = replace(asked, model="a/m0:free", routing=RoutingPreferences(fallback_models=names))

    def having(room: int) -> list[int | None]:
        return [length for length in lengths if length is None or length >= room]

    expected = having(prompt + (most or 1)) or having(prompt + 1)
    if of_one_model:
        expected = having(count_prompt(asked) + (most or 1)) or expected
    if not expected:
        with pytest.raises(GatewayError, match="too long"):
            candidates(catalog(context_length=lengths), asked, ADAPTERS)
        return
    left, _ = sorted_out(catalog(context_length=lengths), asked)
    assert [lengths[int(name[1:])] for name in left] == expected


def at(input_usd: int, *tiers: PriceTier) -> PriceList:
    return PriceList({"input_text_tokens": input_usd * 10**9, "output_text_tokens": 10**9}, tiers)


LONG = PriceTier({"input_text_tokens": 3 * 10**9}, input_tokens_above=1000)
PRIORITY = PriceTier({"output_text_tokens": 9 * 10**9}, service_tier="priority")
PRICES = catalog(prices=[at(1), at(2), at(1, LONG), at(1, PRIORITY)])
ONE, NONE = MaxPrice(prompt="1", completion="1"), MaxPrice(prompt="0.99")


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        (request(), ["p0", "p1", "p2", "p3"]),
        (request(max_price=ONE), ["p0", "p2", "p3"]),
        (request(max_price=MaxPrice(prompt="2")), ["p0", "p1", "p2", "p3"]),
        (request(max_price=MaxPrice(completion="1.0")), ["p0", "p1", "p2", "p3"]),
        (request(words(1000), max_price=ONE), ["p0", "p3"]),
        (replace(request(max_price=ONE), passthrough={"service_tier": Raw(b'"auto"')}), ["p0", "p2", "p3"]),
        (replace(request(max_price=ONE, only=("p3",)), passthrough={"service_tier": Raw(b'"priority"')}), []),
        (request(max_price=NONE), []),
    ],
)
def test_a_price_cap_holds_for_what_this_request_would_cost(asked: GenerationRequest, left: list[str]) -> None:
    if not left:
        with pytest.raises(GatewayError) as caught:
            candidates(PRICES, asked, ADAPTERS)
        assert (caught.value.reason, caught.value.param) == (Reason.INVALID_VALUE, "provider.max_price")
        return
    kept, why = sorted_out(PRICES, asked)
    assert kept == left
    assert why == [(f"p{index}", "above_max_price") for index in range(4) if f"p{index}" not in left]


REGIONS = catalog(
    provider=[
        Provider("p0", "openai", "", region="eu"),
        Provider("p1", "openai", "", region="us"),
        Provider("p2", "openai", ""),
    ]
)


@pytest.mark.parametrize(
    ("regions", "left"), [(None, ["p0", "p1", "p2"]), (("eu",), ["p0"]), (("us", "eu"), ["p0", "p1"])]
)
def test_a_team_stays_in_its_regions(regions: tuple[str, ...] | None, left: list[str]) -> None:
    """Who has not said where they are is in none."""
    route = candidates(REGIONS, request(), ADAPTERS, policy=TeamPolicy(regions=regions))
    assert [one.offer.provider.id for one in route.candidates] == left
    assert [row.outcome for row in route.rejected] == ["outside_region"] * (3 - len(left))


def test_a_model_that_is_outside_a_teams_regions_is_refused() -> None:
    with pytest.raises(GatewayError) as caught:
        candidates(REGIONS, request(model="a/m1:free"), ADAPTERS, policy=TeamPolicy(regions=("eu", "ch")))
    assert (caught.value.reason, caught.value.param) == (Reason.UNSUPPORTED_ENDPOINT, "model")
    assert 'a region that this team may use; these are "eu", "ch"' in caught.value.description


@pytest.mark.parametrize(
    ("asked", "of_team", "expected"),
    [(None, None, "balanced"), (None, "latency", "latency"), ("price", "latency", "price"), ("price", None, "price")],
)
def test_what_a_team_prefers_holds_where_a_request_says_nothing(
    asked: Sort | None, of_team: Sort | None, expected: str
) -> None:
    ranker = RankByHealth(steady(HandClock()))
    traced = replace(request(sort=asked), trace=True)
    route = candidates(KNOWN, traced, ADAPTERS, ranker, policy=TeamPolicy(sort=of_team))
    assert route.choice is not None
    assert route.choice.mode == expected


def test_an_order_of_filters_names_what_stands_in_the_way_first() -> None:
    """A request that breaks several rules is told of the one that it would meet first whatever else it changed."""
    found = catalog(input_types=[TEXT], context_length=[10])
    with pytest.raises(GatewayError) as caught:
        candidates(found, request(IMAGE, words(100), max_price=MaxPrice(prompt="0")), ADAPTERS)
    assert caught.value.param == "messages[1].content"
