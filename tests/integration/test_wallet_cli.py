"""The commands `wallet` and `ledger`, as a person types them, and what `ledger verify` finds."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Executable, delete, insert, text, update

from server.cli_teams import teams
from server.cli_wallet import ledger, wallet
from server.storage.database import Database
from server.storage.ledger_verify import Problem
from server.storage.tables import generations, ledger_entries, reservations, wallets
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import CENT, USD, Request, make_teams, opened, problems
from tests.integration.test_storage_cli import Shell


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Shell:
    shell = Shell(database_url, tmp_path)
    assert shell.run(teams, "create", "acme").exit_code == 0
    return shell


def test_a_wallet_from_nothing(shell: Shell) -> None:
    nothing = {"balance_nanos": 0, "reserved_nanos": 0, "available_nanos": 0}
    assert shell.json(wallet, "show", "--team", "acme") == nothing
    said = shell.run(wallet, "top-up", "--team", "acme", "--usd", "5.00").output
    assert said == "Paid in 5 USD. Team acme has 5 USD available.\n"
    assert shell.json(wallet, "adjust", "--team", "acme", "--usd", "-1.000000001", "--note", "a gift") == {
        "balance_nanos": 3_999_999_999,
        "reserved_nanos": 0,
        "available_nanos": 3_999_999_999,
        "is_new": True,
    }
    assert "available  3.999999999 USD" in shell.run(wallet, "show", "--team", "acme").output
    listed = shell.json(wallet, "statement", "--team", "acme")
    assert [(entry["kind"], entry["balance_nanos"], entry["note"]) for entry in listed] == [
        ("adjust", -1_000_000_001, "a gift"),
        ("top_up", 5 * USD, None),
    ]
    assert len(shell.json(wallet, "statement", "--team", "acme", "--limit", "1")) == 1
    assert "a gift" in shell.run(wallet, "statement", "--team", "acme").output
    verified = shell.run(ledger, "verify")
    assert verified.exit_code == 0
    assert verified.output.endswith(": no problem\n")


def test_a_reference_counts_once(shell: Shell) -> None:
    for is_new in (True, False, False):
        done = shell.json(wallet, "top-up", "--team", "acme", "--usd", "5", "--reference", "inv-17")
        assert (done["balance_nanos"], done["is_new"]) == (5 * USD, is_new)
    assert "a top-up of 5 USD" in shell.fails(wallet, "top-up", "--team", "acme", "--usd", "6", "--reference", "inv-17")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["top-up", "--team", "nobody", "--usd", "5"], "no team 'nobody'"),
        (["show", "--team", "nobody"], "no team 'nobody'"),
        (["top-up", "--team", "acme", "--usd", "0"], "more than nothing"),
        (["top-up", "--team", "acme", "--usd", "-5"], "write dollars"),
        (["top-up", "--team", "acme", "--usd", "0.0000000001"], "at most nine decimals"),
        (["top-up", "--team", "acme", "--usd", "1e3"], "write dollars"),
        (["adjust", "--team", "acme", "--usd", "-0.01", "--note", "x"], "less than nothing"),
        (["adjust", "--team", "acme", "--usd", "1", "--note", " "], "printable"),
    ],
)
def test_what_is_refused(shell: Shell, arguments: list[str], said: str) -> None:
    assert said in shell.fails(wallet, *arguments)


def test_a_wallet_has_an_upper_end(shell: Shell) -> None:
    shell.json(wallet, "top-up", "--team", "acme", "--usd", "999999999")
    assert "at most" in shell.fails(wallet, "top-up", "--team", "acme", "--usd", "2")


@pytest.mark.parametrize("arguments", [["wallet", "show", "--team", "acme"], ["ledger", "verify"]])
def test_l5_commands_end(shell: Shell, database_url: str, tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "server", *arguments],
        env={"AISTATS_DATABASE_URL": database_url, "AISTATS_DATA_DIR": str(tmp_path)},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


async def spoil(database: Database, *statements: Executable) -> None:
    async def work(connection: Any) -> None:
        for statement in statements:
            await connection.execute(statement)

    await database.write(work)


async def test_verify_finds_what_does_not_agree(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 10 * USD, ("team", "other"))
    ended, lost, stray, dear, twice = (Request() for _ in range(5))
    async with opened(database, clock) as books:
        for request in (ended, lost, dear, twice):
            await books.reserve(request.hold(CENT))
        for request in (ended, dear, twice):
            await books.settle(request.settlement(7))
    assert await problems(database) == []
    entry = {"team_id": "team", "balance_nanos": 0, "reserved_nanos": 0, "created_at": 0}
    await spoil(
        database,
        update(wallets).where(wallets.c.team_id == "other").values(balance_nanos=1),
        delete(reservations).where(reservations.c.id == lost.suffix),
        insert(reservations).values(
            id=stray.suffix, team_id="team", key_id="k", worker_id="w", held_nanos=5, created_at=0, opening_json=b""
        ),
        update(generations).where(generations.c.suffix == dear.suffix).values(cost_nanos=8),
        text("DROP INDEX uq_ledger_entries_end"),
        insert(ledger_entries).values(**entry, kind="void", reservation_id=twice.suffix),
        insert(ledger_entries).values(**entry, kind="void", reservation_id="0" * 32),
    )
    found = await problems(database)
    assert {(problem.kind, problem.subject) for problem in found} == {
        ("wallet_differs", "other"),
        ("reservation_lost", f"gen_{lost.suffix}"),
        ("reservation_not_in_ledger", f"gen_{stray.suffix}"),
        ("cost_differs", f"gen_{dear.suffix}"),
        ("reservation_ended_twice", f"gen_{twice.suffix}"),
        ("reservation_began_not_once", f"gen_{'0' * 32}"),
    }


def test_verify_tells_each_problem_and_fails(shell: Shell, database_url: str) -> None:
    shell.json(wallet, "top-up", "--team", "acme", "--usd", "5")

    async def spoil_it() -> None:
        database = Database.open(database_url)
        await spoil(database, update(wallets).values(reserved_nanos=3))
        await database.close()

    asyncio.run(spoil_it())
    done = shell.run(ledger, "verify")
    assert done.exit_code == 1
    problem, summary = done.stdout.splitlines()
    assert problem.startswith("wallet_differs: ")
    assert "0.000000003 USD reserved" in problem
    assert summary.endswith(": problems: 1")
    done = shell.run(ledger, "verify", "--json")
    assert done.exit_code == 1
    first, last = map(json.loads, done.stdout.splitlines())
    assert set(first) == set(Problem.__struct_fields__)
    assert last["problems"] == 1


async def test_verify_sees_one_moment_while_others_write(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 100 * USD)
    done = asyncio.Event()

    async def spend() -> None:
        async with opened(database, clock) as books:
            while not done.is_set():
                requests = [Request() for _ in range(10)]
                await asyncio.gather(*(books.reserve(request.hold(CENT)) for request in requests))
                await asyncio.gather(*(books.settle(request.settlement(1)) for request in requests))

    spending = asyncio.create_task(spend())
    for _ in range(15):
        assert await problems(database) == []
    done.set()
    await spending
