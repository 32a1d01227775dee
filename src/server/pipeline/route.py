"""Which offers may serve a request, and in what order. As pure as its ranker: catalogue and request in, a route out.

Offers are sorted out step by step, and the first step that leaves none decides what the client is told.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

from msgspec.structs import replace

from server.domain.catalog import Catalog, Dialect, Model, Offer, Provider, split_pin
from server.domain.errors import GatewayError, Reason
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint, GenerationRequest, RoutingPreferences
from server.domain.routing import Candidate, Ranker, Route
from server.domain.usage import RoutingRow
from server.pipeline.service_tier import unpriced_tier

MAX_FALLBACK_MODELS: Final = 16
MAX_SHOWN_CHARS: Final = 100
"""Of what a client sent, this much at most is repeated in an error, or compared with what is known."""

_Rejected = list[RoutingRow]


def in_catalogue_order(found: Sequence[Candidate], request: GenerationRequest) -> Route:
    """The ranker that knows nothing but the catalogue and the request."""
    return Route(tuple(_in_order(found, request.routing)))


def candidates(
    catalog: Catalog,
    request: GenerationRequest,
    adapters: Mapping[Dialect, ProviderAdapter],
    rank: Ranker = in_catalogue_order,
) -> Route:
    """The offers to try, in order, and why the others are not among them.

    Raises GatewayError: `unknown_model`, `unsupported_endpoint`, `provider_not_configured`,
    `unsupported_parameter`, or `invalid_value` for wishes about providers that cannot be met.
    """
    wishes = request.routing
    _check_provider_names(catalog, request)
    pinned = _resolve(catalog, request.model, "model")[1] is not None
    found = list(_offers(catalog, request, pinned))
    rejected: _Rejected = []

    serving = _keep(found, rejected, "endpoint_not_served", lambda c: _serves(c, request.endpoint, adapters))
    if not serving:
        raise _unsupported_endpoint(catalog, found, request)
    allowed = serving
    if wishes.only or wishes.ignore:
        allowed = _keep(serving, rejected, "not_allowed", lambda c: _is_allowed(c.offer.provider.id, wishes))
    if not allowed:
        raise _nothing_allowed(serving, wishes)
    configured = _keep(allowed, rejected, "not_configured", lambda c: c.offer.provider.is_configured)
    if not configured:
        raise _not_configured(catalog, allowed, request, adapters)
    capable = _keep(configured, rejected, "unsupported_parameter", lambda c: not _lacking(c.offer, request, adapters))
    if not capable:
        raise _unsupported_parameter(configured, request, adapters)
    affordable = capable
    if wishes.max_price is not None:
        affordable = _keep(capable, rejected, "above_max_price", lambda c: _is_affordable(c.offer, wishes))
    if not affordable:
        raise GatewayError(
            Reason.INVALID_VALUE,
            "Every provider that could serve this request is dearer than provider.max_price.",
            param="provider.max_price",
        )

    if pinned or not wishes.allow_fallbacks:
        named = [candidate for candidate in affordable if candidate.offer.provider.id in wishes.order]
        route = rank(named or affordable, request)
        kept = route.candidates[:1]
        rejected += [_row(other, "fallback_not_allowed") for other in affordable if other is not kept[0]]
        return replace(route, candidates=kept, rejected=tuple(rejected), assessments=route.assessments[:1])
    route = rank(affordable, request)
    return replace(route, rejected=(*route.rejected, *rejected))


def _resolve(catalog: Catalog, name: str, param: str) -> tuple[Model, str | None]:
    """The model that a client's name means, and the provider that it is pinned to; `param` is where it stood."""
    model, pin = catalog.find(name), None
    if model is None:
        pin, bare = split_pin(name)
        model = catalog.find(bare) if pin in catalog.providers else None
    if model is None:
        raise GatewayError(Reason.UNKNOWN_MODEL, _unknown_model(catalog, name), param=param)
    if model.status == "retired":
        raise GatewayError(Reason.UNKNOWN_MODEL, f'The model "{model.id}" has been retired.', param=param)
    if pin is not None and not any(offer.provider.id == pin for offer in model.offers):
        offering = _listed([offer.provider.id for offer in model.offers])
        raise GatewayError(
            Reason.UNSUPPORTED_ENDPOINT,
            f'The provider "{pin}" does not offer "{model.id}"; these do: {offering}.',
            param=param,
        )
    return model, pin


def _offers(catalog: Catalog, request: GenerationRequest, pinned: bool) -> Iterator[Candidate]:
    """Every offer of the model and then of its fallback models, each once; a pinned model has no fallback."""
    fallbacks = () if pinned else request.routing.fallback_models
    if len(fallbacks) > MAX_FALLBACK_MODELS:
        raise GatewayError(Reason.INVALID_VALUE, f"models: at most {MAX_FALLBACK_MODELS} are allowed.", param="models")
    names = [(request.model, "model"), *((name, f"models[{i}]") for i, name in enumerate(fallbacks))]
    seen: set[tuple[str, str]] = set()
    for name, param in names:
        model, pin = _resolve(catalog, name, param)
        for offer in model.offers:
            key = (offer.provider.id, offer.provider_model)
            if pin in (None, offer.provider.id) and key not in seen:
                seen.add(key)
                yield Candidate(model, offer)


def _keep(
    found: Sequence[Candidate], rejected: _Rejected, outcome: str, wanted: Callable[[Candidate], bool]
) -> list[Candidate]:
    """Those that are wanted; a row for each of the others goes to `rejected`."""
    kept: list[Candidate] = []
    for candidate in found:
        if wanted(candidate):
            kept.append(candidate)
        else:
            rejected.append(_row(candidate, outcome))
    return kept


def _row(candidate: Candidate, outcome: str) -> RoutingRow:
    return RoutingRow(provider=candidate.offer.provider.id, outcome=outcome, score=0.0)


def _serves(candidate: Candidate, endpoint: Endpoint, adapters: Mapping[Dialect, ProviderAdapter]) -> bool:
    offer = candidate.offer
    return endpoint in offer.endpoints and offer.provider.dialect in adapters


def _is_allowed(provider_id: str, wishes: RoutingPreferences) -> bool:
    return provider_id not in wishes.ignore and (not wishes.only or provider_id in wishes.only)


def _lacking(offer: Offer, request: GenerationRequest, adapters: Mapping[Dialect, ProviderAdapter]) -> list[str]:
    """The parameters of the request that this offer cannot honour, as the client spells them.

    Without `require_parameters` the catalogue's list does not count, and what the dialect can say is sent.
    """
    lacking: list[str] = []
    if offer.params is not None and request.routing.require_parameters:
        lacking = [spelling for name, spelling in request.parameters.items() if name not in offer.params]
    inexpressible = adapters[offer.provider.dialect].supports(offer, request)
    more = (inexpressible, unpriced_tier(offer, request))
    return [*lacking, *(spelling for spelling in more if spelling is not None and spelling not in lacking)]


def _is_affordable(offer: Offer, wishes: RoutingPreferences) -> bool:
    if wishes.max_price is None:
        return True
    limits = (
        ("input_text_tokens", wishes.max_price.prompt, "provider.max_price.prompt"),
        ("output_text_tokens", wishes.max_price.completion, "provider.max_price.completion"),
    )
    return all(
        limit is None or Decimal(offer.prices.rates.get(dimension, 0)).scaleb(-9) <= _decimal(limit, param)
        for dimension, limit, param in limits
    )


def _decimal(text: str, param: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise GatewayError(
            Reason.INVALID_VALUE, f'{param} must be USD per million tokens, such as "0.50".', param=param
        )
    return value


def _in_order(found: Sequence[Candidate], wishes: RoutingPreferences) -> list[Candidate]:
    """The catalogue's order, or by price where asked, with the providers of `provider.order` before all others.

    A model always comes before its fallback models.
    """
    if len(found) == 1:
        return list(found)
    models = {id_: rank for rank, id_ in enumerate(dict.fromkeys(c.model.id for c in found))}
    order = {provider_id: rank for rank, provider_id in reversed(list(enumerate(wishes.order)))}

    def rank(candidate: Candidate) -> tuple[int, int, int]:
        price = sum(candidate.offer.prices.rates.values()) if wishes.sort == "price" else 0
        preferred = order.get(candidate.offer.provider.id, len(wishes.order))
        return models[candidate.model.id], preferred, price

    return sorted(found, key=rank)


def _check_provider_names(catalog: Catalog, request: GenerationRequest) -> None:
    """A misspelt provider is an error, above all in `ignore`: it would get what it must not see."""
    wishes = request.routing
    for field, names in (("order", wishes.order), ("only", wishes.only), ("ignore", wishes.ignore)):
        for index, name in enumerate(names):
            if name not in catalog.providers:
                param = f"provider.{field}[{index}]"
                known = _listed(sorted(catalog.providers))
                description = f'{param}: there is no provider "{_shown(name)}"; known are {known}.'
                raise GatewayError(Reason.INVALID_VALUE, description, param=param)
    for name in request.provider_options:
        if name not in catalog.providers:
            param = f"provider_options.{_shown(name)}"
            description = f"{param}: there is no such provider; known are {_listed(sorted(catalog.providers))}."
            raise GatewayError(Reason.INVALID_VALUE, description, param=param)


def _unknown_model(catalog: Catalog, name: str) -> str:
    text = f'There is no model "{_shown(name)}".'
    if len(name) > MAX_SHOWN_CHARS:
        return text
    known = {known_name.lower(): known_name for known_name in (*catalog.models, *catalog.aliases)}
    near = [known[match] for match in difflib.get_close_matches(name.lower(), known, n=3)]
    return f"{text} Did you mean {_listed(near)}?" if near else f"{text} GET /v1/models lists them."


def _unsupported_endpoint(catalog: Catalog, found: Sequence[Candidate], request: GenerationRequest) -> GatewayError:
    model, _ = _resolve(catalog, request.model, "model")
    endpoints = sorted({endpoint.value for candidate in found for endpoint in candidate.offer.endpoints})
    if request.endpoint.value in endpoints:
        text = f'No provider of "{model.id}" can be reached: this gateway does not speak their dialect.'
    else:
        serves = _listed(endpoints) or "no endpoint"
        text = f'No provider serves "{model.id}" on the endpoint {request.endpoint.value}; it has {serves}.'
    return GatewayError(Reason.UNSUPPORTED_ENDPOINT, text, param="model")


def _nothing_allowed(serving: Sequence[Candidate], wishes: RoutingPreferences) -> GatewayError:
    offering = _listed(list(dict.fromkeys(candidate.offer.provider.id for candidate in serving)))
    param = "provider.only" if wishes.only else "provider.ignore"
    text = f"{param} leaves no provider for this model; these serve it: {offering}."
    return GatewayError(Reason.INVALID_VALUE, text, param=param)


def _not_configured(
    catalog: Catalog,
    allowed: Sequence[Candidate],
    request: GenerationRequest,
    adapters: Mapping[Dialect, ProviderAdapter],
) -> GatewayError:
    model = allowed[0].model
    providers = {candidate.offer.provider.id: candidate.offer.provider for candidate in allowed}
    remedies = "; or ".join(_remedy(provider) for provider in providers.values())
    text = f'No provider of "{model.id}" is configured on this gateway. Its operator can {remedies}.'
    free = _free_model(catalog, request.endpoint, adapters)
    if free is not None:
        text += f' "{free.id}" works now, without any key of a provider.'
    return GatewayError(Reason.PROVIDER_NOT_CONFIGURED, text, param="model")


def _remedy(provider: Provider) -> str:
    return f"{provider.remedy} (provider {provider.id})"


def _free_model(catalog: Catalog, endpoint: Endpoint, adapters: Mapping[Dialect, ProviderAdapter]) -> Model | None:
    """The first model that costs nothing and answers on this endpoint now."""
    for model in catalog.models.values():
        for offer in model.offers:
            serves = _serves(Candidate(model, offer), endpoint, adapters)
            if model.is_free and model.status != "retired" and serves and offer.provider.is_configured:
                return model
    return None


def _unsupported_parameter(
    configured: Sequence[Candidate], request: GenerationRequest, adapters: Mapping[Dialect, ProviderAdapter]
) -> GatewayError:
    """Name a parameter that none supports; where each lacks another one, the first of the first candidate."""
    lacking = [_lacking(candidate.offer, request, adapters) for candidate in configured]
    common = [spelling for spelling in lacking[0] if all(spelling in other for other in lacking)]
    if common:
        param = common[0]
        text = f'No provider of "{configured[0].model.id}" that is configured here supports "{param}".'
    else:
        param = lacking[0][0]
        together = _listed(sorted({spelling for one in lacking for spelling in one}))
        text = f'No single provider of "{configured[0].model.id}" supports all of these together: {together}.'
    return GatewayError(Reason.UNSUPPORTED_PARAMETER, text, param=param)


def _shown(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
