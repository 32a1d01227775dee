"""`aistats-gateway catalog import`, asked of servers that list models."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from server.catalogue import load_catalog
from server.cli_catalog import catalog

KEY = "sk-secret-1"


class Lister(ThreadingHTTPServer):
    """Answers every GET with `status` and `said`, and remembers what was asked."""

    def __init__(self) -> None:
        self.said: Any = {"object": "list", "data": []}
        self.status = 200
        self.asked: list[tuple[str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Lister

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        body = json.dumps(self.server.said).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Lister]:
    with Lister() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def config(tmp_path: Path, upstream: Lister) -> Path:
    """A file whose providers are all that server, under several dialects."""
    path = tmp_path / "my.yaml"
    path.write_text(f"""\
# my own
providers:
- {{id: near, dialect: openai, base_url: "{upstream.url}/v1"}}
- {{id: groq, dialect: openai, base_url: "{upstream.url}/v1", api_key_env: A_KEY}}   # under its name, for its prices
- {{id: claude, dialect: anthropic, base_url: "{upstream.url}/v1", api_key_env: A_KEY, prices_as: anthropic}}
- {{id: gemini, dialect: gemini, base_url: "{upstream.url}/v1beta", api_key_env: A_KEY, prices_as: google}}
- {{id: embedder, dialect: cohere, base_url: "{upstream.url}/v2"}}
""")
    return path


def run(config: Path, *args: str) -> Result:
    return CliRunner().invoke(catalog, ["import", *args], env={"AISTATS_CONFIG": str(config), "A_KEY": KEY})


def test_what_a_server_lists_is_printed_as_a_file(config: Path, upstream: Lister) -> None:
    upstream.said["data"] = [{"id": "qwen3:8b", "object": "model"}, {"id": "nomic-embed-text", "max_model_len": 2048}]
    result = run(config, "--provider", "near")
    assert (result.exit_code, result.stderr) == (0, "")
    models = yaml.safe_load(result.stdout)["models"]
    assert [model["id"] for model in models] == ["near/nomic-embed-text:free", "near/qwen3-8b:free"]
    assert models[0]["context_length"] == 2048
    path, headers = upstream.asked[0]
    assert path == "/v1/models"
    assert "authorization" not in headers


def test_into_a_file_that_goes_on_being_ones_own(config: Path, upstream: Lister) -> None:
    upstream.said["data"] = [{"id": "m-1"}, {"id": "m-2"}]
    before = config.read_text()
    os.chmod(config, 0o640)
    result = run(config, "--provider", "near", "--match", "*-1", "--into", str(config))
    assert result.exit_code == 0
    assert result.stdout == f"{config}: offers added by near: 1 new\n"
    assert config.read_text().startswith(before)
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    loaded = load_catalog(config, {"A_KEY": KEY})
    assert [model.id for model in loaded.models.values() if model.offers[0].provider.id == "near"] == ["near/m-1:free"]
    again = run(config, "--provider", "near", "--into", str(config))
    assert again.stderr == "left out, is in the catalogue already: m-1\n"
    assert sorted(config.parent.iterdir()) == [config]
    assert load_catalog(config, {"A_KEY": KEY}).models.keys() >= {"near/m-1:free", "near/m-2:free"}


def test_a_new_file_is_made(config: Path, upstream: Lister, tmp_path: Path) -> None:
    upstream.said["data"] = [{"id": "openai/gpt-oss-120b"}]
    result = run(config, "--provider", "groq", "--into", str(tmp_path / "new.yaml"))
    assert result.exit_code == 0
    assert "left out, is in the catalogue already: openai/gpt-oss-120b" in result.stderr
    assert not (tmp_path / "new.yaml").exists()


def test_prices_are_those_of_the_table_and_what_has_none_is_named(config: Path, upstream: Lister) -> None:
    upstream.said["data"] = [{"id": "qwen/qwen3-32b", "context_window": 131072}, {"id": "strange"}]
    result = run(config, "--provider", "groq", "--into", str(config))
    assert result.exit_code == 0, result.output
    assert upstream.asked[0][1]["authorization"] == f"Bearer {KEY}"
    offer = load_catalog(config, {"A_KEY": KEY}).models["qwen/qwen3-32b"].offers[0]
    assert (offer.price_source, offer.prices.rates["input_text_tokens"]) == ("default", 290_000_000)
    assert KEY not in result.output + config.read_text()


@pytest.mark.parametrize(
    ("provider", "said", "path", "header", "model_id"),
    [
        ("claude", {"data": [{"id": "claude-3-haiku", "display_name": "Claude 3 Haiku"}], "has_more": False},
         "/v1/models?limit=1000", "x-api-key", "claude/claude-3-haiku"),
        ("gemini", {"models": [{"name": "models/gemini-2.0-pro-x", "supportedGenerationMethods": ["predict"]},
                               {"name": "models/gemini-1.5-pro", "supportedGenerationMethods": ["generateContent"]}]},
         "/v1beta/models?pageSize=1000", "x-goog-api-key", "gemini/gemini-1.5-pro"),
    ],
)  # fmt: skip
def test_other_dialects_are_asked_in_their_own_words(
    config: Path, upstream: Lister, provider: str, said: Any, path: str, header: str, model_id: str
) -> None:
    upstream.said = said
    result = run(config, "--provider", provider, "--price", "1/2")
    assert result.exit_code == 0, result.output
    assert model_id in [model["id"] for model in yaml.safe_load(result.stdout)["models"]]
    assert upstream.asked[0][0] == path
    assert upstream.asked[0][1][header] == KEY


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--provider", "gorq"], 'there is no provider "gorq"; did you mean "groq"?'),
        (["--provider", "openai"], 'the provider "openai" is not configured: set OPENAI_API_KEY'),
        (["--provider", "embedder"], "the dialect cohere has no list"),
        (["--provider", "near", "--price", "0.15"], "a slash"),
        (["--provider", "near", "--price", "a/b"], "USD per million"),
        (["--provider", "near", "--price", "0.15/99999"], "above 10000"),
        ([], "Missing option '--provider'"),
    ],
)
def test_a_wrong_wish_is_told_apart(config: Path, args: list[str], told: str) -> None:
    result = run(config, *args)
    assert result.exit_code in (1, 2)
    assert told in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (401, {"error": "bad key"}, "refused the key (401)"),
        (404, {}, "answered 404 where its models should be listed"),
        (200, {"hello": "there"}, "the reply is no list of models"),
    ],
)
def test_a_server_that_lists_nothing(config: Path, upstream: Lister, status: int, said: Any, told: str) -> None:
    upstream.status, upstream.said = status, said
    before = config.read_text()
    result = run(config, "--provider", "groq", "--into", str(config))
    assert result.exit_code == 1
    assert told in result.stderr
    assert KEY not in result.output
    assert config.read_text() == before


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    config = tmp_path / "my.yaml"
    config.write_text('providers: [{id: gone, dialect: openai, base_url: "http://127.0.0.1:9/v1"}]')
    result = run(config, "--provider", "gone")
    assert result.exit_code == 1
    assert "could not be reached" in result.stderr


def test_a_file_that_would_not_be_right_is_left_as_it_was(config: Path, upstream: Lister) -> None:
    config.write_text(config.read_text() + "models: [{id: a/b, offers: [{provider: near, provider_model: x}]}]\n")
    result = run(config, "--provider", "near", "--into", str(config))
    assert result.exit_code == 1
    assert "the catalogue cannot be used" in result.stderr  # a/b has no price
    config.write_text(config.read_text().replace("a/b", "a/b:free"))
    upstream.said["data"] = [{"id": "m-1"}]
    result = run(config, "--provider", "near", "--into", str(config))
    assert result.exit_code == 1
    assert "has its models in brackets" in result.stderr


def test_nothing_that_fits(config: Path, upstream: Lister) -> None:
    assert "it lists no models" in run(config, "--provider", "near").stderr
    upstream.said["data"] = [{"id": "m-1"}]
    assert "none of its 1 models fits --match" in run(config, "--provider", "near", "--match", "zzz*").stderr


def test_the_ends_of_its_lines_stay_as_they_are(config: Path, upstream: Lister) -> None:
    upstream.said["data"] = [{"id": "m-1"}]
    before = config.read_bytes().replace(b"\n", b"\r\n")
    config.write_bytes(before)
    assert run(config, "--provider", "near", "--into", str(config)).exit_code == 0
    after = config.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == after.count(b"\r\n") > before.count(b"\n")


def test_where_they_are_mixed_nothing_of_it_changes(config: Path, upstream: Lister) -> None:
    upstream.said["data"] = [{"id": "m-1"}]
    before = config.read_bytes().replace(b"# my own\n", b"# my own\r\n")
    config.write_bytes(before)
    assert run(config, "--provider", "near", "--into", str(config)).exit_code == 0
    assert config.read_bytes().startswith(before)


def test_a_link_stays_one_and_its_files_are_those_beside_it(config: Path, upstream: Lister, tmp_path: Path) -> None:
    upstream.said["data"] = [{"id": "m-1"}]
    kept = tmp_path / "kept"
    kept.mkdir()
    target = config.rename(kept / "mine.yaml")
    target.write_text(target.read_text().replace("api_key_env: A_KEY", "api_key_file: key"))
    (tmp_path / "key").write_text(KEY)
    config.symlink_to(target)
    result = run(config, "--provider", "near", "--into", str(config))
    assert (result.exit_code, result.stdout) == (0, f"{config}: offers added by near: 1 new\n")
    assert config.readlink() == target
    assert "near/m-1:free" in load_catalog(config, {}).models
    assert sorted(tmp_path.iterdir()) == sorted([config, kept, tmp_path / "key"])
    assert list(kept.iterdir()) == [target]
