"""Where requests for shipped models go: to nobody without a key, and to all that have one."""

from __future__ import annotations

import pytest

from server.catalogue import load_catalog
from server.domain.catalog import Dialect
from server.domain.errors import GatewayError, Reason
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint
from server.domain.restrictions import Restrictions
from server.pipeline.models import Listings
from server.pipeline.route import candidates
from tests.unit.test_route import Dialects, request

SHIPPED = load_catalog(None, {})
VARIABLES = {one.id: one.missing_key_env for one in SHIPPED.providers.values() if one.missing_key_env is not None}
ADAPTERS: dict[Dialect, ProviderAdapter] = {
    dialect: Dialects() for dialect in ("openai", "anthropic", "gemini", "cohere")
}


def a_model_of(provider_id: str) -> tuple[str, Endpoint]:
    """One of its models, and an endpoint that it has for it."""
    offers = ((model.id, offer) for model in SHIPPED.models.values() for offer in model.offers)
    return next((id_, min(offer.endpoints)) for id_, offer in offers if offer.provider.id == provider_id)


@pytest.mark.parametrize("provider_id", sorted(VARIABLES))
def test_without_its_key_a_provider_is_not_asked_and_its_variable_is_named(provider_id: str) -> None:
    model_id, endpoint = a_model_of(provider_id)
    with pytest.raises(GatewayError) as caught:
        candidates(SHIPPED, request(f"{provider_id}:{model_id}", endpoint), ADAPTERS)
    assert caught.value.reason is Reason.PROVIDER_NOT_CONFIGURED
    assert VARIABLES[provider_id] in str(caught.value)


@pytest.mark.parametrize("provider_id", sorted(VARIABLES))
def test_with_its_key_it_alone_is_asked(provider_id: str) -> None:
    model_id, endpoint = a_model_of(provider_id)
    catalog = load_catalog(None, {VARIABLES[provider_id]: "k-1"})
    route = candidates(catalog, request(model_id, endpoint), ADAPTERS)
    with_that_key = {id_ for id_, variable in VARIABLES.items() if variable == VARIABLES[provider_id]}
    assert {one.offer.provider.id for one in route.candidates} <= with_that_key
    assert route.candidates


@pytest.mark.parametrize("provider_id", sorted(VARIABLES))
def test_the_list_of_models_says_whose_key_is_there(provider_id: str) -> None:
    model_id, _ = a_model_of(provider_id)
    for key, expected in ({}, "not_configured"), ({VARIABLES[provider_id]: "k-1"}, "active"):
        listed = Listings(load_catalog(None, key)).of(Restrictions()).find(model_id)
        assert {one.status for one in listed.offers if one.offer.provider.id == provider_id} == {expected}
