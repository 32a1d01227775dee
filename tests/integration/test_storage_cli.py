"""The commands `keys` and `teams`, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from server.cli_audit import audit
from server.cli_keys import keys
from server.cli_shared import with_database
from server.cli_teams import teams
from server.domain.errors import GatewayError, Reason
from server.storage import api_key
from server.storage.database import Database


class Shell:
    """Runs commands against one database."""

    def __init__(self, database_url: str, data_dir: Path) -> None:
        self._environment = {"AISTATS_DATABASE_URL": database_url, "AISTATS_DATA_DIR": str(data_dir)}

    def run(self, command: click.Command, *arguments: str) -> Result:
        return CliRunner().invoke(command, arguments, env=self._environment)

    def json(self, command: click.Command, *arguments: str) -> Any:
        result = self.run(command, *arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def fails(self, command: click.Command, *arguments: str) -> str:
        result = self.run(command, *arguments)
        assert result.exit_code != 0
        assert result.stdout == ""
        return " ".join(result.stderr.split())


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Shell:
    return Shell(database_url, tmp_path)


def test_from_an_empty_database_to_a_key_and_back(shell: Shell) -> None:
    team = shell.json(teams, "create", "acme")
    assert team == {
        "id": team["id"],
        "name": "acme",
        "created_at": team["created_at"],
        "store_content": False,
        "content_days": 30,
        "on_disconnect": "provider",
        "sort": "balanced",
        "regions": None,
        "moderation": None,
    }
    assert shell.json(teams, "list") == [team]
    created = shell.json(keys, "create", "--team", "acme", "--name", "ci", "--scope", "inference")
    assert created == {
        "id": created["id"],
        "key": created["key"],
        "team": "acme",
        "name": "ci",
        "scopes": ["inference"],
        "expires_at": None,
        "disabled": False,
        "limit_nanos": None,
        "limit_reset": None,
        "allowed_models": None,
        "allowed_providers": None,
        "allowed_cidrs": None,
    }
    token = api_key.parse(created["key"])
    assert token is not None
    assert token.kid == created["id"]
    listed = shell.run(keys, "list", "--json").stdout
    assert token.secret not in listed
    assert [(key["id"], key["status"]) for key in json.loads(listed)] == [(created["id"], "active")]
    assert shell.run(keys, "revoke", created["id"]).stdout == f"Revoked {created['id']}.\n"
    assert shell.json(keys, "list", "--team", "acme")[0]["status"] == "revoked"


def test_the_key_alone_is_on_stdout(shell: Shell) -> None:
    shell.json(teams, "create", "--name", "acme")
    result = shell.run(
        keys, "create", "--team", "acme", "--name", "x", "--scope", "inference", "--scope", "management",
        "--expires-in", "30d",
    )  # fmt: skip
    assert api_key.parse(result.stdout.strip()) is not None
    assert "will not be shown again" in result.stderr
    (listed,) = shell.json(keys, "list")
    assert listed["scopes"] == ["inference", "management"]
    assert 0 <= listed["created_at"] + 30 * 86_400 - listed["expires_at"] <= 5


def test_tables_for_people_hold_no_secret(shell: Shell) -> None:
    shell.json(teams, "create", "acme")
    created = shell.json(keys, "create", "--team", "acme", "--name", "ci", "--scope", "inference")
    table = shell.run(keys, "list").stdout
    assert table.splitlines()[0].split() == [
        "ID",
        "TEAM",
        "NAME",
        "SCOPES",
        "STATUS",
        "CREATED",
        "EXPIRES",
        "LAST",
        "USED",
        "LIMIT",
        "SPENT",
        "ONLY",
    ]
    assert created["id"] in table
    assert created["key"].rpartition("_")[2] not in table
    assert "acme" in shell.run(teams, "list").stdout


def test_a_leaked_key_can_be_revoked_by_its_text(shell: Shell) -> None:
    shell.json(teams, "create", "acme")
    created = shell.json(keys, "create", "--team", "acme", "--name", "ci", "--scope", "inference")
    assert shell.run(keys, "revoke", created["key"]).stdout == f"Revoked {created['id']}.\n"


def test_an_unknown_team_is_named_with_the_way_to_make_it(shell: Shell) -> None:
    said = shell.fails(keys, "create", "--team", "acme", "--name", "ci", "--scope", "inference")
    assert "--team" in said
    assert "no team 'acme'" in said
    assert "aistats-gateway teams create acme" in said
    assert shell.json(keys, "list") == []
    assert "--team" in shell.fails(keys, "list", "--team", "acme")


def test_what_is_wrong_is_said(shell: Shell) -> None:
    shell.json(teams, "create", "acme")
    make = ("create", "--team", "acme", "--name", "ci", "--scope")
    assert "There is a team 'acme' already" in shell.fails(teams, "create", "acme")
    assert "1 to 64 letters" in shell.fails(teams, "create", "a b")
    assert "Give the new team a name" in shell.fails(teams, "create")
    assert "no key of that id" in shell.fails(keys, "revoke", "ffffffffffffffff")
    assert "inference" in shell.fails(keys, *make, "everything")
    for lifetime in ("30", "0d", "-1d", "4000d", "d", "1y"):
        assert "12h, 30d" in shell.fails(keys, *make, "inference", "--expires-in", lifetime)
    assert "printable" in shell.fails(keys, "create", "--team", "acme", "--name", " ", "--scope", "inference")
    assert shell.json(keys, "list") == []


def test_a_database_that_cannot_be_reached_is_said_without_a_traceback(tmp_path: Path) -> None:
    away = Shell(f"postgresql+asyncpg://me:s3cret@/x?host={tmp_path}", tmp_path)
    said = away.fails(keys, "list")
    assert "AISTATS_DATABASE_URL" in said
    assert "s3cret" not in said
    assert "Traceback" not in said


def test_a_refusal_that_the_database_has_no_part_in_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AISTATS_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/gateway.db")

    async def full(_: Database) -> None:
        raise GatewayError(Reason.TOO_MANY_KEYS, "The team has 10000 keys.")

    with pytest.raises(click.ClickException) as caught:
        with_database(full)
    assert caught.value.message == "The team has 10000 keys."


def test_a_team_is_set_up(shell: Shell) -> None:
    team = shell.json(teams, "create", "acme")
    shell.json(teams, "create", "other")
    changed = shell.json(teams, "set", "acme", "--store-content", "on", "--content-days", "7")
    assert changed == team | {"store_content": True, "content_days": 7}
    changed = shell.json(teams, "set", "acme", "--on-disconnect", "drain")
    assert changed == team | {"store_content": True, "content_days": 7, "on_disconnect": "drain"}
    assert shell.json(teams, "list")[0] == changed
    assert shell.json(teams, "list")[1]["store_content"] is False
    listed = shell.run(teams, "list").stdout
    assert "kept 7 days" in listed
    assert "drain" in listed
    said = shell.run(teams, "set", "acme", "--store-content", "off", "--on-disconnect", "provider").stdout
    assert said == "Team acme: content not kept, on disconnect provider, sort balanced, regions any, moderation off.\n"
    said = shell.run(teams, "set", "acme", "--sort", "latency", "--regions", "eu, ch,eu").stdout
    assert said == "Team acme: content not kept, on disconnect provider, sort latency, regions eu,ch, moderation off.\n"
    changed = shell.json(teams, "set", "acme", "--sort", "throughput")
    assert (changed["sort"], changed["regions"]) == ("throughput", ["eu", "ch"])
    changed = shell.json(teams, "set", "acme", "--sort", "balanced", "--regions", "any")
    assert (changed["sort"], changed["regions"]) == ("balanced", None)
    said = shell.run(teams, "set", "acme", "--moderation-input", "block").stdout
    assert "moderation in block, out off, by any" in said
    options = ("--moderation-input", "off", "--moderation-output", "flag", "--moderation-model", "a/judge")
    changed = shell.json(teams, "set", "acme", *options)
    assert changed["moderation"] == {"input": None, "output": "flag", "model": "a/judge"}
    changed = shell.json(teams, "set", "acme", "--moderation-output", "off", "--moderation-model", "any")
    assert changed["moderation"] is None
    for wrong in ("", "EU", "eu,,ch", "eu ch"):
        assert "parted by commas" in shell.fails(teams, "set", "acme", "--regions", wrong)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["acme"], "Say what to change"),
        (["nobody", "--store-content", "on"], "there is no team 'nobody'"),
        (["acme", "--content-days", "0"], "--content-days"),
        (["acme", "--content-days", "3651"], "--content-days"),
        (["acme", "--store-content", "maybe"], "--store-content"),
        (["acme", "--on-disconnect", "never"], "--on-disconnect"),
    ],
)
def test_a_team_cannot_be_set_up_so(shell: Shell, arguments: list[str], says: str) -> None:
    team = shell.json(teams, "create", "acme")
    assert says in shell.fails(teams, "set", *arguments)
    assert shell.json(teams, "list") == [team]


@pytest.mark.parametrize(
    ("group", "command"),
    [(group, command) for group in (keys, teams, audit) for command in (None, *group.commands)],
)
def test_every_help_text_has_an_example(group: click.Group, command: str | None) -> None:
    result = CliRunner().invoke(group, [*([command] if command else []), "--help"])
    assert result.exit_code == 0
    assert "Example:\n    aistats-gateway " in result.output
