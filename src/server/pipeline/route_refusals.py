"""What a client is told where no offer can serve its request: the field that stands in the way, and what would help."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

from server.domain.catalog import Catalog, Model, Provider
from server.domain.embedding import INPUT, EmbeddingRequest
from server.domain.errors import GatewayError, Reason
from server.domain.request import Endpoint, RoutingPreferences
from server.domain.routing import Candidate
from server.domain.work import Work

MAX_SHOWN_CHARS: Final = 100
"""Of what a client sent, this much at most is repeated in an error, or compared with what is known."""


def unknown_model(catalog: Catalog, name: str, param: str) -> GatewayError:
    text = f'There is no model "{shown(name)}".'
    if len(name) <= MAX_SHOWN_CHARS:
        known = {known_name.lower(): known_name for known_name in (*catalog.models, *catalog.aliases)}
        near = [known[match] for match in difflib.get_close_matches(name.lower(), known, n=3)]
        text += f" Did you mean {listed(near)}?" if near else " GET /v1/models lists them."
    return GatewayError(Reason.UNKNOWN_MODEL, text, param=param)


def unsupported_endpoint(found: Sequence[Candidate], endpoint: Endpoint) -> GatewayError:
    model = found[0].model
    endpoints = sorted({endpoint.value for candidate in found for endpoint in candidate.offer.endpoints})
    if endpoint.value in endpoints:
        text = f'No provider of "{model.id}" can be reached: this gateway does not speak their dialect.'
    else:
        serves = listed(endpoints) or "no endpoint"
        text = f'No provider serves "{model.id}" on the endpoint {endpoint.value}; it has {serves}.'
    return GatewayError(Reason.UNSUPPORTED_ENDPOINT, text, param="model")


def not_made(found: Sequence[Candidate], kind: str) -> GatewayError:
    model = found[0].model
    text = f'"{model.id}" does not answer with {kind}; it makes {listed(sorted(model.output_types))}.'
    return GatewayError(Reason.UNSUPPORTED_ENDPOINT, text, param="model")


def nothing_allowed(serving: Sequence[Candidate], wishes: RoutingPreferences) -> GatewayError:
    offering = listed(dict.fromkeys(candidate.offer.provider.id for candidate in serving))
    param = "provider.only" if wishes.only else "provider.ignore"
    text = f"{param} leaves no provider for this model; these serve it: {offering}."
    return GatewayError(Reason.INVALID_VALUE, text, param=param)


def model_not_allowed(found: Sequence[Candidate]) -> GatewayError:
    return GatewayError(
        Reason.MODEL_NOT_ALLOWED,
        f'This API key may not use "{found[0].model.id}". GET /v1/key says what it may use.',
        param="model",
    )


def provider_not_allowed(serving: Sequence[Candidate]) -> GatewayError:
    text = (
        f'No provider of "{serving[0].model.id}" is one that this API key may use. GET /v1/key says which it may use.'
    )
    return GatewayError(Reason.PROVIDER_NOT_ALLOWED, text, param="model")


def outside(allowed: Sequence[Candidate], regions: Sequence[str]) -> GatewayError:
    text = f'No provider of "{allowed[0].model.id}" is in a region that this team may use; these are {listed(regions)}.'
    return GatewayError(Reason.UNSUPPORTED_ENDPOINT, text, param="model")


def not_configured(allowed: Sequence[Candidate], free: Model | None) -> GatewayError:
    """`free` is a model that works now, if there is one."""
    providers = {candidate.offer.provider.id: candidate.offer.provider for candidate in allowed}
    remedies = "; or ".join(_remedy(provider) for provider in providers.values())
    text = f'No provider of "{allowed[0].model.id}" is configured on this gateway. Its operator can {remedies}.'
    if free is not None:
        text += f' "{free.id}" works now, without any key of a provider.'
    return GatewayError(Reason.PROVIDER_NOT_CONFIGURED, text, param="model")


def _remedy(provider: Provider) -> str:
    return f"{provider.remedy} (provider {provider.id})"


def unsupported_parameter(model: Model, lacking: Sequence[Sequence[str]], request: Work) -> GatewayError:
    """Name a parameter that none supports; where each lacks another one, the first of the first candidate.

    `lacking` has for each candidate the client's names of what it does not support.
    """
    common = [spelling for spelling in lacking[0] if all(spelling in other for other in lacking)]
    if common:
        param = common[0]
        text = f'No provider of "{model.id}" that is configured here supports "{param}".'
        if param == INPUT and isinstance(request, EmbeddingRequest):
            text = f'No provider of "{model.id}" that is configured here takes ids of tokens: send the text itself.'
    else:
        param = lacking[0][0]
        together = listed(sorted({spelling for one in lacking for spelling in one}))
        text = f'No single provider of "{model.id}" supports all of these together: {together}.'
    return GatewayError(Reason.UNSUPPORTED_PARAMETER, text, param=param)


def too_dear(_: Sequence[Candidate]) -> GatewayError:
    return GatewayError(
        Reason.INVALID_VALUE,
        "Every provider that could serve this request is dearer than provider.max_price.",
        param="provider.max_price",
    )


def all_drained(left: Sequence[Candidate]) -> GatewayError:
    names = listed(dict.fromkeys(candidate.offer.provider.id for candidate in left))
    text = f"This gateway's operator has taken every provider that could serve this request out of service: {names}."
    return GatewayError(Reason.PROVIDERS_UNAVAILABLE, text)


def shown(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
