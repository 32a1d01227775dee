"""`aistats-gateway catalog`: what a person and a script get from it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.cli_catalog import catalog

KEYS = (
    "AISTATS_CONFIG",
    "AISTATS_LOCAL_MODEL_URL",
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "GROQ_API_KEY",
    "OPENROUTER_API_KEY",
)


def run(*args: str, **environ: str) -> Result:
    env: dict[str, str | None] = dict.fromkeys(KEYS)
    return CliRunner().invoke(catalog, args, env=env | environ)


def test_check_sums_up_what_is_right() -> None:
    result = run("check")
    assert (result.exit_code, result.output) == (0, "18 providers (2 configured), 112 models\n")


def test_check_takes_the_file_of_the_environment_or_the_argument(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("replace_catalog: true\nproviders: [{id: a, dialect: openai, base_url: 'http://a'}]")
    bad.write_text("modles: []\nprovidres: []\n")
    assert run("check", AISTATS_CONFIG=str(good)).output == "1 provider (1 configured), 0 models\n"
    result = run("check", str(bad), AISTATS_CONFIG=str(good))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f'{bad}:1: modles: unknown key; did you mean "models"?',
        f'{bad}:2: providres: unknown key; did you mean "providers"?',
    ]
    assert result.stdout == ""


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
    assert any("● google " in line and line.endswith("configured") for line in lines)
    assert any("● google/gemma-3-27b:free" in line for line in lines)
    assert any("○ openai " in line and line.endswith("not configured: set OPENAI_API_KEY") for line in lines)
    assert "k-1" not in result.output


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


@pytest.mark.parametrize("command", ["check", "list"])
def test_help_says_what_it_does(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Show" in result.output
