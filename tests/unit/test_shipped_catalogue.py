"""The catalogue that ships: what must be true of every provider, model and offer in it, and where it comes from."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Collection, Mapping
from datetime import date
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from server.catalogue import load_catalog, shipped_directory
from server.catalogue.prices import missing_dimensions
from server.domain.addresses import is_near
from server.domain.catalog import Catalog, Model, Offer
from server.domain.parameters import PARAMETERS
from server.domain.request import Endpoint

SCRIPTS = Path(__file__).parents[2] / "scripts"
TEXT = frozenset({Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES})

HOSTED = {
    "anthropic": ("anthropic", "ANTHROPIC_API_KEY", "https://api.anthropic.com/v1"),
    "cerebras": ("openai", "CEREBRAS_API_KEY", "https://api.cerebras.ai/v1"),
    "cohere": ("openai", "COHERE_API_KEY", "https://api.cohere.ai/compatibility/v1"),
    "cohere-embed": ("cohere", "COHERE_API_KEY", "https://api.cohere.com/v2"),
    "deepseek": ("openai", "DEEPSEEK_API_KEY", "https://api.deepseek.com"),
    "fireworks": ("openai", "FIREWORKS_API_KEY", "https://api.fireworks.ai/inference/v1"),
    "google": ("gemini", "GEMINI_API_KEY", "https://generativelanguage.googleapis.com/v1beta"),
    "groq": ("openai", "GROQ_API_KEY", "https://api.groq.com/openai/v1"),
    "mistral": ("openai", "MISTRAL_API_KEY", "https://api.mistral.ai/v1"),
    "openai": ("openai", "OPENAI_API_KEY", "https://api.openai.com/v1"),
    "openrouter": ("openai", "OPENROUTER_API_KEY", "https://openrouter.ai/api/v1"),
    "perplexity": ("openai", "PERPLEXITY_API_KEY", "https://api.perplexity.ai/v1"),
    "together": ("openai", "TOGETHER_API_KEY", "https://api.together.xyz/v1"),
    "xai": ("openai", "XAI_API_KEY", "https://api.x.ai/v1"),
}
"""By provider: its dialect, the variable that its key is usually in, and where it is."""
AT_HOME = {"ollama": "http://127.0.0.1:11434/v1", "vllm": "http://127.0.0.1:8000/v1"}
UNDATED = {"google/gemini-3.6-flash", "google/gemini-3.5-flash-lite", "openai/gpt-transcribe"}
"""Of these only the month is known."""

MEDIA: Mapping[Endpoint, Collection[tuple[tuple[str, ...], tuple[str, ...]]]] = {
    Endpoint.IMAGES: [(("text", "image"), ("image",))],
    Endpoint.AUDIO: [(("text",), ("audio",)), (("audio",), ("text",))],
    Endpoint.VIDEO: [(("text", "image"), ("video",))],
}
"""What such models take and make."""

SHIPPED = load_catalog(None, {})
MODELS = sorted(SHIPPED.models)
OFFERS = [(model.id, offer.provider.id) for model in SHIPPED.models.values() for offer in model.offers]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """As it is where every key is there."""
    keys = {provider.missing_key_env: "k-1" for provider in SHIPPED.providers.values() if provider.missing_key_env}
    return load_catalog(None, keys)


def offer_of(catalog: Catalog, model_id: str, provider_id: str) -> tuple[Model, Offer]:
    model = catalog.models[model_id]
    return model, next(offer for offer in model.offers if offer.provider.id == provider_id)


@pytest.mark.parametrize("provider_id", sorted(HOSTED))
def test_a_hosted_provider_is_where_it_should_be_and_waits_for_its_key(catalog: Catalog, provider_id: str) -> None:
    dialect, variable, address = HOSTED[provider_id]
    without, provider = SHIPPED.providers[provider_id], catalog.providers[provider_id]
    assert (without.missing_key_env, without.is_configured, without.remedy) == (variable, False, f"set {variable}")
    assert (provider.dialect, provider.base_url, provider.is_configured) == (dialect, address, True)
    assert provider.name != provider_id
    assert not provider.sends_key_in_clear


def test_no_provider_is_forgotten_here(catalog: Catalog) -> None:
    others = catalog.providers.keys() - HOSTED.keys()
    assert others >= {"local", *AT_HOME}
    for provider_id in others:
        provider = catalog.providers[provider_id]
        assert provider.missing_key_env is None
        assert provider.base_url == AT_HOME.get(provider_id, "")
    assert all(is_near(address.split("/")[2].partition(":")[0]) for address in AT_HOME.values())


def test_a_file_is_one_providers() -> None:
    for path in shipped_directory().glob("*.yaml"):
        file = yaml.safe_load(path.read_text(encoding="utf-8"))
        ids = {provider["id"] for provider in file.get("providers") or ()}
        offers = [*chain.from_iterable(model["offers"] for model in file.get("models") or ()), *file.get("offers", ())]
        assert {offer["provider"] for offer in offers} <= ids, path.name
        assert all(id_.partition("-")[0] == path.stem.partition("-")[0] for id_ in ids), path.name


@pytest.mark.parametrize("model_id", MODELS)
def test_a_model_can_be_shown_to_people(model_id: str) -> None:
    model = SHIPPED.models[model_id]
    assert re.fullmatch(r"[a-z0-9-]+/[a-z0-9][a-z0-9.-]*(:free)?", model_id)
    assert model.name
    assert model.name != model_id
    assert model.description.endswith(".")
    assert re.fullmatch(r"[a-z0-9-]+", model.organisation_id)
    assert (model.release_date is None) == (model_id in UNDATED)
    assert bool(model.created) == (model.release_date is not None)
    endpoints = set().union(*(offer.endpoints for offer in model.offers))
    if Endpoint.EMBEDDINGS in endpoints:
        assert (endpoints, model.output_types) == ({Endpoint.EMBEDDINGS}, ("embedding",))
    elif Endpoint.MODERATIONS in endpoints:
        assert endpoints == {Endpoint.MODERATIONS}
    elif endpoints & MEDIA.keys():
        [endpoint] = endpoints
        assert (model.input_types, model.output_types) in MEDIA[endpoint]
    else:
        assert endpoints <= TEXT
        assert model.input_types[0] == "text"
        assert model.output_types == ("text",)
        assert model.context_length is not None
        assert model.context_length >= (model.max_output_tokens or 0)


@pytest.mark.parametrize(("model_id", "provider_id"), OFFERS)
def test_an_offer_says_what_it_takes_and_what_it_costs(catalog: Catalog, model_id: str, provider_id: str) -> None:
    model, offer = offer_of(catalog, model_id, provider_id)
    assert offer.params is not None
    assert offer.params <= PARAMETERS.keys()
    if offer.endpoints & TEXT:
        assert "max_output_tokens" in offer.params
        assert ("tool_choice" not in offer.params) or ("tools" in offer.params)
    assert offer.input_types is not None
    assert offer.input_types <= set(model.input_types)
    assert offer.context_length == model.context_length or (offer.context_length or 0) < (model.context_length or 0)
    if model.is_free:
        assert (offer.prices.rates, offer.price_source) == ({}, None)
        return
    assert not list(missing_dimensions(offer.prices.rates, offer.endpoints))
    if not offer.endpoints & {Endpoint.AUDIO}:
        assert offer.prices.rates["input_text_tokens"] > 0
    assert any(offer.prices.rates.values())
    assert offer.price_source == ("file" if provider_id == "deepseek" else "default")  # dearer at its peak hours


def test_a_model_of_several_providers_is_one_model(catalog: Catalog) -> None:
    offers = catalog.models["openai/gpt-oss-120b"].offers
    by_name = ["cerebras", "fireworks", "groq", "openrouter", "together"]  # OpenAI itself does not serve it
    assert [offer.provider.id for offer in offers] == by_name
    assert {offer.provider_model for offer in offers} >= {
        "gpt-oss-120b",
        "openai/gpt-oss-120b",
        "accounts/fireworks/models/gpt-oss-120b",
    }
    maker_first = catalog.models["anthropic/claude-haiku-4.5"].offers
    assert [offer.provider.id for offer in maker_first] == ["anthropic", "openrouter"]


def test_nobody_offers_too_few_or_too_many() -> None:
    for provider_id in HOSTED:
        count = sum(provider == provider_id for _, provider in OFFERS)
        assert 1 <= count <= 100, provider_id
    assert len(MODELS) < 200


@pytest.mark.parametrize(
    ("alias", "model_id"),
    [
        ("gpt-5.4-mini", "openai/gpt-5.4-mini"),
        ("claude-opus-5-5", "anthropic/claude-opus-5.5"),
        ("gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("mistral-small-latest", "mistralai/mistral-small-2603"),
        ("grok-4.7", "x-ai/grok-4.7"),
        ("command-a-03-2025", "cohere/command-a"),
        ("text-embedding-3-small", "openai/text-embedding-3-small"),
        ("omni-moderation-latest", "openai/omni-moderation:free"),
        ("mistral-moderation-latest", "mistralai/mistral-moderation-2603:free"),
    ],
)
def test_a_makers_own_name_is_understood(alias: str, model_id: str) -> None:
    found = SHIPPED.find(alias)
    assert found is not None
    assert found.id == model_id


def test_what_is_turned_off_soon_is_listed_as_deprecated() -> None:
    gone = {"openai/gpt-5", "openai/gpt-5-mini", "openai/gpt-5-nano", "openai/o3", "openai/gpt-4.1", "openai/gpt-4o"}
    gone |= {"openai/tts-1", "openai/tts-1-hd", "openai/gpt-4o-mini-tts", "openai/whisper-1"}
    gone |= {"openai/gpt-4o-transcribe", "openai/gpt-4o-mini-transcribe"}
    assert {model.id for model in SHIPPED.models.values() if model.status != "active"} == gone


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("import_catalogue", SCRIPTS / "import_catalogue.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["import_catalogue"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def test_the_files_are_what_the_import_writes(script: ModuleType) -> None:
    day = script.date.fromisoformat(script.default_prices().as_of)
    for name, text in script.Import(day).run().items():
        assert (script.TARGET / name).read_text(encoding="utf-8") == text, (
            "run `make catalogue` and commit what it wrote"
        )


def test_the_import_leaves_out_what_is_old_or_has_ended(script: ModuleType) -> None:
    later = script.Import(date(2026, 12, 11))
    written = "".join(later.run().values())
    assert "openai/gpt-5-mini" not in written  # it ends on that day
    assert "openai/gpt-4.1\n" in written
    assert "openai: gpt-5-mini" in later.not_taken["is out of date"]
    years_later = "".join(script.Import(date(2028, 11, 22)).run().values())
    assert "openai/gpt-5.4-mini" not in years_later
    assert "openai/text-embedding-3-small" in years_later  # lasting


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("claude-opus-5-5", "anthropic/claude-opus-5.5"),
        ("kimi-k3p1-pro", "moonshotai/kimi-k3.1-pro"),
        ("moonshotai/Kimi-K3.1-Pro", "moonshotai/kimi-k3.1-pro"),
        ("gpt-oss-120b", "openai/gpt-oss-120b"),
    ],
)
def test_names_that_mean_one_model(script: ModuleType, theirs: str, ours: str) -> None:
    assert script.slug(theirs) == script.slug(ours)


def test_a_diff_tells_models_and_offers(script: ModuleType) -> None:
    offers = "offers: [{provider: p, provider_model: m}]"
    before = f"models: [{{id: a/x, context_length: 1, {offers}}}, {{id: a/y, {offers}}}]"
    after = (
        f"models: [{{id: a/x, context_length: 2, {offers}}}]\noffers: [{{model: a/z, provider: p, provider_model: z}}]"
    )
    assert list(script.differences("f.yaml", before, after)) == [
        "~ f.yaml: a/x: context_length 1 → 2",
        "- f.yaml: a/y",
        "- f.yaml: a/y by p",
        "+ f.yaml: a/z by p",
    ]
