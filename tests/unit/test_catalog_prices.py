"""Prices in the catalogue's files: tiers, defaults, and what is said of every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.catalogue.defaults import default_prices
from server.domain.catalog import Offer
from server.domain.money import nanos
from server.domain.pricing import PriceList, PriceTier
from tests.unit.test_catalog_load import PRICE, load, offering, problems

PROVIDERS = """\
providers:
  - {id: acme, dialect: openai, base_url: http://127.0.0.1:1/v1, prices_as: openai}
  - {id: azure, dialect: openai, base_url: http://127.0.0.1:1/v1}
  - {id: plain, dialect: openai, base_url: http://127.0.0.1:1/v1, on_disconnect: drain}
"""


def tiers(written: str) -> str:
    return offering(f"{PRICE}, price_tiers: [{written}]")


def offer(tmp_path: Path, provider: str, provider_model: str, extra: str = "") -> Offer:
    entry = f"{{provider: {provider}, provider_model: {provider_model}, endpoints: [chat]{extra}}}"
    return load(tmp_path, f"{PROVIDERS}models: [{{id: a/b, offers: [{entry}]}}]").models["a/b"].offers[0]


def test_tiers_are_read_in_order(tmp_path: Path) -> None:
    text = tiers(
        '{when: {input_tokens_above: 200000}, price: {input_text_tokens: "0.30"}}, '
        '{when: {service_tier: flex}, price: {input_text_tokens: "0.075", output_text_tokens: "0"}}, '
        '{when: {input_tokens_above: 200000, service_tier: flex}, price: {output_text_tokens: "1"}}'
    )
    prices = load(tmp_path, text).models["acme/test-1"].offers[0].prices
    assert prices.tiers == (
        PriceTier({"input_text_tokens": 300_000_000}, 200_000),
        PriceTier({"input_text_tokens": 75_000_000, "output_text_tokens": 0}, 0, "flex"),
        PriceTier({"output_text_tokens": 10**9}, 200_000, "flex"),
    )
    assert prices.service_tiers == {"flex"}


FLEX = '{when: {service_tier: flex}, price: {input_text_tokens: "1"}}'
OFFER = "models[0].offers[0]"
NAMED = 'the offer of "acme/test-1" by "acme": '


@pytest.mark.parametrize(
    ("written", "path", "said"),
    [
        (f"{FLEX}, {FLEX}", "price_tiers[1].when", f"{NAMED}the same conditions as price_tiers[0]; remove one"),
        ('{when: {}, price: {input_text_tokens: "1"}}', "price_tiers[0].when", f"{NAMED}a tier needs a condition"),
        ("{when: {service_tier: flex}, price: {}}", "price_tiers[0].price", f"{NAMED}holds no price"),
        ("{when: {service_tier: flex}}", "price_tiers[0].price", "is missing; add it"),
        ('{price: {input_text_tokens: "1"}}', "price_tiers[0].when", "is missing; add it"),
        ('{when: {service_tier: flex}, price: {web_searches: "1"}}', "price_tiers[0].price.web_searches",
         f"{NAMED}the offer's price has no web_searches for a tier to replace; add it there"),
        ('{when: {service_tier: flex}, price: {input_text_token: "1"}}', "price_tiers[0].price.input_text_token",
         f'{NAMED}unknown dimension of usage; did you mean "input_text_tokens"'),
        ('{when: {service_tier: flex}, price: {input_text_tokens: "0.1234567891"}}',
         "price_tiers[0].price.input_text_tokens", f"{NAMED}0.1234567891 has more than nine decimals"),
        ('{when: {service_tier: flex}, price: {input_text_tokens: "10001"}}', "price_tiers[0].price.input_text_tokens",
         f"{NAMED}10001 is above 10000 USD per million"),
        ("{when: {service_tier: flex}, price: {input_text_tokens: 0.1}}", "price_tiers[0].price.input_text_tokens",
         f"{NAMED}must be a decimal in quotes"),
        ('{when: {service_tier: default}, price: {input_text_tokens: "1"}}', "price_tiers[0].when.service_tier",
         f'{NAMED}"default" is what the base price is for; remove the tier'),
        ('{when: {service_tier: Flex}, price: {input_text_tokens: "1"}}', "price_tiers[0].when.service_tier",
         "must be the provider's word for it, in lower case"),
        ('{when: {service_teir: flex}, price: {input_text_tokens: "1"}}', "price_tiers[0].when.service_teir",
         'unknown key; did you mean "service_tier"?'),
        ('{when: {service_tier: flex}, prices: {}}', "price_tiers[0].prices", 'unknown key; did you mean "price"?'),
        ('{when: {input_tokens_above: 0}, price: {input_text_tokens: "1"}}', "price_tiers[0].when.input_tokens_above",
         "should be greater than 0"),
        ('{when: {input_tokens_above: "9"}, price: {input_text_tokens: "1"}}',
         "price_tiers[0].when.input_tokens_above", "should be a valid integer"),
    ],
)  # fmt: skip
def test_a_tier_that_cannot_be_meant_is_named_with_its_place(
    tmp_path: Path, written: str, path: str, said: str
) -> None:
    found = problems(tmp_path, tiers(written))
    assert any(line.startswith(f"my.yaml:5: {OFFER}.{path}: {said}") for line in found), found


def test_tiers_without_a_price_to_replace(tmp_path: Path) -> None:
    found = problems(tmp_path, offering(f"price_tiers: [{FLEX}]"))
    assert any("has no price; add one" in line for line in found)


def test_a_free_model_has_no_tiers(tmp_path: Path) -> None:
    found = problems(tmp_path, offering(f'price: {{input_text_tokens: "0"}}, price_tiers: [{FLEX}]', "a/b:free"))
    assert found == [
        f'my.yaml:5: {OFFER}.price: the offer of "a/b:free" by "acme": a :free model has no price; remove it'
    ]


@pytest.mark.parametrize(("price", "said"), [("10000.01", "is above 10000"), ("0.00009", "is below 0.0001")])
def test_u15_a_price_of_the_wrong_unit_is_named(tmp_path: Path, price: str, said: str) -> None:
    (found,) = problems(tmp_path, offering(f'price: {{input_text_tokens: "{price}", output_text_tokens: "1"}}'))
    assert f"{NAMED}{price} {said}" in found


def test_an_offer_without_a_price_has_its_providers(tmp_path: Path) -> None:
    for provider in ("acme", "azure"):
        found = offer(tmp_path, provider, "gpt-5.4-mini")
        assert found.price_source == "default"
        assert found.prices.rates["input_text_tokens"] == nanos("0.75")
        assert found.prices.rates["output_text_tokens"] == nanos("4.50")
        assert found.prices.service_tiers == {"flex", "priority", "fast"}


def test_a_price_in_the_file_wins(tmp_path: Path) -> None:
    found = offer(tmp_path, "acme", "gpt-5.4-mini", ', price: {input_text_tokens: "1", output_text_tokens: "2"}')
    assert found.price_source == "file"
    assert found.prices == PriceList({"input_text_tokens": 10**9, "output_text_tokens": 2 * 10**9})


@pytest.mark.parametrize("model", ["gpt-5.2", "gpt-5.2-2025-12-11", "gpt-5.2-20251211", "GPT-5.2"])
def test_u10_a_dated_name_has_the_price_of_its_model_in_every_tier(tmp_path: Path, model: str) -> None:
    found = offer(tmp_path, "acme", model).prices
    assert found.rates_for(10, "priority")["output_text_tokens"] == nanos("28")
    assert found.rates_for(10, "flex")["output_text_tokens"] == nanos("7")


@pytest.mark.parametrize(
    ("provider", "model", "extra"),
    [
        ("plain", "gpt-5.2", ""),  # no defaults of that provider
        ("acme", "no-such-model", ""),
        ("acme", "gpt-5.2", ", price: {}"),  # an empty price is a slip, not a wish for the default
        ("acme", "text-embedding-3-small", ""),  # its default has no price of output
    ],
)
def test_u8_without_a_default_an_offer_without_a_price_is_a_problem(
    tmp_path: Path, provider: str, model: str, extra: str
) -> None:
    entry = f"{{provider: {provider}, provider_model: {model}, endpoints: [chat]{extra}}}"
    (found,) = problems(tmp_path, f"{PROVIDERS}models: [{{id: a/b, offers: [{entry}]}}]")
    assert f'the offer of "a/b" by "{provider}" has no price' in found


def test_a_free_model_takes_no_default(tmp_path: Path) -> None:
    entry = "{provider: acme, provider_model: gpt-5.2}"
    free = load(tmp_path, f"{PROVIDERS}models: [{{id: 'a/b:free', offers: [{entry}]}}]").models["a/b:free"].offers[0]
    assert (free.prices, free.price_source) == (PriceList(), None)


def test_defaults_that_do_not_exist_are_named(tmp_path: Path) -> None:
    text = "providers: [{id: acme, dialect: openai, base_url: 'http://a', prices_as: opnai}]"
    (found,) = problems(tmp_path, text)
    assert found.startswith(
        'my.yaml:1: providers[0].prices_as: provider "acme": there are no default prices of "opnai"; '
    )
    assert '"openai"' in found


def test_what_becomes_of_a_stream_whose_client_has_gone(tmp_path: Path) -> None:
    providers = load(tmp_path, PROVIDERS).providers
    assert (providers["plain"].on_disconnect, providers["acme"].on_disconnect) == ("drain", "cancel")
    (found,) = problems(tmp_path, PROVIDERS.replace("drain", "go-on"))
    assert "providers[2].on_disconnect: must be 'cancel' or 'drain'" in found


def test_every_shipped_price_is_a_default(tmp_path: Path) -> None:
    offers = [offer for model in load(tmp_path, "").models.values() if not model.is_free for offer in model.offers]
    assert {offer.provider.id for offer in offers if offer.price_source != "default"} == {"deepseek"}


def test_a_model_that_is_left_out_has_no_other_models_price() -> None:
    defaults = default_prices()
    assert defaults.find("deepseek", "deepseek-chat") is None  # its price depends on the time of day
    assert defaults.find("nobody", "gpt-5.2") is None


@pytest.mark.parametrize(
    ("endpoint", "made", "price", "wanted"),
    [
        ("audio", "text", "input_characters", "input_audio_seconds"),
        ("audio", "audio", "input_audio_seconds", "input_characters"),
        ("video", "video", "output_video_tokens", "video_seconds"),
    ],
)
def test_a_price_by_which_nothing_would_be_charged_is_a_problem(
    tmp_path: Path, endpoint: str, made: str, price: str, wanted: str
) -> None:
    entry = f'{{provider: plain, provider_model: m, endpoints: [{endpoint}], price: {{{price}: "15"}}}}'
    (found,) = problems(tmp_path, f"{PROVIDERS}models: [{{id: a/b, output_types: [{made}], offers: [{entry}]}}]")
    assert f'has no price for {wanted}; add one ("0" where it costs nothing)' in found
