"""Which offers a request may go to, in what order, and what a client is told where there is none."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from server.domain.catalog import Catalog, Dialect, Model, Offer, Provider
from server.domain.errors import GatewayError, Reason
from server.domain.events import ProviderStream
from server.domain.money import nanos
from server.domain.ports import ProviderAdapter
from server.domain.pricing import PriceList, PriceTier
from server.domain.request import Endpoint, GenerationRequest, MaxPrice, Role, RoutingPreferences, Text, Turn
from server.domain.restrictions import Restrictions
from server.domain.work import Work
from server.pipeline.route import MAX_FALLBACK_MODELS, candidates

CHAT = frozenset({Endpoint.CHAT})
BOTH = frozenset({Endpoint.CHAT, Endpoint.RESPONSES})
X = Provider("x", "openai", "http://x")
Y = Provider("y", "openai", "http://y")
LOCAL = Provider("local", "openai", "http://local")
KEYLESS = Provider("keyless", "openai", "http://k", missing_key_env="KEYLESS_KEY")
STOPPED = Provider("stopped", "openai", "", unavailable_reason="run the thing")
GEMINI = Provider("gemini", "gemini", "http://g")


class Dialects:
    """A dialect that cannot say `audio`; nothing of it is ever called."""

    endpoints = frozenset(Endpoint)

    def supports(self, offer: Offer, request: Work) -> str | None:
        return request.parameters.get("audio")

    def stream(self, offer: Offer, request: Work) -> ProviderStream:
        raise NotImplementedError


ADAPTERS: Mapping[Dialect, ProviderAdapter] = {"openai": Dialects()}


def price(input_usd: str, output_usd: str, *tiers: str) -> PriceList:
    rates = {"input_text_tokens": nanos(input_usd), "output_text_tokens": nanos(output_usd)}
    return PriceList(rates, tuple(PriceTier(rates, service_tier=tier) for tier in tiers))


def offer(provider: Provider, *params: str, model: str = "m", **rest: Any) -> Offer:
    endpoints = rest.pop("endpoints", BOTH)
    return Offer(provider, model, endpoints, frozenset(params) if params else None, rest.pop("price", PriceList()))


MODELS = (
    Model(
        "a/two",
        (offer(X, "temperature", "seed", price=price("2", "4")), offer(Y, "temperature", price=price("1", "2"))),
        aliases=("two",),
    ),
    Model("b/other", (offer(Y, model="other"),)),
    Model("c/keyless:free", (offer(KEYLESS), offer(STOPPED))),
    Model("d/half:free", (offer(KEYLESS), offer(X))),
    Model("e/chat-only", (offer(X, endpoints=CHAT),)),
    Model("f/gemini", (offer(GEMINI),)),
    Model("g/retired", (offer(X),), status="retired"),
    Model("h/disjoint", (offer(X, "seed"), offer(Y, "top_p"))),
    Model("i/tiers", (offer(X, price=price("1", "2", "flex")), offer(Y, price=price("1", "2", "flex", "priority")))),
    Model("local/tiny:free", (offer(LOCAL, "temperature", endpoints=CHAT),)),
)  # fmt: skip
CATALOG = Catalog(
    {provider.id: provider for provider in (X, Y, LOCAL, KEYLESS, STOPPED, GEMINI)},
    {model.id: model for model in MODELS},
    {"two": "a/two"},
)


def request(model: str, endpoint: Endpoint = Endpoint.CHAT, **rest: Any) -> GenerationRequest:
    parameters, options = rest.pop("parameters", {}), rest.pop("options", {})
    passthrough = {name: msgspec.Raw(value) for name, value in rest.pop("passthrough", {}).items()}
    turns = (Turn(Role.USER, (Text("hi"),)),)
    return GenerationRequest(
        endpoint=endpoint,
        model=model,
        turns=turns,
        parameters=parameters,
        passthrough=passthrough,
        provider_options=options,
        routing=RoutingPreferences(**rest),
    )


def tier(json: str, model: str = "i/tiers", **rest: Any) -> GenerationRequest:
    """A request for a service tier, as the JSON that the client gave."""
    named = {"service_tier": "service_tier"}
    return request(model, parameters=named, passthrough={"service_tier": json.encode()}, **rest)


def optional_tier(provider: str, word: str) -> GenerationRequest:
    """A request that asks one provider for a tier, past the parameter."""
    return request("i/tiers", options={provider: {"service_tier": msgspec.Raw(f'"{word}"'.encode())}})


def went(asked: GenerationRequest, catalog: Catalog = CATALOG) -> list[str]:
    route = candidates(catalog, asked, ADAPTERS)
    return [f"{candidate.model.id} by {candidate.offer.provider.id}" for candidate in route.candidates]


def refused(asked: GenerationRequest, catalog: Catalog = CATALOG) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        candidates(catalog, asked, ADAPTERS)
    return caught.value


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request("a/two"), ["a/two by x", "a/two by y"]),
        (request("two"), ["a/two by x", "a/two by y"]),
        (request("y:a/two"), ["a/two by y"]),
        (request("y:two"), ["a/two by y"]),
        (request("local:local/tiny:free"), ["local/tiny:free by local"]),
        (request("d/half:free"), ["d/half:free by x"]),
        (request("a/two", order=("y",)), ["a/two by y", "a/two by x"]),
        (request("a/two", order=("y", "x", "y")), ["a/two by y", "a/two by x"]),
        (request("a/two", order=("local",)), ["a/two by x", "a/two by y"]),
        (request("a/two", only=("y",)), ["a/two by y"]),
        (request("a/two", ignore=("x",)), ["a/two by y"]),
        (request("a/two", allow_fallbacks=False), ["a/two by x"]),
        (request("a/two", allow_fallbacks=False, order=("y",)), ["a/two by y"]),
        (request("a/two", sort="price"), ["a/two by y", "a/two by x"]),
        (request("a/two", sort="price", order=("x",)), ["a/two by x", "a/two by y"]),
        (request("a/two", max_price=MaxPrice(prompt="1.5")), ["a/two by y"]),
        (request("a/two", max_price=MaxPrice(prompt="1e999999")), ["a/two by x", "a/two by y"]),
        (tier('"flex"'), ["i/tiers by x", "i/tiers by y"]),
        (tier('"priority"'), ["i/tiers by y"]),
        (tier('"auto"'), ["i/tiers by x", "i/tiers by y"]),
        (tier('"default"'), ["i/tiers by x", "i/tiers by y"]),
        (tier("null"), ["i/tiers by x", "i/tiers by y"]),
        (tier('"priority"', "b/other"), ["b/other by y"]),
        (optional_tier("x", "priority"), ["i/tiers by y"]),
        (optional_tier("x", "flex"), ["i/tiers by x", "i/tiers by y"]),
        (optional_tier("local", "priority"), ["i/tiers by x", "i/tiers by y"]),
        (request("a/two", max_price=MaxPrice(completion="4")), ["a/two by x", "a/two by y"]),
        (request("a/two", parameters={"seed": "seed"}), ["a/two by x"]),
        (request("a/two", parameters={"seed": "seed"}, require_parameters=False), ["a/two by x", "a/two by y"]),
        (request("b/other", parameters={"seed": "seed"}), ["b/other by y"]),
        (request("a/two", fallback_models=("b/other",)), ["a/two by x", "a/two by y", "b/other by y"]),
        (request("a/two", fallback_models=("b/other",), order=("y",)), ["a/two by y", "a/two by x", "b/other by y"]),
        (request("a/two", fallback_models=("two", "a/two")), ["a/two by x", "a/two by y"]),
        (request("b/other", fallback_models=("y:a/two",)), ["b/other by y", "a/two by y"]),
        (request("x:a/two", fallback_models=("b/other",)), ["a/two by x"]),
        (request("c/keyless:free", fallback_models=("b/other",)), ["b/other by y"]),
        (request("e/chat-only", Endpoint.RESPONSES, fallback_models=("b/other",)), ["b/other by y"]),
        (request("a/two", allow_fallbacks=False, fallback_models=("b/other",)), ["a/two by x"]),
        (request("a/two", allow_fallbacks=False, fallback_models=("y:two",)), ["a/two by x"]),
    ],
)  # fmt: skip
def test_where_a_request_goes(asked: GenerationRequest, expected: list[str]) -> None:
    assert went(asked) == expected


def test_a_fallback_model_keeps_the_limits_on_providers() -> None:
    """`b/other` is offered by y alone, and y is not allowed."""
    assert went(request("a/two", fallback_models=("b/other",), only=("x",))) == ["a/two by x"]


@pytest.mark.parametrize(
    ("asked", "outcomes"),
    [
        (request("a/two"), []),
        (request("a/two", parameters={"seed": "seed"}), [("y", "unsupported_parameter")]),
        (request("a/two", only=("y",)), [("x", "not_allowed")]),
        (request("d/half:free"), [("keyless", "not_configured")]),
        (request("x:a/two"), [("y", "not_pinned")]),
        (request("a/two", allow_fallbacks=False), [("y", "fallback_not_allowed")]),
        (request("e/chat-only", allow_fallbacks=False, fallback_models=("b/other",)), [("y", "fallback_not_allowed")]),
        (request("a/two", max_price=MaxPrice(prompt="1")), [("x", "above_max_price")]),
        (request("f/gemini", fallback_models=("b/other",)), [("gemini", "endpoint_not_served")]),
    ],
)
def test_what_was_left_out_is_told(asked: GenerationRequest, outcomes: list[tuple[str, str]]) -> None:
    rejected = candidates(CATALOG, asked, ADAPTERS).rejected
    assert [(row.provider, row.outcome) for row in rejected] == outcomes


@pytest.mark.parametrize(
    ("asked", "reason", "param", "said"),
    [
        (request("a/tow"), Reason.UNKNOWN_MODEL, "model", 'There is no model "a/tow". Did you mean "a/two"'),
        (request("LOCAL/TINY:FREE"), Reason.UNKNOWN_MODEL, "model", 'Did you mean "local/tiny:free"'),
        (request("zzzzzzzz"), Reason.UNKNOWN_MODEL, "model", "GET /v1/models lists them."),
        (request(""), Reason.UNKNOWN_MODEL, "model", 'There is no model "".'),
        (request("nobody:a/two"), Reason.UNKNOWN_MODEL, "model", 'There is no model "nobody:a/two"'),
        (request("x:zzzzzz"), Reason.UNKNOWN_MODEL, "model", 'There is no model "x:zzzzzz"'),
        (request("a/two", fallback_models=("b/other", "q")), Reason.UNKNOWN_MODEL, "models[1]", 'no model "q"'),
        (request("g/retired"), Reason.UNKNOWN_MODEL, "model", "has been retired"),
        (request("local:a/two"), Reason.UNSUPPORTED_ENDPOINT, "model",
         'The provider "local" does not offer "a/two"; these do: "x", "y".'),
        (request("e/chat-only", Endpoint.RESPONSES), Reason.UNSUPPORTED_ENDPOINT, "model",
         'No provider serves "e/chat-only" on the endpoint responses; it has "chat".'),
        (request("f/gemini"), Reason.UNSUPPORTED_ENDPOINT, "model", "does not speak their dialect"),
        (request("a/two", only=("x", "nope")), Reason.INVALID_VALUE, "provider.only[1]", 'no provider "nope"'),
        (request("a/two", order=("nope",)), Reason.INVALID_VALUE, "provider.order[0]", 'no provider "nope"'),
        (request("a/two", ignore=("nope",)), Reason.INVALID_VALUE, "provider.ignore[0]", 'no provider "nope"'),
        (request("a/two", only=("local",)), Reason.INVALID_VALUE, "provider.only", 'these serve it: "x", "y"'),
        (request("a/two", ignore=("x", "y")), Reason.INVALID_VALUE, "provider.ignore", "leaves no provider"),
        (request("x:a/two", ignore=("x",)), Reason.INVALID_VALUE, "provider.ignore", "leaves no provider"),
        (request("a/two", max_price=MaxPrice(prompt="0.5")), Reason.INVALID_VALUE, "provider.max_price", "dearer"),
        (request("a/two", max_price=MaxPrice(prompt="cheap")), Reason.INVALID_VALUE, "provider.max_price.prompt",
         "must be USD per million tokens"),
        (request("a/two", max_price=MaxPrice(completion="NaN")), Reason.INVALID_VALUE,
         "provider.max_price.completion", "must be USD per million tokens"),
        (request("a/two", parameters={"max_output_tokens": "max_tokens"}), Reason.UNSUPPORTED_PARAMETER,
         "max_tokens", 'supports "max_tokens"'),
        (request("y:a/two", parameters={"temperature": "temperature", "seed": "seed"}), Reason.UNSUPPORTED_PARAMETER,
         "seed", 'supports "seed"'),
        (request("b/other", parameters={"audio": "audio"}), Reason.UNSUPPORTED_PARAMETER, "audio", "audio"),
        (request("b/other", parameters={"audio": "audio"}, require_parameters=False), Reason.UNSUPPORTED_PARAMETER,
         "audio", "audio"),
        (tier('"scale"'), Reason.UNSUPPORTED_PARAMETER, "service_tier", 'supports "service_tier"'),
        (tier('"scale"', require_parameters=False), Reason.UNSUPPORTED_PARAMETER, "service_tier", "service_tier"),
        (tier("7"), Reason.UNSUPPORTED_PARAMETER, "service_tier", "service_tier"),
        (tier('"priority"', only=("x",)), Reason.UNSUPPORTED_PARAMETER, "service_tier", "service_tier"),
        (tier('"flex"', "a/two"), Reason.UNSUPPORTED_PARAMETER, "service_tier", "service_tier"),
        (request("h/disjoint", parameters={"seed": "seed", "top_p": "top_p"}), Reason.UNSUPPORTED_PARAMETER,
         "top_p", 'supports all of these together: "seed", "top_p"'),
        (request("h/disjoint", parameters={"seed": "seed", "logprobs": "include"}), Reason.UNSUPPORTED_PARAMETER,
         "include", 'supports "include"'),
        (request("a/two", fallback_models=("b/other",) * (MAX_FALLBACK_MODELS + 1)), Reason.INVALID_VALUE, "models",
         "at most 16"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_named(asked: GenerationRequest, reason: Reason, param: str, said: str) -> None:
    error = refused(asked)
    assert (error.reason, error.param) == (reason, param)
    assert said in error.description


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (
            request("c/keyless:free", allow_fallbacks=False, fallback_models=("b/other",)),
            Reason.PROVIDER_NOT_CONFIGURED,
        ),
        (request("a/two", allow_fallbacks=False, fallback_models=("q",)), Reason.UNKNOWN_MODEL),
    ],
)
def test_no_fallback_is_none_to_another_model_either(asked: GenerationRequest, reason: Reason) -> None:
    assert refused(asked).reason is reason


def test_a_model_that_the_key_may_not_use_is_refused_whatever_comes_after_it() -> None:
    held_to = Restrictions(models=("b/*",))
    with pytest.raises(GatewayError) as caught:
        candidates(CATALOG, request("two", fallback_models=("b/other",)), ADAPTERS, held_to=held_to)
    assert (caught.value.reason, caught.value.param) == (Reason.MODEL_NOT_ALLOWED, "model")
    assert '"a/two"' in caught.value.description
    route = candidates(CATALOG, request("b/other", fallback_models=("a/two",)), ADAPTERS, held_to=held_to)
    assert [candidate.model.id for candidate in route.candidates] == ["b/other"]
    assert [(row.provider, row.outcome) for row in route.rejected] == [(p, "model_not_allowed") for p in ("x", "y")]


def test_a_model_without_a_configured_provider_names_the_variable_and_a_model_that_works() -> None:
    error = refused(request("c/keyless:free"))
    assert error.reason is Reason.PROVIDER_NOT_CONFIGURED
    assert error.param == "model"
    assert error.description == (
        'No provider of "c/keyless:free" is configured on this gateway. Its operator can set KEYLESS_KEY (provider '
        'keyless); or run the thing (provider stopped). "d/half:free" works now, without any key of a provider.'
    )


def test_only_a_free_model_that_serves_the_same_endpoint_is_named() -> None:
    models = {id_: CATALOG.models[id_] for id_ in ("c/keyless:free", "local/tiny:free")}
    catalog = msgspec.structs.replace(CATALOG, models=models)
    assert '"local/tiny:free" works now' in refused(request("c/keyless:free"), catalog).description
    assert "works now" not in refused(request("c/keyless:free", Endpoint.RESPONSES), catalog).description


def test_a_long_name_is_not_repeated_in_full() -> None:
    error = refused(request("x" * 1_000_000))
    assert error.reason is Reason.UNKNOWN_MODEL
    assert len(error.description) < 300
    assert len(refused(request("a/two", only=("y" * 1_000_000,))).description) < 500


def test_the_last_filter_is_what_the_operator_has_drained() -> None:
    route = candidates(CATALOG, request("a/two"), ADAPTERS, drained={"x"})
    assert [candidate.offer.provider.id for candidate in route.candidates] == ["y"]
    assert [(row.provider, row.outcome) for row in route.rejected] == [("x", "drained")]
    with pytest.raises(GatewayError) as caught:
        candidates(CATALOG, request("y:a/two", fallback_models=("b/other",)), ADAPTERS, drained={"y"})
    assert caught.value.reason is Reason.PROVIDERS_UNAVAILABLE
    assert caught.value.description.endswith('could serve this request out of service: "y".')
    with pytest.raises(GatewayError) as caught:
        candidates(CATALOG, request("a/two", parameters={"top_p": "top_p"}), ADAPTERS, drained={"x", "y"})
    assert caught.value.reason is Reason.UNSUPPORTED_PARAMETER
