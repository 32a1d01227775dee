"""What a key may spend, and what its team has chosen: set by commands, known at authentication."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.cli_keys import keys
from server.cli_teams import teams
from server.clock import UuidV7
from server.domain.identity import Principal, Scope, TeamPolicy
from server.domain.keys import KeyChanges, NoLimit
from server.domain.ledger import LimitReset, SpendLimit
from server.domain.periods import day_of
from server.storage import tables
from server.storage.database import Database
from server.storage.key_records import KeyRecords
from server.storage.keys import SqlKeyStore
from server.storage.teams import Teams
from tests.integration.databases import ManualClock
from tests.integration.test_storage_cli import Shell

SCOPES = frozenset({Scope.INFERENCE})
USD = 1_000_000_000


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Shell:
    return Shell(database_url, tmp_path)


async def execute(database: Database, *statements: Any) -> None:
    async def work(connection: AsyncConnection) -> None:
        for statement in statements:
            await connection.execute(statement)

    await database.write(work)


async def limited(records: KeyRecords, kid: str, **changes: Any) -> SpendLimit | None:
    """The limit after the changes."""
    info = await records.change(kid, KeyChanges(**changes))
    assert info is not None
    return info.spend_limit


def usage(team_id: str, key_id: str, day: int, cost_nanos: int, model_id: str = "m") -> Any:
    return insert(tables.daily_usage).values(
        team_id=team_id, day=day, key_id=key_id, model_id=model_id, endpoint="responses", provider="p", requests=1,
        input_tokens=1, output_tokens=1, reasoning_tokens=0, cost_nanos=cost_nanos,
    )  # fmt: skip


async def test_a_principal_has_its_limit_and_its_team_s_policy(database: Database, clock: ManualClock) -> None:
    team = await Teams(database, clock, UuidV7()).create("acme")
    limit = SpendLimit(5 * USD, "weekly")
    records = KeyRecords(database, clock)
    key = await records.create(team="acme", name="a", scopes=SCOPES, spend_limit=limit)
    free = await records.create(team="acme", name="b", scopes=SCOPES)
    store = SqlKeyStore(database, clock)
    assert await store.authenticate(key.key) == Principal(team.id, key.id, SCOPES, limit, TeamPolicy(False, 30, None))
    assert await store.authenticate(free.key) == Principal(team.id, free.id, SCOPES)
    await execute(database, update(tables.teams).values(store_content=True, content_days=7, on_disconnect="drain"))
    await execute(database, update(tables.teams).values(sort="price", regions="eu ch"))
    assert await limited(records, key.id, limit_reset="daily") == SpendLimit(5 * USD, "daily")
    clock.advance(1)
    found = await store.authenticate(key.key)
    assert found is not None
    assert found.policy == TeamPolicy(True, 7, "drain", "price", ("eu", "ch"))
    assert found.spend_limit == SpendLimit(5 * USD, "daily")


async def test_what_is_not_given_of_a_limit_stays(database: Database, clock: ManualClock) -> None:
    await Teams(database, clock, UuidV7()).create("acme")
    records = KeyRecords(database, clock)
    key = await records.create(team="acme", name="a", scopes=SCOPES)
    other = await records.create(team="acme", name="b", scopes=SCOPES, spend_limit=SpendLimit(1))
    with pytest.raises(NoLimit):
        await limited(records, key.id, limit_reset="daily")
    assert await limited(records, key.id, limit_nanos=5) == SpendLimit(5)
    assert await limited(records, key.id, limit_reset="monthly") == SpendLimit(5, "monthly")
    assert await limited(records, key.id, limit_nanos=0) == SpendLimit(0, "monthly")
    assert await limited(records, key.id, limit_nanos=7, limit_reset=None) == SpendLimit(7)
    assert {info.id: info.spend_limit for info in await records.list()} == {
        key.id: SpendLimit(7),
        other.id: SpendLimit(1),
    }
    assert await limited(records, key.id, limit_nanos=None) is None
    assert (await SqlKeyStore(database, clock).authenticate(key.key)).spend_limit is None  # type: ignore[union-attr]
    assert await records.change("ffffffffffffffff", KeyChanges(limit_nanos=5)) is None


@pytest.mark.parametrize(
    ("reset", "spent"), [("daily", 1), ("weekly", 11), ("monthly", 111), (None, 1111)], ids=lambda value: str(value)
)
async def test_what_a_key_has_spent_is_counted_in_its_own_period(
    database: Database, clock: ManualClock, reset: LimitReset | None, spent: int
) -> None:
    """1800000000 is Friday, 15 January 2027."""
    team = await Teams(database, clock, UuidV7()).create("acme")
    records = KeyRecords(database, clock)
    key = await records.create(team="acme", name="a", scopes=SCOPES, spend_limit=SpendLimit(5 * USD, reset))
    idle = await records.create(team="acme", name="b", scopes=SCOPES)
    today = day_of(clock.now())
    await execute(
        database,
        usage(team.id, key.id, today, 1),
        usage(team.id, key.id, today - 4, 10),
        usage(team.id, key.id, today - 5, 60),
        usage(team.id, key.id, today - 14, 40),
        usage(team.id, key.id, today - 15, 1000),
    )
    assert {info.id: info.spent_nanos for info in await records.list()} == {key.id: spent, idle.id: 0}


async def test_a_key_without_a_limit_shows_all_it_ever_spent(database: Database, clock: ManualClock) -> None:
    team = await Teams(database, clock, UuidV7()).create("acme")
    records = KeyRecords(database, clock)
    key = await records.create(team="acme", name="a", scopes=SCOPES)
    today = day_of(clock.now())
    most = 2**62
    await execute(database, usage(team.id, key.id, today, most), usage(team.id, key.id, 0, 3))
    assert [(info.spend_limit, info.spent_nanos) for info in await records.list()] == [(None, most + 3)]


def test_the_commands_set_show_and_lift_a_limit(shell: Shell) -> None:
    shell.json(teams, "create", "acme")
    make = ("create", "--team", "acme", "--scope", "inference")
    created = shell.json(keys, *make, "--name", "ci", "--limit", "5.00", "--limit-reset", "monthly")
    assert (created["limit_nanos"], created["limit_reset"]) == (5 * USD, "monthly")
    (listed,) = shell.json(keys, "list")
    assert (listed["limit_nanos"], listed["limit_reset"], listed["spent_nanos"]) == (5 * USD, "monthly", 0)
    assert "$5 monthly" in shell.run(keys, "list").stdout
    kid = created["id"]
    changed = shell.json(keys, "set", kid, "--limit", "0.000000001")
    assert (changed["id"], changed["limit_nanos"], changed["limit_reset"]) == (kid, 1, "monthly")
    for arguments, said in (
        ((created["key"], "--limit-reset", "none"), "$0.000000001 for ever"),
        ((kid, "--limit", "7", "--limit-reset", "daily"), "$7 daily"),
        ((kid, "--limit", "none"), "none"),
    ):
        assert shell.run(keys, "set", *arguments).stdout == (
            f"Key {kid}: active, scopes inference, expires never, limit {said}, only -.\n"
        )
    (listed,) = shell.json(keys, "list")
    assert (listed["limit_nanos"], listed["limit_reset"]) == (None, None)


def test_what_cannot_be_a_limit_is_refused(shell: Shell) -> None:
    shell.json(teams, "create", "acme")
    make = ("create", "--team", "acme", "--scope", "inference", "--name", "ci")
    for amount in ("-1", "5.0000000001", "1e3", "$5", "nan", "5,00", "", "١", "10000000000", "5."):
        assert "5.00" in shell.fails(keys, *make, f"--limit={amount}")
    assert "needs --limit" in shell.fails(keys, *make, "--limit-reset", "daily")
    assert "daily" in shell.fails(keys, *make, "--limit", "1", "--limit-reset", "hourly")
    assert shell.json(keys, "list") == []
    kid = shell.json(keys, *make)["id"]
    assert "no limit yet" in shell.fails(keys, "set", kid, "--limit-reset", "daily")
    assert "Say what to change" in shell.fails(keys, "set", kid)
    assert "nothing to reset" in shell.fails(keys, "set", kid, "--limit", "none", "--limit-reset", "daily")
    assert "no key of that id" in shell.fails(keys, "set", "ffffffffffffffff", "--limit", "1")
    assert "no key of that id" in shell.fails(keys, "set", "ffffffffffffffff", "--limit", "none")
