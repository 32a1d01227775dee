"""What keys are held to, their rotation, and the log of it all, as a person types it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.cli_audit import audit
from server.cli_keys import keys
from server.cli_teams import teams
from server.storage import api_key
from tests.integration.test_storage_cli import Shell

MAKE = ("create", "--team", "acme", "--name", "ci", "--scope", "inference")
HELD = ("--model", "acme/*", "--model", "*:free", "--provider", "acme", "--cidr", "10.0.0.0/8", "--cidr", "::1")


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Shell:
    shell = Shell(database_url, tmp_path)
    shell.json(teams, "create", "acme")
    return shell


def restrictions(shown: Any) -> list[Any]:
    return [shown[f"allowed_{name}"] for name in ("models", "providers", "cidrs")]


def test_a_key_is_held_to_something_and_let_go(shell: Shell) -> None:
    made = shell.json(keys, *MAKE, *HELD, "--disabled")
    assert restrictions(made) == [["acme/*", "*:free"], ["acme"], ["10.0.0.0/8", "::1"]]
    (listed,) = shell.json(keys, "list")
    assert (listed["status"], restrictions(listed)) == ("disabled", restrictions(made))
    assert "models acme/*,*:free; providers acme; from 10.0.0.0/8,::1" in shell.run(keys, "list").stdout
    changed = shell.json(keys, "set", made["id"], "--enable", "--model", "none", "--cidr", "192.0.2.1", "--name", "new")
    assert restrictions(changed) == [None, ["acme"], ["192.0.2.1"]]
    assert (changed["disabled"], changed["name"], changed["scopes"]) == (False, "new", ["inference"])
    changed = shell.json(keys, "set", made["id"], "--scope", "management", "--expires-in", "1h", "--disable")
    assert (changed["scopes"], changed["disabled"], changed["expires_at"] is None) == (["management"], True, False)
    assert shell.json(keys, "set", made["id"], "--expires-in", "none")["expires_at"] is None


def test_a_key_is_rotated(shell: Shell) -> None:
    made = shell.json(keys, *MAKE)
    rotated = shell.json(keys, "rotate", made["id"], "--overlap", "1h")
    assert rotated["id"] == made["id"]
    assert rotated["key"] != made["key"]
    assert rotated["previous_key_expires_at"] > 0
    result = shell.run(keys, "rotate", rotated["key"], "--overlap", "0s")
    assert api_key.parse(result.stdout.strip()) is not None
    assert "has ended" in result.stderr
    shell.run(keys, "revoke", made["id"])
    for command in (("rotate", made["id"]), ("set", made["id"], "--enable")):
        assert "no key of that id" in shell.fails(keys, *command)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--cidr", "10.0.0.1/8"), "the network is 10.0.0.0/8"),
        (("--cidr", "home"), "must be an address or a network"),
        (("--model", "a b"), "one asterisk"),
        (("--provider", "A"), "id of a provider"),
        (("--model", "none", "--model", "a/b"), "give it alone"),
        (("--cidr", "::1") * 101, "at most 100 times"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_said(shell: Shell, arguments: tuple[str, ...], told: str) -> None:
    assert told in shell.fails(keys, *MAKE, *arguments)
    assert shell.json(keys, "list") == []


def test_rotation_has_bounds(shell: Shell) -> None:
    kid = shell.json(keys, *MAKE)["id"]
    for overlap in ("31d", "-1h", "soon"):
        assert "at most 30d" in shell.fails(keys, "rotate", kid, "--overlap", overlap)


def test_the_log_tells_what_was_done_here(shell: Shell) -> None:
    shell.json(teams, "create", "other")
    made = shell.json(keys, *MAKE)
    shell.json(keys, "set", made["id"], "--limit", "5")
    shell.json(keys, "rotate", made["id"])
    shell.run(keys, "revoke", made["id"])
    shell.json(teams, "set", "acme", "--sort", "price")
    entries = shell.json(audit, "list", "--team", "acme")
    assert [(entry["actor"], entry["action"]) for entry in entries] == [
        ("cli", "team.update"),
        ("cli", "key.revoke"),
        ("cli", "key.rotate"),
        ("cli", "key.update"),
        ("cli", "key.create"),
        ("cli", "team.create"),
    ]
    assert (entries[3]["before"], entries[3]["after"]) == ({"limit_nanos": None}, {"limit_nanos": 5 * 10**9})
    assert len(shell.json(audit, "list")) == 7
    assert [entry["action"] for entry in shell.json(audit, "list", "--target", made["id"], "--limit", "1")] == [
        "key.revoke"
    ]
    table = shell.run(audit, "list", "--action", "key.update").stdout
    assert '{"limit_nanos":5000000000}' in table
    assert made["key"].rpartition("_")[2] not in table + str(entries)
    assert "no team 'nobody'" in shell.fails(audit, "list", "--team", "nobody")
