"""The command `generations`, as a person types it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from server.cli_generations import generations
from server.cli_teams import teams
from server.clock import SystemClock
from server.domain.ledger import Settlement
from server.domain.record import GenerationRecord, StoredContent
from server.storage.database import Database
from server.storage.generations import DAY_S
from server.storage.ledger import SqlLedger
from tests.fakes.records import BODY, REPLY, record, refused, suffix_of
from tests.integration.test_storage_cli import Shell

Put = Callable[..., None]


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Shell:
    return Shell(database_url, tmp_path)


@pytest.fixture
def team_id(shell: Shell) -> str:
    shell.json(teams, "create", "other")
    return str(shell.json(teams, "create", "acme")["id"])


@pytest.fixture
def put(database_url: str, team_id: str) -> Put:
    """Writes records as the ledger does."""

    def write(*records: GenerationRecord, content: StoredContent | None = None) -> None:
        asyncio.run(_write(database_url, records, content))

    return write


async def _write(url: str, records: tuple[GenerationRecord, ...], content: StoredContent | None) -> None:
    database = Database.open(url)
    ledger = SqlLedger(database, SystemClock(), "worker")
    for one in records:
        await ledger.settle(Settlement(one, held=False, content=content))
    await ledger.close()
    await database.close()


def now() -> int:
    return int(SystemClock().now())


def test_show_prints_what_the_api_answers(shell: Shell, put: Put, team_id: str) -> None:
    put(record(1, team_id, created_at=now()), content=StoredContent("/v1/chat/completions", BODY, REPLY))
    told = shell.json(generations, "show", f"chatcmpl-{suffix_of(1)}", "--team", "acme")
    assert (told["id"], told["cost_nanos"], told["replay_request"]) == (f"gen_{suffix_of(1)}", 4200, json.loads(BODY))
    text = shell.run(generations, "show", suffix_of(1), "--team", "acme").stdout
    assert f"id:                 gen_{suffix_of(1)}\n" in text
    assert "provider:           acme\n" in text


def test_list_filters_and_pages(shell: Shell, put: Put, team_id: str) -> None:
    put(*(record(number, team_id) for number in range(5)), refused(5, team_id))

    def listed(*options: str) -> list[int]:
        found = shell.json(generations, "list", "--team", "acme", *options)
        return [int(one["id"].removeprefix("gen_"), 16) for one in found]

    assert listed() == [5, 4, 3, 2, 1, 0]
    assert listed("--limit", "2") == [5, 4]
    assert listed("--limit", "2", "--after", f"gen_{suffix_of(4)}") == [3, 2]
    assert listed("--status-code", "400") == listed("--key", "key-2") == [5]
    assert listed("--provider", "acme", "--model", "acme/test-1") == [4, 3, 2, 1, 0]
    assert shell.json(generations, "list", "--team", "other") == []
    table = shell.run(generations, "list", "--team", "acme").stdout.splitlines()
    assert table[0].split()[:3] == ["ID", "CREATED", "ENDPOINT"]
    assert "malformed_json" in table[1]
    assert "0.0000042" in table[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", suffix_of(1), "--team", "other"), "There is no such generation."),
        (("show", "nonsense", "--team", "acme"), "There is no such generation."),
        (("show", suffix_of(1), "--team", "nobody"), "there is no team 'nobody'"),
        (("list", "--team", "acme", "--status-code", "7"), "status_code"),
        (("list", "--team", "acme", "--after", "first"), "after"),
        (("list", "--team", "acme", "--limit", "0"), "--limit"),
        (("replay", suffix_of(1), "--team", "acme"), "--key"),
        (("replay", suffix_of(1), "--team", "acme", "--key", "k"), "is not kept"),
        (("replay", suffix_of(2), "--team", "acme", "--key", "k"), "is not kept"),
        (("replay", suffix_of(3), "--team", "acme", "--key", "k", "--url", "gateway"), "write http://HOST:PORT"),
        (("replay", suffix_of(3), "--team", "acme", "--key", "k", "--url", "http://127.0.0.1:9"), "did not answer"),
    ],
)
def test_what_cannot_be_done_is_said(
    shell: Shell, put: Put, team_id: str, arguments: tuple[str, ...], says: str
) -> None:
    put(record(1, team_id, created_at=now()))
    put(record(2, team_id, created_at=now()), content=StoredContent("", None, REPLY))
    put(record(3, team_id, created_at=now()), content=StoredContent("/v1/chat/completions", BODY, REPLY))
    said = shell.fails(generations, *arguments)
    assert says in said
    assert "Traceback" not in said
    assert "AISTATS_DATABASE_URL" not in said


def test_purge_forgets_what_is_due(shell: Shell, put: Put, team_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = now() - 40 * DAY_S, now()
    put(*(record(number, team_id, created_at=old) for number in range(3)), content=StoredContent("/", BODY, REPLY))
    put(record(3, team_id, created_at=new), content=StoredContent("/", BODY, REPLY))
    assert shell.json(generations, "purge") == {"contents": 3, "records": 0}
    monkeypatch.setenv("AISTATS_RECORD_DAYS", "30")
    assert shell.run(generations, "purge").stdout == "Forgot the content of 0 requests, and 3 records.\n"
    (left,) = shell.json(generations, "list", "--team", "acme")
    assert (left["id"], left["replay_supported"]) == (f"gen_{suffix_of(3)}", True)


@pytest.mark.parametrize("command", [None, *generations.commands])
def test_every_help_text_has_an_example(command: str | None) -> None:
    result = CliRunner().invoke(generations, [*([command] if command else []), "--help"])
    assert isinstance(generations, click.Group)
    assert result.exit_code == 0
    assert "Example:\n    " in result.output
