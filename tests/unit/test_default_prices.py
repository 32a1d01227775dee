"""The prices that come with the gateway are those of the locked `genai-prices`, and can all be used."""

from __future__ import annotations

import importlib.util
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from genai_prices.types import Provider

from server.catalogue.defaults import DefaultPrice, default_prices
from server.catalogue.files import PriceTierEntry
from server.catalogue.prices import PriceReader
from server.domain.money import NANOS_PER_USD
from server.domain.pricing import price
from server.domain.usage import Usage as Used

SCRIPT = Path(__file__).parents[2] / "scripts" / "import_prices.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("import_prices", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["import_prices"] = module
    spec.loader.exec_module(module)
    return module


def test_the_file_is_what_the_script_writes(script: ModuleType) -> None:
    """`make prices` writes it anew; its day is in it, for a price may hold from a day on."""
    run = script.Import(date.fromisoformat(default_prices().as_of))
    assert run.run() == script.TARGET.read_text(encoding="utf-8"), "run `make prices` and commit what it wrote"


def test_every_default_can_be_read() -> None:
    for provider_id, provider in default_prices().providers.items():
        assert set(provider.fallback) <= default_prices().providers.keys()
        for model in provider.models:
            reader = PriceReader()
            prices = reader.read(model.price, [PriceTierEntry.model_validate(tier) for tier in model.price_tiers])
            assert not reader.problems, (provider_id, model.match)
            assert not model.price or any(prices.rates.values()), (provider_id, model.match)


@pytest.mark.parametrize(
    ("provider", "model", "used"),
    [
        ("openai", "gpt-5.4-mini", Used(1000, 100, cached_input_tokens=400)),
        ("openai", "gpt-4o-2024-08-06", Used(1_000_003, 77, cached_input_tokens=3)),
        ("anthropic", "claude-sonnet-4-5", Used(6 + 159_217, 2745, cache_write_tokens=159_217)),
        ("google", "gemini-2.5-pro", Used(200_001, 10)),
        ("google", "gemini-2.5-pro", Used(200_000, 10)),
        ("groq", "openai/gpt-oss-120b", Used(12345, 678)),
        ("openrouter", "mistralai/mistral-small-2603", Used(9, 3)),
        ("azure", "gpt-5.2", Used(10, 10)),
    ],
)
def test_a_price_is_what_the_package_itself_reckons(provider: str, model: str, used: Used) -> None:
    found = default_prices().find(provider, model)
    assert found is not None
    prices = PriceReader().read(found.price, [PriceTierEntry.model_validate(tier) for tier in found.price_tiers])
    theirs = calc_price(
        Usage(
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cache_read_tokens=used.cached_input_tokens,
            cache_write_tokens=used.cache_write_tokens,
        ),
        model,
        provider_id=provider,
        genai_request_timestamp=datetime.combine(date.fromisoformat(default_prices().as_of), time(), UTC),
    )
    ours = price(used, prices)
    assert 0 <= Decimal(ours.total_nanos) - theirs.total_price * NANOS_PER_USD < len(ours.lines)


@pytest.mark.parametrize("provider", [provider for provider in providers if len(provider.models) < 200])
def test_a_name_means_the_model_that_it_means_to_the_package(provider: Provider, script: ModuleType) -> None:
    for name in (model.id for model in provider.models):
        theirs = provider.find_model(name, all_providers=providers)
        ours = default_prices().find(provider.id, name)
        if ours is not None:
            assert theirs is not None
            assert [list(one) if isinstance(one, tuple) else one for one in ours.match] == script.patterns(theirs.match)


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("gpt-5", "gpt-5", "gpt-5-mini"),
        ("gpt-5*", "gpt-5-mini", "my-gpt-5"),
        ("*-tts", "gpt-tts", "gpt-tts-1"),
        ("*claude*", "anthropic/claude-9", "gpt"),
        (r"re:^gpt-\d$", "gpt-5", "gpt-55"),
        (("gemini*", "re:^(?!.*-tts)"), "gemini-pro", "gemini-tts"),
    ],
)
def test_patterns_of_names(pattern: str | tuple[str, ...], fits: str, does_not: str) -> None:
    assert DefaultPrice((pattern,), {}).means(fits)
    assert not DefaultPrice((pattern,), {}).means(does_not)


def test_what_cannot_be_said_exactly_is_left_out_and_told(script: ModuleType) -> None:
    with pytest.raises(script.LeftOut, match="more than nine decimals"):
        script.exact("input_text_tokens", Decimal("0.0833333333333"))
    with pytest.raises(script.LeftOut, match="above 10000"):
        script.exact("input_text_tokens", Decimal("10001"))
    assert script.exact("input_text_tokens", Decimal("2.50")) == "2.5"
    run = script.Import(date(2026, 11, 22))
    run.run()
    assert any("depends on the time of day" in line for line in run.left_out)
    assert all(": " in line for line in run.left_out)
