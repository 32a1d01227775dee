"""Which offers may serve a request, and in what order. As pure as its ranker: catalogue and request in, a route out.

Offers are sorted out step by step, and the first step that leaves none decides what the client is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from msgspec.structs import replace

from server.domain.catalog import Catalog, Dialect, Model, Offer, split_pin
from server.domain.errors import GatewayError, Reason
from server.domain.identity import TeamPolicy
from server.domain.ports import Capable
from server.domain.request import Endpoint, Request, RoutingPreferences
from server.domain.restrictions import Restrictions
from server.domain.routing import Candidate, Ranker, Route
from server.domain.usage import RoutingRow
from server.domain.work import Work
from server.pipeline.fit import made, makes, media, media_refused, room_for, takes, too_long
from server.pipeline.price_cap import price_cap
from server.pipeline.route_refusals import (
    all_drained,
    listed,
    model_not_allowed,
    not_configured,
    not_made,
    nothing_allowed,
    outside,
    provider_not_allowed,
    shown,
    too_dear,
    unknown_model,
    unsupported_endpoint,
    unsupported_parameter,
)
from server.pipeline.service_tier import unpriced_tier

MAX_FALLBACK_MODELS: Final = 16
_NO_POLICY: Final = TeamPolicy()
_FREE: Final = Restrictions()


class _Sieve:
    """Candidates that go through filter after filter; `rejected` has a row for each that did not pass one."""

    def __init__(self, found: Iterable[Candidate], rejected: list[RoutingRow]) -> None:
        self.left = list(found)
        self.rejected = rejected

    def keep(
        self,
        outcome: str,
        wanted: Callable[[Candidate], bool],
        refusal: Callable[[Sequence[Candidate]], GatewayError],
    ) -> None:
        """Keep those that are wanted. Raises what `refusal` says of all that are left, where none is."""
        kept: list[Candidate] = []
        for candidate in self.left:
            if wanted(candidate):
                kept.append(candidate)
            else:
                self.rejected.append(_row(candidate, outcome))
        if not kept:
            raise refusal(self.left)
        self.left = kept


def in_catalogue_order(found: Sequence[Candidate], request: Request) -> Route:
    """The ranker that knows nothing but the catalogue and the request."""
    return Route(tuple(_in_order(found, request.routing)))


def candidates(
    catalog: Catalog,
    request: Work,
    adapters: Mapping[Dialect, Capable],
    rank: Ranker = in_catalogue_order,
    drained: Collection[str] = (),
    policy: TeamPolicy = _NO_POLICY,
    held_to: Restrictions = _FREE,
) -> Route:
    """The offers to try, in order, and why the others are not among them. No provider in `drained` is.

    What `policy` prefers holds where the request says nothing; the regions that it names hold for every request. So do
    the models and providers that the caller's key is held to.

    Raises GatewayError: `unknown_model`, `model_not_allowed`, `provider_not_allowed`, `unsupported_endpoint`,
    `provider_not_configured`, `unsupported_parameter`, `context_length_exceeded`, `invalid_value` for wishes about
    providers that cannot be met, or `providers_unavailable` where all that could serve it are drained.
    """
    wishes = request.routing
    _check_provider_names(catalog, request)
    rejected: list[RoutingRow] = []
    asked = _resolve(catalog, request.model, "model")
    pinned = asked[1] is not None
    sieve = _Sieve(_offers(catalog, request, asked, rejected), rejected)
    if not held_to.allows_model(asked[0]):
        raise model_not_allowed(sieve.left)
    if held_to.models is not None:
        sieve.keep("model_not_allowed", lambda one: held_to.allows_model(one.model), model_not_allowed)
    sieve.keep(
        "endpoint_not_served",
        lambda one: _serves(one, request.endpoint, adapters),
        lambda left: unsupported_endpoint(left, request.endpoint),
    )
    if wishes.only or wishes.ignore:
        sieve.keep(
            "not_allowed",
            lambda one: _is_allowed(one.offer.provider.id, wishes),
            lambda left: nothing_allowed(left, wishes),
        )
    if held_to.providers is not None:
        sieve.keep(
            "provider_not_allowed", lambda one: held_to.allows_provider(one.offer.provider.id), provider_not_allowed
        )
    if (regions := policy.regions) is not None:
        sieve.keep(
            "outside_region", lambda one: one.offer.provider.region in regions, lambda left: outside(left, regions)
        )
    sieve.keep(
        "not_configured",
        lambda one: one.offer.provider.is_configured,
        lambda left: not_configured(left, _free_model(catalog, request.endpoint, adapters)),
    )
    if any(one.offer.input_types for one in sieve.left) and (kinds := media(request)):
        sieve.keep("input_type_not_taken", lambda one: takes(one.offer, kinds), lambda left: media_refused(left, kinds))
    if kind := made(request):
        sieve.keep("output_type_not_made", lambda one: makes(one.offer, kind), lambda left: not_made(left, kind))
    sieve.keep(
        "unsupported_parameter",
        lambda one: not _lacking(one.offer, request, adapters),
        lambda left: unsupported_parameter(
            left[0].model, [_lacking(one.offer, request, adapters) for one in left], request
        ),
    )
    if wishes.max_price is not None:
        sieve.keep("above_max_price", price_cap(request, wishes.max_price), too_dear)
    if has_room := room_for(sieve.left, request):
        sieve.keep("context_too_short", has_room, lambda left: too_long(left, request))
    if drained:
        sieve.keep("drained", lambda one: one.offer.provider.id not in drained, all_drained)

    if policy.sort is not None and wishes.sort is None:
        request = replace(request, routing=replace(wishes, sort=policy.sort))
    if pinned or not wishes.allow_fallbacks:
        named = [candidate for candidate in sieve.left if candidate.offer.provider.id in wishes.order]
        route = rank(named or sieve.left, request)
        kept = route.candidates[:1]
        rejected += [_row(other, "fallback_not_allowed") for other in sieve.left if other is not kept[0]]
        return replace(route, candidates=kept, rejected=tuple(rejected), assessments=route.assessments[:1])
    route = rank(sieve.left, request)
    return replace(route, rejected=(*route.rejected, *rejected)) if rejected else route


def _resolve(catalog: Catalog, name: str, param: str) -> tuple[Model, str | None]:
    """The model that a client's name means, and the provider that it is pinned to; `param` is where it stood."""
    model, pin = catalog.find(name), None
    if model is None:
        pin, bare = split_pin(name)
        model = catalog.find(bare) if pin in catalog.providers else None
    if model is None:
        raise unknown_model(catalog, name, param)
    if model.status == "retired":
        raise GatewayError(Reason.UNKNOWN_MODEL, f'The model "{model.id}" has been retired.', param=param)
    if pin is not None and not any(offer.provider.id == pin for offer in model.offers):
        offering = listed([offer.provider.id for offer in model.offers])
        raise GatewayError(
            Reason.UNSUPPORTED_ENDPOINT,
            f'The provider "{pin}" does not offer "{model.id}"; these do: {offering}.',
            param=param,
        )
    return model, pin


def _offers(
    catalog: Catalog, request: Request, named: tuple[Model, str | None], rejected: list[RoutingRow]
) -> Iterator[Candidate]:
    """Every offer of the model `named` and then of its fallback models, each once; a pinned model has no fallback.

    Nor has a request that allows none: rows say what it might have been.
    """
    fallbacks = () if named[1] is not None else request.routing.fallback_models
    if len(fallbacks) > MAX_FALLBACK_MODELS:
        raise GatewayError(Reason.INVALID_VALUE, f"models: at most {MAX_FALLBACK_MODELS} are allowed.", param="models")
    others = (_resolve(catalog, name, f"models[{i}]") for i, name in enumerate(fallbacks))
    seen: set[tuple[str, str]] = set()
    for model, pin in chain((named,), others):
        for offer in model.offers:
            key = (offer.provider.id, offer.provider_model)
            if pin not in (None, offer.provider.id):
                rejected.append(_row(Candidate(model, offer), "not_pinned"))
            elif key not in seen:
                seen.add(key)
                if model is named[0] or request.routing.allow_fallbacks:
                    yield Candidate(model, offer)
                else:
                    rejected.append(_row(Candidate(model, offer), "fallback_not_allowed"))


def _row(candidate: Candidate, outcome: str) -> RoutingRow:
    return RoutingRow(provider=candidate.offer.provider.id, outcome=outcome, score=0.0)


def _serves(candidate: Candidate, endpoint: Endpoint, adapters: Mapping[Dialect, Capable]) -> bool:
    offer = candidate.offer
    adapter = adapters.get(offer.provider.dialect)
    return endpoint in offer.endpoints and adapter is not None and endpoint in adapter.endpoints


def _is_allowed(provider_id: str, wishes: RoutingPreferences) -> bool:
    return provider_id not in wishes.ignore and (not wishes.only or provider_id in wishes.only)


def _lacking(offer: Offer, request: Work, adapters: Mapping[Dialect, Capable]) -> list[str]:
    """The parameters of the request that this offer cannot honour, as the client spells them.

    Without `require_parameters` the catalogue's list does not count, and what the dialect can say is sent.
    """
    lacking: list[str] = []
    if offer.params is not None and request.routing.require_parameters:
        lacking = [spelling for name, spelling in request.parameters.items() if name not in offer.params]
    inexpressible = adapters[offer.provider.dialect].supports(offer, request)
    more = (inexpressible, unpriced_tier(offer, request))
    return [*lacking, *(spelling for spelling in more if spelling is not None and spelling not in lacking)]


def _in_order(found: Sequence[Candidate], wishes: RoutingPreferences) -> list[Candidate]:
    """The catalogue's order, or by price where asked, with the providers of `provider.order` before all others.

    A model always comes before its fallback models.
    """
    if len(found) == 1:
        return list(found)
    models = {id_: rank for rank, id_ in enumerate(dict.fromkeys(c.model.id for c in found))}
    order = {provider_id: rank for rank, provider_id in reversed(list(enumerate(wishes.order)))}

    def rank(candidate: Candidate) -> tuple[int, int, int]:
        price = candidate.offer.prices.compared if wishes.sort == "price" else 0
        preferred = order.get(candidate.offer.provider.id, len(wishes.order))
        return models[candidate.model.id], preferred, price

    return sorted(found, key=rank)


def _check_provider_names(catalog: Catalog, request: Request) -> None:
    """A misspelt provider is an error, above all in `ignore`: it would get what it must not see."""
    wishes = request.routing
    if not (wishes.order or wishes.only or wishes.ignore or request.provider_options):
        return
    for field, names in (("order", wishes.order), ("only", wishes.only), ("ignore", wishes.ignore)):
        for index, name in enumerate(names):
            if name not in catalog.providers:
                param = f"provider.{field}[{index}]"
                known = listed(sorted(catalog.providers))
                description = f'{param}: there is no provider "{shown(name)}"; known are {known}.'
                raise GatewayError(Reason.INVALID_VALUE, description, param=param)
    for name in request.provider_options:
        if name not in catalog.providers:
            param = f"provider_options.{shown(name)}"
            description = f"{param}: there is no such provider; known are {listed(sorted(catalog.providers))}."
            raise GatewayError(Reason.INVALID_VALUE, description, param=param)


def _free_model(catalog: Catalog, endpoint: Endpoint, adapters: Mapping[Dialect, Capable]) -> Model | None:
    """The first model that costs nothing and answers on this endpoint now."""
    for model in catalog.models.values():
        for offer in model.offers:
            serves = _serves(Candidate(model, offer), endpoint, adapters)
            if model.is_free and model.status != "retired" and serves and offer.provider.is_configured:
                return model
    return None
