"""The command `providers`, as a person types it, beside workers that have reported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from server.catalogue import load_catalog
from server.cli_providers import providers
from server.clock import SystemClock, UuidV7
from server.domain.catalog import Catalog
from server.domain.errors import FailureCategory
from server.domain.health import HealthExchange
from server.domain.request import Endpoint
from server.pipeline.health.offers import Health
from server.pipeline.health.share import Sharing
from server.pipeline.health.standing import RouteKey
from server.storage.group_commit import GroupCommit
from server.storage.health_reports import SqlHealthExchange
from server.storage.teams import DEFAULT_TEAM, Teams
from server.storage.valkey_health import ValkeyHealthExchange
from server.storage.valkey_url import parse_valkey_url
from tests.fakes.health import fail, middle, succeed
from tests.integration.databases import migrated
from tests.integration.valkey import ValkeyServer, valkey

__all__ = ["valkey"]

CONFIG = """
providers:
  - {id: acme, dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key_env: ACME_KEY_THAT_IS_NOT_SET}
  - {id: backup, dialect: openai, base_url: "http://127.0.0.1:1/v1"}
models:
  - id: acme/two:free
    offers: [{provider: acme, provider_model: a}, {provider: backup, provider_model: b}]
  - id: acme/only:free
    offers: [{provider: backup, provider_model: c}]
"""
ACME = RouteKey("acme", "acme/two:free", Endpoint.CHAT)
BACKUP = RouteKey("backup", "acme/two:free", Endpoint.CHAT)


class Source:
    def __init__(self, catalog: Catalog) -> None:
        self.current = catalog


class Shell:
    """Runs commands against one database; workers report into it."""

    def __init__(self, database_url: str, directory: Path) -> None:
        self._url, self._config = database_url, directory / "gateway.yaml"
        self._config.write_text(CONFIG)
        self._environment = {
            "AISTATS_DATABASE_URL": database_url,
            "AISTATS_DATA_DIR": str(directory),
            "AISTATS_CONFIG": str(self._config),
        }
        self._valkey: str | None = None

    def use_valkey(self, url: str) -> None:
        self._valkey = self._environment["AISTATS_VALKEY_URL"] = url

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(providers, arguments, env=self._environment)

    def said(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def status(self) -> dict[str, dict[str, Any]]:
        return {one["id"]: one for one in json.loads(self.said("status", "--json"))}

    def report(self, worker: str, happened: Callable[[Health], None]) -> None:
        """What a worker tells of what happened to it."""
        asyncio.run(self._report(worker, happened))

    async def _report(self, worker: str, happened: Callable[[Health], None]) -> None:
        async with migrated(self._url) as database:
            clock, commits = SystemClock(), GroupCommit(database)
            health = Health(clock, middle)
            exchange: HealthExchange = SqlHealthExchange(database, commits, clock, worker)
            if self._valkey is not None:
                await Teams(database, clock, UuidV7()).create(DEFAULT_TEAM)
                exchange = ValkeyHealthExchange(parse_valkey_url(self._valkey), database, clock, worker)
            catalog = load_catalog(self._config, {"ACME_KEY_THAT_IS_NOT_SET": "key"})
            sharing = Sharing(health, exchange, Source(catalog), clock)
            happened(health)
            await sharing.exchange()
            await commits.close()
            if isinstance(exchange, ValkeyHealthExchange):
                exchange.close()


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Shell:
    return Shell(database_url, tmp_path)


def test_status_adds_up_what_workers_have_reported(shell: Shell) -> None:
    shell.report("one", lambda health: succeed(health, 30, BACKUP))
    shell.report("two", lambda health: succeed(health, 30, BACKUP))
    shell.report("three", lambda health: fail(health, 1, ACME, category=FailureCategory.CREDENTIALS))
    known = shell.status()
    assert (known["backup"]["status"], known["backup"]["drained"]) == ("ok", None)
    assert 50 <= known["backup"]["requests_1m"] <= 60
    assert known["backup"]["latency_ms"]["p50"] > 0
    assert known["acme"]["status"] == "down"
    assert known["acme"]["breaker"]["state"] == "open"
    header, *rows = shell.said("status").splitlines()
    assert header.split() == [
        *("PROVIDER", "STATUS", "SCORE", "SUCCESS", "P50", "P95", "IN", "FLIGHT", "LAST", "MINUTE", "WHY")
    ]
    acme = next(row for row in rows if row.startswith("acme "))
    assert "breaker open: credentials, to be tried 20" in acme
    assert next(row for row in rows if row.startswith("openai ")).split()[:2] == ["openai", "not_configured"]


def test_with_valkey_figures_come_from_there_and_drains_from_the_database(
    sqlite_url: str, tmp_path: Path, valkey: ValkeyServer
) -> None:
    shell = Shell(sqlite_url, tmp_path)
    shell.use_valkey(valkey.url)
    shell.report("one", lambda health: fail(health, 1, BACKUP, category=FailureCategory.CREDENTIALS))
    shell.said("drain", "acme")
    known = shell.status()
    assert (known["backup"]["status"], known["acme"]["status"]) == ("down", "drained")
    valkey.kill()
    result = shell.run("status")
    assert result.exit_code == 0
    assert "warning: Valkey does not answer" in result.stderr
    assert "drained 20" in result.stdout


def test_drained_and_back(shell: Shell) -> None:
    assert shell.said("drain", "acme", "--reason", "their incident") == "Drained acme.\n"
    assert shell.said("drain", "acme") == "acme was drained already.\n"
    acme = next(row for row in shell.said("status").splitlines() if row.startswith("acme "))
    assert acme.endswith(": their incident")
    assert shell.status()["acme"]["drained"]["reason"] == "their incident"
    assert shell.said("undrain", "acme") == "acme is back.\n"
    assert shell.said("undrain", "acme") == "acme was not drained.\n"
    assert shell.status()["acme"]["drained"] is None


def test_draining_says_what_nobody_else_serves(shell: Shell) -> None:
    assert shell.said("drain", "backup").splitlines() == [
        "Drained backup.",
        "Nobody serves now: acme/only:free.",
    ]
    assert shell.status()["backup"]["status"] == "drained"
    told = json.loads(shell.said("drain", "acme", "--json"))
    assert told == {"id": "acme", "drained": True, "changed": True, "models_lost": ["acme/two:free"]}


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_an_unknown_provider_is_refused_with_near_names(shell: Shell, command: str) -> None:
    result = shell.run(command, "bakcup")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no provider 'bakcup'; did you mean \"backup\"?" in " ".join(result.stderr.split())


def test_who_has_left_the_catalogue_can_be_brought_back(shell: Shell, tmp_path: Path) -> None:
    shell.said("drain", "backup")
    (tmp_path / "gateway.yaml").write_text("{}\n")
    assert shell.said("undrain", "backup") == "backup is back.\n"


def test_a_broken_catalogue_and_a_long_reason_are_said(shell: Shell, tmp_path: Path) -> None:
    assert "200 printable characters" in shell.run("drain", "acme", "--reason", "x" * 201).stderr
    (tmp_path / "gateway.yaml").write_text("providers: 7\n")
    broken = shell.run("status")
    assert broken.exit_code == 1
    assert "gateway.yaml:1" in broken.stderr
