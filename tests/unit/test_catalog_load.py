"""The catalogue's files: what they become, and what is said of every mistake in them."""

import re
from pathlib import Path

import pytest

from server.catalogue import CatalogError, load_catalog, read_catalog
from server.domain.catalog import Catalog, ProviderProfile, Routing
from server.domain.pricing import DIMENSIONS, PriceList
from server.local_model import CONTEXT_PER_SLOT, MODEL_NAME

PROVIDER = """\
providers:
  - {id: acme, dialect: openai, base_url: http://127.0.0.1:18081/v1}
"""
OFFER = "{provider: acme, provider_model: test-1, endpoints: [chat], %s}"
PRICE = 'price: {input_text_tokens: "0.15", output_text_tokens: "0.60"}'


def offering(extra: str, model_id: str = "acme/test-1") -> str:
    """A file whose only offer says `extra`."""
    return f"{PROVIDER}models:\n  - id: {model_id}\n    offers: [{OFFER % extra}]\n"


def load(tmp_path: Path, text: str, **environ: str) -> Catalog:
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return load_catalog(path, environ)


def problems(tmp_path: Path, text: str, **environ: str) -> list[str]:
    """Every problem of a file, without the directory that it is in."""
    with pytest.raises(CatalogError) as caught:
        load(tmp_path, text, **environ)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_the_files_that_ship_are_right_and_need_no_variable() -> None:
    catalog = load_catalog(None, {})
    assert [id_ for id_, provider in catalog.providers.items() if provider.is_configured] == ["ollama", "vllm"]
    google = catalog.providers["google"]
    assert (google.missing_key_env, google.api_key) == ("GEMINI_API_KEY", None)
    gemma = catalog.models["google/gemma-3-27b:free"]
    assert [(offer.provider.id, offer.provider_model) for offer in gemma.offers] == [("google", "gemma-3-27b-it")]
    openai = catalog.providers["openai"].profile
    assert openai.apis == {"chat", "responses"}
    assert openai.max_tokens_field == "max_completion_tokens"
    assert catalog.routing == Routing()


def test_the_local_model_is_configured_once_its_address_is_known() -> None:
    without = load_catalog(None, {}).providers["local"]
    assert not without.is_configured
    assert without.missing_key_env is None
    assert without.remedy is not None
    assert "AISTATS_LOCAL_MODEL=1" in without.remedy
    with_url = load_catalog(None, {"AISTATS_LOCAL_MODEL_URL": "http://127.0.0.1:9999/v1/"}).providers["local"]
    assert with_url.is_configured
    assert (with_url.base_url, with_url.api_key) == ("http://127.0.0.1:9999/v1", None)


def test_the_local_model_is_offered_as_it_is_served() -> None:
    model = load_catalog(None, {}).models["local/smollm2-135m:free"]
    assert model.context_length == CONTEXT_PER_SLOT
    assert model.offers[0].provider_model == MODEL_NAME


@pytest.mark.parametrize("value", ["", "   ", "\t"])
def test_a_blank_variable_of_a_shipped_provider_counts_as_unset(value: str) -> None:
    environ = {"GEMINI_API_KEY": value, "AISTATS_LOCAL_MODEL_URL": value}
    catalog = load_catalog(None, environ)
    assert catalog.providers["google"].missing_key_env == "GEMINI_API_KEY"
    assert not catalog.providers["local"].is_configured


def test_a_key_is_stripped_and_never_shown() -> None:
    provider = load_catalog(None, {"GEMINI_API_KEY": " secret-1 "}).providers["google"]
    assert provider.is_configured
    assert provider.api_key == "secret-1"
    assert "secret-1" not in repr(provider)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "{}", "providers:\nmodels:\nrouting:\n"])
def test_an_empty_file_adds_nothing(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == load_catalog(None, {})


def test_an_operators_file_adds_to_what_ships(tmp_path: Path) -> None:
    catalog = load(tmp_path, offering(PRICE))
    assert "google/gemma-3-27b:free" in catalog.models
    offer = catalog.models["acme/test-1"].offers[0]
    assert offer.prices == PriceList({"input_text_tokens": 150_000_000, "output_text_tokens": 600_000_000})
    assert offer.price_source == "file"
    assert offer.params is None
    assert offer.provider.api_key is None
    assert offer.provider.is_configured


def test_replace_catalog_leaves_out_what_ships(tmp_path: Path) -> None:
    catalog = load(tmp_path, f"replace_catalog: true\n{offering(PRICE)}")
    assert list(catalog.providers) == ["acme"]
    assert list(catalog.models) == ["acme/test-1"]


def test_an_entry_with_a_shipped_id_replaces_it_whole(tmp_path: Path) -> None:
    text = """\
        providers: [{id: google, dialect: openai, base_url: "http://127.0.0.1:1/v1"}]
        models:
          - id: google/gemma-3-27b:free
            offers: [{provider: google, provider_model: mine}]
        """
    catalog = load(tmp_path, text)
    assert catalog.providers["google"].is_configured
    assert catalog.providers["google"].profile == ProviderProfile()
    model = catalog.models["google/gemma-3-27b:free"]
    assert (model.offers[0].provider_model, model.context_length, model.name) == ("mine", None, model.id)
    other = catalog.models["google/gemma-4-31b:free"].offers[0]
    assert other.provider is catalog.providers["google"]


def test_an_offer_takes_what_its_model_takes_unless_it_says_otherwise(tmp_path: Path) -> None:
    text = """\
        providers:
          - {id: one, dialect: openai, base_url: "http://127.0.0.1:1/v1"}
          - {id: two, dialect: openai, base_url: "http://127.0.0.1:1/v1"}
        models:
          - id: acme/said:free
            input_types: [text, image]
            context_length: 8192
            offers:
              - {provider: one, provider_model: m}
              - {provider: two, provider_model: m, input_types: [text], context_length: 4096}
          - id: acme/unsaid:free
            offers: [{provider: one, provider_model: m}, {provider: two, provider_model: m, input_types: [audio]}]
        """
    models = load(tmp_path, text).models
    taken = [(offer.input_types, offer.context_length) for offer in models["acme/said:free"].offers]
    assert taken == [(frozenset({"text", "image"}), 8192), (frozenset({"text"}), 4096)]
    taken = [(offer.input_types, offer.context_length) for offer in models["acme/unsaid:free"].offers]
    assert taken == [(None, None), (frozenset({"audio"}), None)]
    assert models["acme/unsaid:free"].input_types == ("text",)


def test_the_example_of_the_manual_loads_and_means_what_it_says(tmp_path: Path) -> None:
    manual = Path(__file__).parents[2] / "docs" / "catalogue.md"
    example = re.findall(r"```yaml\n(.*?)```", manual.read_text(encoding="utf-8"), re.DOTALL)
    assert len(example) == 1
    (tmp_path / "acme-eu.key").write_text("eu-secret\n", encoding="utf-8")
    catalog = load(tmp_path, example[0], ACME_URL="https://acme.example", ACME_KEY="secret")
    acme = catalog.providers["acme"]
    assert (acme.base_url, acme.api_key, acme.name) == ("https://acme.example/v1", "secret", "Acme Inference")
    assert acme.profile == ProviderProfile()
    assert catalog.providers["acme-eu"].api_key == "eu-secret"
    model = catalog.models["acme/test-1"]
    assert catalog.find("test-1") is catalog.find("acme/test") is model
    assert (model.created, model.release_date) == (1769817600, "2026-01-31")
    assert model.offers[0].params == frozenset({"temperature", "max_output_tokens", "tools", "response_format"})
    assert catalog.routing == Routing()


def test_the_manual_lists_every_dimension() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text(encoding="utf-8")
    section = manual[manual.index("**Dimensions**") : manual.index("**YAML.**")]
    assert set(re.findall(r"`(\w+)`", section)) == DIMENSIONS


def test_routing_limits_are_read(tmp_path: Path) -> None:
    text = "routing: {timeout_s: 90, first_byte_timeout_s: 2.5, max_attempts: 2, hedge_after_s: 1.5}"
    assert load(tmp_path, text).routing == Routing(
        timeout_s=90, first_byte_timeout_s=2.5, max_attempts=2, hedge_after_s=1.5
    )


def test_every_spelling_of_a_parameter_is_understood(tmp_path: Path) -> None:
    text = offering(f"params: [max_tokens, max_completion_tokens, text.format, reasoning.effort], {PRICE}")
    params = load(tmp_path, text).models["acme/test-1"].offers[0].params
    assert params == frozenset({"max_output_tokens", "response_format", "reasoning_effort"})


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ('{input_text_tokens: "0", output_text_tokens: "0"}', {"input_text_tokens": 0}),
        ("{input_text_tokens: 15, output_text_tokens: 0}", {"input_text_tokens": 15_000_000_000}),
        ('{input_text_tokens: "10000", output_text_tokens: "1"}', {"input_text_tokens": 10_000_000_000_000}),
        ('{input_text_tokens: "0.0001", output_text_tokens: "1"}', {"input_text_tokens": 100_000}),
        ('{input_text_tokens: "0.123456789", output_text_tokens: "1"}', {"input_text_tokens": 123_456_789}),
        ('{input_text_tokens: "1", output_text_tokens: "1", output_image: "40000"}', {"output_image": 40_000 * 10**9}),
    ],
)
def test_prices_are_exact_and_nothing_is_a_price(tmp_path: Path, price: str, expected: dict[str, int]) -> None:
    read = load(tmp_path, offering(f"price: {price}")).models["acme/test-1"].offers[0].prices.rates
    assert expected.items() <= read.items()
    assert {"input_text_tokens", "output_text_tokens"} <= read.keys()


@pytest.mark.parametrize(
    ("price", "said"),
    [
        ("endpoints2: 1", "unknown key"),
        ("params: []", 'the offer of "acme/test-1" by "acme" has no price; add one'),
        ("price: {}", 'the offer of "acme/test-1" by "acme" has no price; add one'),
        ("price:", 'the offer of "acme/test-1" by "acme" has no price; add one'),
        ('price: {input_text_tokens: "1"}', "has no price for output_text_tokens"),
        ('price: {output_text_tokens: "1"}', "has no price for input_text_tokens"),
        ('price: {input_text_tokens: 0.15, output_text_tokens: "1"}', "in quotes"),
        ('price: {input_text_tokens: true, output_text_tokens: "1"}', "in quotes"),
        ('price: {input_text_tokens: "1e-3", output_text_tokens: "1"}', "plain decimal"),
        ('price: {input_text_tokens: "-1", output_text_tokens: "1"}', "plain decimal"),
        ('price: {input_text_tokens: "NaN", output_text_tokens: "1"}', "plain decimal"),
        ('price: {input_text_tokens: "1_000", output_text_tokens: "1"}', "plain decimal"),
        ('price: {input_text_tokens: "10000.01", output_text_tokens: "1"}', "is above 10000 USD per million"),
        ('price: {input_text_tokens: "0.00009", output_text_tokens: "1"}', "is below 0.0001 USD per million"),
        (
            'price: {input_text_tokens: "0.1234567891", output_text_tokens: "1"}',
            "has more than nine decimals",
        ),
        ('price: {requests: "1000000001", input_text_tokens: "1", output_text_tokens: "1"}', "is above 1000000000 USD"),
        ('price: {input_tokens: "1", input_text_tokens: "1", output_text_tokens: "1"}', 'did you mean "input_text_tok'),
    ],
)
def test_a_price_that_cannot_be_meant_names_its_offer(tmp_path: Path, price: str, said: str) -> None:
    found = problems(tmp_path, offering(price))
    assert len(found) == 1
    assert said in found[0]
    assert found[0].startswith("my.yaml:5: models[0].offers[0]")


def test_a_price_problem_names_the_offer_and_the_dimension(tmp_path: Path) -> None:
    found = problems(tmp_path, offering('price: {input_text_tokens: "0.00000015", output_text_tokens: "1"}'))
    assert found == [
        "my.yaml:5: models[0].offers[0].price.input_text_tokens: "
        'the offer of "acme/test-1" by "acme": 0.00000015 is below 0.0001 USD per million; '
        "write the price of a million, not of one"
    ]


def test_a_free_model_needs_no_price_and_may_not_have_one(tmp_path: Path) -> None:
    assert load(tmp_path, offering("params: []", "acme/t:free")).models["acme/t:free"].offers[0].prices == PriceList()
    assert load(tmp_path, offering('price: {requests: "0"}', "acme/t:free")).models["acme/t:free"].is_free
    (found,) = problems(tmp_path, offering(PRICE, "acme/t:free"))
    assert "a :free model has no price" in found


UNSET = [{}, {"ACME": ""}, {"ACME": "   "}]


@pytest.mark.parametrize("environ", UNSET)
def test_an_operators_key_variable_must_be_set(tmp_path: Path, environ: dict[str, str]) -> None:
    text = "providers: [{id: acme, dialect: openai, base_url: 'http://a', api_key_env: ACME}]"
    assert problems(tmp_path, text, **environ) == [
        'my.yaml:1: providers[0].api_key_env: provider "acme": the variable ACME is not set, or blank; '
        "set it, or leave api_key_env out to send no key"
    ]


@pytest.mark.parametrize("environ", UNSET)
@pytest.mark.parametrize("url", ["${ACME}", "http://${ACME}/v1", "http://127.0.0.1/${ACME}"])
def test_an_operators_address_variable_must_be_set(tmp_path: Path, url: str, environ: dict[str, str]) -> None:
    text = f"providers:\n- id: acme\n  dialect: openai\n  base_url: '{url}'"
    assert problems(tmp_path, text, **environ) == [
        'my.yaml:4: providers[0].base_url: provider "acme": the variable ACME is not set, or blank; '
        "set it or write the address"
    ]


@pytest.mark.parametrize(
    "url",
    ["acme.example/v1", "ftp://a/v1", "http://", "http://a:b@c/v1", "http://a/v1?key=k", "http://a b/v1", "http://a:x/",
     "http://[::1/v1", "${}", "http://a/v1#f"],
)  # fmt: skip
def test_an_address_must_be_one_and_is_not_repeated(tmp_path: Path, url: str) -> None:
    (found,) = problems(tmp_path, f"providers:\n- id: acme\n  dialect: openai\n  base_url: '{url}'")[:1]
    assert found.startswith('my.yaml:4: providers[0].base_url: provider "acme": ')
    assert url not in found


def test_a_key_file_is_read_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n secret \n", encoding="utf-8")
    text = "providers: [{id: acme, dialect: openai, base_url: 'http://a', api_key_file: key}]"
    assert load(tmp_path, text).providers["acme"].api_key == "secret"
    assert tmp_path / "key" in read_catalog(tmp_path / "my.yaml", {}).files


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe", b"x" * 20_000])
def test_a_key_file_must_hold_a_key(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    text = "providers: [{id: acme, dialect: openai, base_url: 'http://a', api_key_file: key}]"
    assert problems(tmp_path, text) == [
        'my.yaml:1: providers[0].api_key_file: provider "acme": the file key is missing, empty or not readable'
    ]


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    text = "providers: [{id: acme, dialect: openai, base_url: 'http://a', api_key_env: ACME}]"
    (found,) = problems(tmp_path, text, ACME=key)
    assert "no header can carry" in found
    assert key not in found


def test_a_key_in_place_of_its_variables_name_is_not_repeated(tmp_path: Path) -> None:
    text = "providers: [{id: acme, dialect: openai, base_url: 'http://a', api_key_env: sk-live-abcdef}]"
    (found,) = problems(tmp_path, text)
    assert "must be the name of an environment variable" in found
    assert "sk-live" not in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("provider: []", 'my.yaml:1: provider: unknown key; did you mean "providers"?'),
        ("providers:\n- {id: a, dialect: openai, base_url: 'http://a',\n   api_key: sk-1}",
         'my.yaml:3: providers[0].api_key: unknown key; did you mean "api_key_env" or "api_key_file"?'),
        ("models:\n- id: a/b\n  offers:\n  - provider: local\n    provider_modle: x\n",
         'my.yaml:5: models[0].offers[0].provider_modle: unknown key; did you mean "provider_model" or "provider"?'),
        ("routing:\n  timeout: 3", 'my.yaml:2: routing.timeout: unknown key; did you mean "timeout_s"'),
        ("routing: {timeout_s: 0}", "my.yaml:1: routing.timeout_s: should be greater than 0"),
        ("routing: {hedge_after_s: 0}", "my.yaml:1: routing.hedge_after_s: should be greater than 0"),
        ("routing: {max_attempts: 99}", "my.yaml:1: routing.max_attempts: should be less than or equal to 10"),
        ("routing: {timeout_s: '3'}", "my.yaml:1: routing.timeout_s: should be a valid number"),
        ("replace_catalog: 'yes'", "my.yaml:1: replace_catalog: should be a valid boolean"),
        ("providers: {}", "my.yaml:1: providers: must be a list"),
        ("providers: [acme]", "my.yaml:1: providers[0]: must be a mapping (key: value)"),
        ("- a", "my.yaml:1: must be a mapping (key: value)"),
        ("providers: [{id: Acme, dialect: openai, base_url: 'http://a'}]",
         "my.yaml:1: providers[0].id: must be lower-case letters"),
        ("providers: [{id: 7, dialect: openai, base_url: 'http://a'}]",
         "my.yaml:1: providers[0].id: must be text; put it in quotes"),
        ("providers: [{id: a, dialect: opnai, base_url: 'http://a'}]",
         "my.yaml:1: providers[0].dialect: must be 'openai', 'anthropic', 'gemini' or 'cohere'"),
        ("\nproviders:\n- id: a\n  dialect: openai", "my.yaml:3: providers[0].base_url: is missing; add it"),
        ("models: [{id: test-1, offers: [{provider: local, provider_model: x}]}]",
         'my.yaml:1: models[0].id: must look like "author/slug"'),
        ("models: [{id: 'a/b:paid', offers: [{provider: local, provider_model: x}]}]",
         'my.yaml:1: models[0].id: must look like "author/slug"'),
        ("models: [{id: 'a/b:free', offers: []}]", "my.yaml:1: models[0].offers: list should have at least 1 item"),
        ("models: [{id: 'a/b:free', offers: [{provider: local, provider_model: x, endpoints: [chat, speech]}]}]",
         "my.yaml:1: models[0].offers[0].endpoints[1]: must be 'chat', 'responses', 'messages'"),
        ("models: [{id: 'a/b:free', offers: [{provider: locl, provider_model: x}]}]",
         'my.yaml:1: models[0].offers[0].provider: there is no provider "locl"; did you mean "local"?'),
        ("models: [{id: 'a/b:free', offers: [{provider: zzz, provider_model: x}]}]",
         'there is no provider "zzz"; known are anthropic, cerebras, cohere, cohere-embed, deepseek, fireworks, '),
        ("models: [{id: 'a/b:free', offers: [{provider: local, provider_model: x, params: [temprature]}]}]",
         'my.yaml:1: models[0].offers[0].params[0]: unknown parameter "temprature"; did you mean "temperature"?'),
        ("models: [{id: 'a/b:free', release_date: 2026-02-31, offers: [{provider: local, provider_model: x}]}]",
         "my.yaml:1: models[0].release_date: there is no such day"),
        ("models: [{id: 'a/b:free', aliases: [gpt-5.2], offers: [{provider: local, provider_model: x}]}]",
         'the alias "gpt-5.2" is taken by the model "openai/gpt-5.2"'),
        ("models: [{id: 'a/b:free', aliases: ['local/smollm2-135m:free'], offers: [{provider: local, "
         "provider_model: x}]}]", 'the alias "local/smollm2-135m:free" is taken'),
        ("models: [{id: 'a/b:free', offers: [{provider: local, provider_model: x}, {provider: local, "
         "provider_model: y}]}]", 'the provider "local" offers this model twice'),
        ("providers:\n- {id: a, dialect: openai, base_url: 'http://a'}\n- {id: a, dialect: openai, base_url: 'http://b'}",
         'my.yaml:3: providers[1].id: the provider "a" is here twice'),
        ("providers: [{id: a, dialect: openai, base_url: 'http://a', api_key_env: A, api_key_file: b}]",
         "api_key_env and api_key_file exclude each other"),
        ("routing: {}\nmodels: []\nrouting: {}",
         "my.yaml:3: routing: this key is here twice, first on line 1; remove one of them"),
        ("models: [", "my.yaml:1: not valid YAML: "),
        ("a: b: c", "my.yaml:1: not valid YAML: "),
        ("a: \x07", "my.yaml: not valid YAML: "),
        ("a: !!python/object:os.system x", "my.yaml:1: a: YAML tags are not supported here"),
        ("a: &a {x: 1}\nb:\n  <<: *a", "my.yaml:3: b: merge keys (<<) are not supported"),
        ("? [a, b]\n: c", "my.yaml:1: a key must be plain text"),
        ("replace_catalog: !!bool maybe", "my.yaml:1: replace_catalog: this value cannot be read"),
        ('routing: {max_attempts: !!int ""}', "my.yaml:1: routing.max_attempts: YAML reads another number here"),
        ('routing: {timeout_s: !!float ""}', "my.yaml:1: routing.timeout_s: this value cannot be read"),
        ("routing: {max_attempts: 010}", "my.yaml:1: routing.max_attempts: YAML reads another number here"),
        (offering("price: {input_text_tokens: 010, output_text_tokens: 1:30}"),
         "my.yaml:5: models[0].offers[0].price.output_text_tokens: YAML reads another number here; write it in plain"),
        ('x: "\\ud800"', "my.yaml:1: x: an escape in it stands for no character"),
        ('"\\ud800": x', "my.yaml:1: an escape in it stands for no character"),
        ('x: "\\U00110000"', "my.yaml: not valid YAML: it holds a character that YAML does not allow"),
        ('providers: [{id: a, dialect: openai, base_url: "http://a", api_key_file: "a\\0b"}]',
         'my.yaml:1: providers[0].api_key_file: provider "a": the file a'),
        ('providers: [{id: a, dialect: openai, base_url: "http://a", api_key_file: "~nosuchuser/key"}]',
         'my.yaml:1: providers[0].api_key_file: provider "a": the file ~nosuchuser/key is missing'),
        ("models: [{id: 'a/b:free', context_length: 4294967296, offers: [{provider: local, provider_model: x}]}]",
         "my.yaml:1: models[0].context_length: should be less than or equal to 4294967295"),
        ("models: [{id: 'a/b:free', max_output_tokens: 4294967296, offers: [{provider: local, provider_model: x}]}]",
         "my.yaml:1: models[0].max_output_tokens: should be less than or equal to 4294967295"),
        ("offers: [{model: 'a/b:free', provider: local, provider_model: x, context_length: 4294967296}]",
         "my.yaml:1: offers[0].context_length: should be less than or equal to 4294967295"),
        ("models: [{id: 'a/b:free', release_date: 1969-12-31, offers: [{provider: local, provider_model: x}]}]",
         "my.yaml:1: models[0].release_date: must be a date such as 2026-11-21"),
        ("models: [{id: 'a/b:free', release_date: 2107-01-01, offers: [{provider: local, provider_model: x}]}]",
         "my.yaml:1: models[0].release_date: must be a date such as 2026-11-21"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_its_remedy(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(problems(tmp_path, text))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = (
        "providers:\n"
        "- {id: a, dialect: openai, base_url: '${NOPE}', api_key_env: NOPE_KEY}\n"
        "models:\n"
        "- {id: a/x, offers: [{provider: a, provider_model: x, params: [what]}]}\n"
        "- {id: a/y, offers: [{provider: b, provider_model: y}]}\n"
    )
    found = problems(tmp_path, text)
    assert [line.partition(": ")[2].partition(":")[0] for line in found] == [
        "providers[0].base_url",
        "providers[0].api_key_env",
        "models[0].offers[0].params[0]",
        "models[0].offers[0].price",
        "models[1].offers[0].provider",
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"none\.yaml: there is no such file"):
        load_catalog(tmp_path / "none.yaml", {})
    with pytest.raises(CatalogError, match="cannot be read"):
        load_catalog(tmp_path, {})
    (tmp_path / "latin.yaml").write_bytes(b"a: b\nc: \xe9\n")
    with pytest.raises(CatalogError, match=r"latin\.yaml:2: is not UTF-8 text"):
        load_catalog(tmp_path / "latin.yaml", {})
    (tmp_path / "big.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(CatalogError, match=r"big\.yaml: is larger than 1048576 bytes"):
        load_catalog(tmp_path / "big.yaml", {})


@pytest.mark.parametrize(
    "text",
    [
        "x: " + "[" * 20_000,
        "x: &a [*a]",
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)),
    ],
    ids=["deep", "recursive", "billion laughs"],
)
def test_a_file_cannot_exhaust_the_reader(tmp_path: Path, text: str) -> None:
    found = problems(tmp_path, text)
    assert "nested too deeply" in found[0] or "describes more than 100000 values" in found[0]
