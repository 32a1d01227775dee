"""`aistats-gateway catalog`: what a person and a script get from it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.catalogue import load_catalog
from server.cli_catalog import catalog
from server.domain.money import usd

SHIPPED = load_catalog(None, {})
KEYS = (
    "AISTATS_CONFIG",
    "AISTATS_LOCAL_MODEL_URL",
    *sorted({provider.missing_key_env for provider in SHIPPED.providers.values() if provider.missing_key_env}),
)


def run(*args: str, **environ: str) -> Result:
    env: dict[str, str | None] = dict.fromkeys(KEYS)
    return CliRunner().invoke(catalog, args, env=env | environ)


def test_check_sums_up_what_is_right_and_says_what_waits_for_a_key() -> None:
    result = run("check", GROQ_API_KEY="k-1")
    assert result.exit_code == 0
    first, *waiting = result.stdout.splitlines()
    offered = sum(any(offer.provider.id == "groq" for offer in model.offers) for model in SHIPPED.models.values())
    counts = f"{len(SHIPPED.providers)} providers ({len(SHIPPED.providers) - len(waiting)} configured)"
    assert first == f"{counts}, {len(SHIPPED.models)} models ({offered} can be called)"
    assert "  openai: set OPENAI_API_KEY" in waiting
    assert not any("groq" in line for line in waiting)
    assert result.stderr == ""


def test_check_takes_the_file_of_the_environment_or_the_argument(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("replace_catalog: true\nproviders: [{id: a, dialect: openai, base_url: 'http://a'}]")
    bad.write_text("modles: []\nprovidres: []\n")
    assert run("check", AISTATS_CONFIG=str(good)).output == "1 provider (1 configured), 0 models (0 can be called)\n"
    result = run("check", str(bad), AISTATS_CONFIG=str(good))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f'{bad}:1: modles: unknown key; did you mean "models"?',
        f'{bad}:2: providres: unknown key; did you mean "providers"?',
    ]
    assert result.stdout == ""


def test_check_warns_of_what_works_but_should_not_stay(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("""\
providers: [{id: far, dialect: openai, base_url: "http://far.example.com/v1", api_key_env: FAR_KEY}]
models:
- {id: "far/x:free", offers: [{provider: far, provider_model: m}]}
- {id: "far/y:free", offers: [{provider: far, provider_model: m}]}
- {id: openai/gpt-oss-20b, offers: [{provider: groq, provider_model: openai/gpt-oss-20b}]}
""")
    result = run("check", str(config), FAR_KEY="k-1")
    assert result.exit_code == 0
    clear, twice, lost = result.stderr.splitlines()
    assert clear == 'warning: provider "far": its key is sent without TLS; use https'
    assert twice == 'warning: "far/x:free" and "far/y:free" are both "m" of "far"'
    assert lost.startswith('warning: model "openai/gpt-oss-20b" takes the place of the shipped one')
    assert "fireworks" in lost
    assert "groq" not in lost


def test_check_names_the_offer_without_a_price(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("models: [{id: a/b, offers: [{provider: openai, provider_model: b}]}]")
    result = run("check", str(config))
    assert result.exit_code == 1
    assert 'the offer of "a/b" by "openai" has no price' in result.stderr


@pytest.mark.parametrize("price", ["10000.01", "0.00009"])
def test_u15_check_names_the_offer_with_a_price_of_the_wrong_unit(tmp_path: Path, price: str) -> None:
    config = tmp_path / "c.yaml"
    prices = f'{{input_text_tokens: "{price}", output_text_tokens: "1"}}'
    config.write_text(f"models: [{{id: a/b, offers: [{{provider: openai, provider_model: b, price: {prices}}}]}}]")
    result = run("check", str(config))
    assert result.exit_code == 1
    assert f'the offer of "a/b" by "openai": {price} is ' in result.stderr


def test_list_shows_what_is_missing() -> None:
    result = run("list", GEMINI_API_KEY="k-1")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert any("●  google " in line and line.endswith("configured") for line in lines)
    assert any("●  google/gemma-3-27b:free" in line for line in lines)
    assert any("○  openai " in line and line.endswith("not configured: set OPENAI_API_KEY") for line in lines)
    assert "k-1" not in result.output


def test_list_shows_the_least_price_of_a_model() -> None:
    def least(dimension: str) -> str:
        offers = SHIPPED.models["openai/gpt-oss-120b"].offers
        return usd(min(offer.prices.rates[dimension] for offer in offers), decimals=2)

    lines = run("list").output.splitlines()
    assert lines[0].split() == ["MODEL", "PROVIDERS", "ENDPOINTS", "CONTEXT", "IN", "OUT", "STATUS"]
    oss = next(line for line in lines if " openai/gpt-oss-120b " in line)
    assert "cerebras, fireworks, groq, openrouter, together" in oss
    assert oss.split()[-4:-1] == ["131,072", least("input_text_tokens"), least("output_text_tokens")]
    gemma = next(line for line in lines if " google/gemma-3-27b:free " in line)
    assert gemma.split()[-3:-1] == ["free", "free"]
    gpt_4o = next(line for line in lines if " openai/gpt-4o " in line)
    assert gpt_4o.endswith(" deprecated")


def test_list_can_be_narrowed() -> None:
    of_google = json.loads(run("list", "--json", "--provider", "google", "--endpoint", "embeddings").stdout)
    assert [model["id"] for model in of_google["models"]] == [
        "google/gemini-embedding-2",
        "google/gemini-embedding-001",
    ]
    assert [provider["id"] for provider in of_google["providers"]] == ["google"]
    moderations = run("list", "--endpoint", "moderations").output
    assert "openai/omni-moderation:free" in moderations
    assert "openai/gpt-6.1-sol" not in moderations
    assert " anthropic " not in moderations
    of_groq = json.loads(run("list", "--json", "--provider", "groq").stdout)
    assert {offer["provider"] for model in of_groq["models"] for offer in model["offers"]} == {"groq"}


def test_list_names_the_nearest_provider_and_the_endpoints() -> None:
    wrong = run("list", "--provider", "opnai")
    assert wrong.exit_code == 2
    assert 'there is no provider "opnai"; did you mean "openai"' in wrong.stderr
    assert "'chat', 'responses'" in run("list", "--endpoint", "speech").stderr


def test_list_json_is_for_scripts() -> None:
    result = run("list", "--json", GEMINI_API_KEY="k-1")
    shown = json.loads(result.stdout)
    assert "k-1" not in result.output
    providers = {provider["id"]: provider for provider in shown["providers"]}
    assert providers["google"]["configured"] is True
    assert providers["openai"]["missing_key_env"] == "OPENAI_API_KEY"
    models = {model["id"]: model for model in shown["models"]}
    gemma = models["google/gemma-3-27b:free"]
    assert (gemma["configured"], gemma["endpoints"]) == (True, ["chat", "messages", "responses"])
    nano = models["openai/gpt-5.4-nano"]["offers"][0]
    assert (nano["price"]["output_text_tokens"], nano["price_source"]) == ("1.25", "default")
    assert nano["price_tiers"][0]["when"] == {"service_tier": "flex"}
    assert nano["price_tiers"][0]["price"]["output_text_tokens"] == "0.625"
    assert (gemma["offers"][0]["price"], gemma["offers"][0]["price_source"]) == ({}, None)
    assert shown["routing"]["max_attempts"] == 3


@pytest.mark.parametrize(("command", "words"), [("check", "Check the"), ("list", "Show every"), ("import", "Ask a")])
def test_help_says_what_it_does(command: str, words: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert words in result.output
