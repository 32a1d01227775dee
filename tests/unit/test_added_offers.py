"""Offers that one file adds to models of another."""

from pathlib import Path

import pytest

from server.catalogue import load_catalog
from tests.unit.test_catalog_load import OFFER, PRICE, PROVIDER, load, offering, problems

ADDED = "{model: openai/gpt-oss-120b, provider: %s, provider_model: %s, " + PRICE + "}"


def test_an_offer_is_added_to_a_model_that_ships(tmp_path: Path) -> None:
    shipped = load_catalog(None, {}).models["openai/gpt-oss-120b"]
    text = f"{PROVIDER}offers:\n  - {ADDED % ('acme', 'oss-big')}\n  - {ADDED % ('groq', 'ours-at-groq')}\n"
    model = load(tmp_path, text).models["openai/gpt-oss-120b"]
    assert model.name == shipped.name
    named = {offer.provider.id: offer.provider_model for offer in shipped.offers}
    expected = named | {"groq": "ours-at-groq", "acme": "oss-big"}  # the one of the same provider is replaced
    assert {offer.provider.id: offer.provider_model for offer in model.offers} == expected
    assert [offer.provider.id for offer in model.offers] == [*(offer.provider.id for offer in shipped.offers), "acme"]


def test_an_added_offer_may_name_an_alias_and_a_model_may_have_no_others(tmp_path: Path) -> None:
    text = f"{PROVIDER}models:\n- {{id: acme/x, aliases: [x]}}\noffers:\n- {OFFER % PRICE}\n"
    model = load(tmp_path, text.replace("{provider", "{model: x, provider")).models["acme/x"]
    assert [offer.provider_model for offer in model.offers] == ["test-1"]


def test_an_operators_model_has_no_offers_of_shipped_files(tmp_path: Path) -> None:
    shipped = load_catalog(None, {}).models["openai/gpt-oss-120b"]
    assert len(shipped.offers) > 1
    model = load(tmp_path, offering(PRICE, "openai/gpt-oss-120b")).models["openai/gpt-oss-120b"]
    assert [offer.provider.id for offer in model.offers] == ["acme"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("offers: [{model: openai/gpt-5.4-minni, provider: openai, provider_model: x}]",
         'my.yaml:1: offers[0].model: there is no model "openai/gpt-5.4-minni"; did you mean "openai/gpt-5.4-mini"'),
        ("offers: [{model: zzz, provider: openai, provider_model: x}]", 'there is no model "zzz"; '),
        ("offers: [{provider: openai, provider_model: x}]", "my.yaml:1: offers[0].model: is missing; add it"),
        ("offers: [{model: a/b, provider: openai, provider_model: x, prams: []}]",
         'my.yaml:1: offers[0].prams: unknown key; did you mean "params"?'),
        ("offers:\n- {model: openai/gpt-5.2, provider: opnai, provider_model: x}",
         'my.yaml:2: offers[0].provider: there is no provider "opnai"; did you mean "openai"?'),
        ("offers:\n- {model: openai/gpt-5.2, provider: ollama, provider_model: x}",
         'my.yaml:2: offers[0].price: the offer of "openai/gpt-5.2" by "ollama" has no price'),
        ("offers:\n- {model: gpt-5.2, provider: openai, provider_model: x}\n"
         "- {model: gpt-5.2, provider: openai, provider_model: y}",
         'my.yaml:3: offers[1].provider: the provider "openai" offers this model twice'),
        ("models: [{id: a/b}]", 'my.yaml:1: models[0].offers: nobody offers the model "a/b"; add an offer'),
    ],
)  # fmt: skip
def test_a_mistake_in_an_added_offer(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(problems(tmp_path, text))
