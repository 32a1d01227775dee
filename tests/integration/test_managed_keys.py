"""Keys managed in both databases: every change is whole, by who may make it, and in the audit log."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import UuidV7
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Principal, Scope
from server.domain.keys import Actor, AuditEntry, AuditFilter, IssuedKey, KeyChanges, KeyFilter, NewKey
from server.domain.ledger import SpendLimit
from server.domain.restrictions import Restrictions
from server.pipeline.authenticate import Authenticate
from server.storage import api_key
from server.storage.api_keys import SqlApiKeys
from server.storage.audit import RETENTION_S, purge_audit
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.keys import SqlKeyStore
from server.storage.last_used import LastUsed
from server.storage.tables import api_keys
from server.storage.teams import Team, Teams
from tests.integration.databases import ManualClock

BOTH = frozenset(Scope)
EVERYTHING = AuditFilter()
HELD = Restrictions(("acme/*", "*:free"), ("acme",), ("10.0.0.0/8", "::1"))


@pytest.fixture
async def team(database: Database, clock: ManualClock) -> Team:
    return await Teams(database, clock, UuidV7()).create("acme")


@pytest.fixture
def keys(database: Database, clock: ManualClock) -> SqlApiKeys:
    return SqlApiKeys(database, clock)


@pytest.fixture
async def admin(keys: SqlApiKeys, team: Team) -> IssuedKey:
    return await keys.create(Actor(team_id=team.id), NewKey("admin", BOTH))


@pytest.fixture
def actor(admin: IssuedKey, team: Team) -> Actor:
    return Actor(admin.info.id, team.id, "req-1")


async def log(keys: SqlApiKeys, team: Team, wanted: AuditFilter = EVERYTHING) -> list[AuditEntry]:
    return list(await keys.audit(team.id, wanted, before=None, limit=100))


async def test_what_a_key_is_held_to_is_kept_and_known_at_authentication(
    keys: SqlApiKeys, actor: Actor, team: Team, database: Database, clock: ManualClock
) -> None:
    made = await keys.create(actor, NewKey("x", BOTH, 1_900_000_000, False, SpendLimit(5, "daily"), HELD))
    found = await SqlKeyStore(database, clock).authenticate(made.text)
    assert found == Principal(team.id, made.info.id, BOTH, SpendLimit(5, "daily"), restrictions=HELD)
    assert await keys.get(team.id, made.info.id) == made.info
    assert (made.info.restrictions, made.info.expires_at) == (HELD, 1_900_000_000)


async def test_a_key_with_addresses_is_refused_from_elsewhere(
    keys: SqlApiKeys, actor: Actor, database: Database, clock: ManualClock
) -> None:
    made = await keys.create(actor, NewKey("x", BOTH, restrictions=HELD))
    used: list[str] = []
    authenticate = Authenticate(SqlKeyStore(database, clock), used.append)
    for address in ("11.0.0.1", "", "unix"):
        with pytest.raises(GatewayError) as caught:
            await authenticate(f"Bearer {made.text}", Scope.INFERENCE, address)
        assert caught.value.reason is Reason.ADDRESS_NOT_ALLOWED
    assert used == []
    assert (await authenticate(f"Bearer {made.text}", Scope.INFERENCE, "10.1.2.3")).key_id == made.info.id
    assert used == [made.info.id]


async def test_two_changes_at_once_both_happen(keys: SqlApiKeys, actor: Actor, team: Team) -> None:
    key_id = (await keys.create(actor, NewKey("x", BOTH))).info.id
    changes = [
        KeyChanges(name="y"),
        KeyChanges(disabled=True),
        KeyChanges(limit_nanos=5),
        KeyChanges(models=("a/*",)),
        KeyChanges(providers=("acme",)),
        KeyChanges(cidrs=("::1",)),
        KeyChanges(expires_at=1_900_000_000),
    ]
    await asyncio.gather(*(keys.change(actor, key_id, one) for one in changes))
    info = await keys.get(team.id, key_id)
    assert info is not None
    assert (info.name, info.disabled, info.spend_limit, info.expires_at) == ("y", True, SpendLimit(5), 1_900_000_000)
    assert info.restrictions == Restrictions(("a/*",), ("acme",), ("::1",))
    assert len(await log(keys, team, AuditFilter(target=key_id))) == len(changes) + 1


async def test_a_change_of_nothing_is_none(keys: SqlApiKeys, actor: Actor, team: Team, clock: ManualClock) -> None:
    made = await keys.create(actor, NewKey("x", BOTH))
    clock.advance(5)
    assert await keys.change(actor, made.info.id, KeyChanges(name="x", disabled=False)) == made.info
    assert len(await log(keys, team, AuditFilter(target=made.info.id))) == 1
    changed = await keys.change(actor, made.info.id, KeyChanges(name="y"))
    assert changed is not None
    assert changed.updated_at == int(clock.now())


async def test_the_secret_before_goes_on_for_its_time_and_no_longer(
    keys: SqlApiKeys, actor: Actor, team: Team, database: Database, clock: ManualClock
) -> None:
    first = await keys.create(actor, NewKey("x", BOTH))
    store = SqlKeyStore(database, clock)
    second = await keys.rotate(actor, first.info.id, 60)
    assert second is not None
    assert second.info.id == first.info.id
    assert [await store.authenticate(one.text) is not None for one in (first, second)] == [True, True]
    clock.advance(59.9)
    assert await store.authenticate(first.text) is not None
    clock.advance(0.1)  # the row is still in memory, and the secret is over all the same
    assert [await store.authenticate(one.text) is not None for one in (first, second)] == [False, True]
    third = await keys.rotate(actor, first.info.id, 60)
    fourth = await keys.rotate(actor, first.info.id, 0)
    assert third is not None
    assert fourth is not None
    assert fourth.info.previous_expires_at is None
    clock.advance(1)
    found = [await store.authenticate(one.text) is not None for one in (first, second, third, fourth)]
    assert found == [False, False, False, True]


async def test_a_new_secret_is_known_at_once_where_the_old_one_is_remembered(
    keys: SqlApiKeys, actor: Actor, database: Database, clock: ManualClock
) -> None:
    first = await keys.create(actor, NewKey("x", BOTH))
    store = SqlKeyStore(database, clock)
    assert await store.authenticate(first.text) is not None
    second = await keys.rotate(actor, first.info.id, 60)
    assert second is not None
    clock.advance(0.001)
    assert await store.authenticate(second.text) is not None
    assert await store.authenticate(first.text) is not None


async def test_wrong_secrets_of_a_known_key_share_their_questions(
    keys: SqlApiKeys, actor: Actor, database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await keys.create(actor, NewKey("x", BOTH))
    store, asked = SqlKeyStore(database, clock), 0
    read = database.read

    async def counted(work: Any) -> Any:
        nonlocal asked
        asked += 1
        return await read(work)

    monkeypatch.setattr(database, "read", counted)
    assert await store.authenticate(made.text) is not None
    clock.advance(0.001)
    wrong = [f"{made.text[:-8]}{secrets.token_hex(4)}" for _ in range(50)]
    assert await asyncio.gather(*map(store.authenticate, wrong)) == [None] * 50
    assert asked == 2


async def test_no_secret_is_in_the_database_nor_in_what_is_listed(
    keys: SqlApiKeys, actor: Actor, team: Team, database: Database
) -> None:
    made = await keys.create(actor, NewKey("x", BOTH))
    renewed = await keys.rotate(actor, made.info.id, 60)
    assert renewed is not None
    row = await database.read(lambda connection: _row(connection, made.info.id))
    listed = repr(await keys.page(team.id, KeyFilter(), limit=10, offset=0)) + repr(await log(keys, team))
    for issued in (made, renewed):
        token = api_key.parse(issued.text)
        assert token is not None
        assert token.secret not in repr(row) + listed + repr(issued)
    assert (row.previous_hash, row.secret_hash) == (_hash(made), _hash(renewed))


async def _row(connection: AsyncConnection, key_id: str) -> Any:
    return (await connection.execute(select(api_keys).where(api_keys.c.id == key_id))).one()


def _hash(issued: IssuedKey) -> bytes:
    return api_key.hash_secret(issued.text.rpartition("_")[2])


async def test_nobody_acts_with_rights_that_were_just_taken(keys: SqlApiKeys, actor: Actor, team: Team) -> None:
    """The actor was let in by a row that is up to a second old."""
    operator = Actor(team_id=team.id)
    new, other = NewKey("x", BOTH), await keys.create(actor, NewKey("y", BOTH))
    await keys.change(operator, actor.key_id or "", KeyChanges(models=("acme/*",)))
    for refused in (keys.create(actor, new), keys.rotate(actor, other.info.id, 0)):
        with pytest.raises(GatewayError) as caught:
            await refused
        assert (caught.value.reason, caught.value.param) == (Reason.BEYOND_OWN_RIGHTS, "allowed_models")
    await keys.change(operator, actor.key_id or "", KeyChanges(scopes=frozenset({Scope.INFERENCE})))
    with pytest.raises(GatewayError) as caught:
        await keys.create(actor, new)
    assert caught.value.reason is Reason.MISSING_SCOPE
    await keys.revoke(operator, actor.key_id or "")
    with pytest.raises(GatewayError) as caught:
        await keys.revoke(actor, other.info.id)
    assert caught.value.reason is Reason.INVALID_API_KEY


async def test_another_teams_keys_do_not_exist(
    keys: SqlApiKeys, actor: Actor, team: Team, database: Database, clock: ManualClock
) -> None:
    other = await Teams(database, clock, UuidV7()).create("other")
    theirs = (await keys.create(Actor(team_id=other.id), NewKey("x", BOTH))).info
    assert await keys.get(team.id, theirs.id) is None
    assert await keys.change(actor, theirs.id, KeyChanges(disabled=True)) is None
    assert await keys.rotate(actor, theirs.id, 0) is None
    assert not await keys.revoke(actor, theirs.id)
    assert theirs.id not in {info.id for info in (await keys.page(team.id, KeyFilter(), limit=10, offset=0))[0]}
    assert await keys.get(other.id, theirs.id) == theirs
    assert {entry.team_id for entry in await log(keys, team)} == {team.id}


async def test_a_team_has_no_more_keys_than_it_may(
    database: Database, clock: ManualClock, team: Team, admin: IssuedKey, actor: Actor
) -> None:
    keys = SqlApiKeys(database, clock, max_keys=3)
    made = [await keys.create(actor, NewKey("x", BOTH)) for _ in range(2)]
    with pytest.raises(GatewayError) as caught:
        await keys.create(actor, NewKey("x", BOTH))
    assert caught.value.reason is Reason.TOO_MANY_KEYS
    assert await keys.revoke(actor, made[0].info.id)
    await keys.create(actor, NewKey("x", BOTH))


async def test_keys_are_found_by_status_scope_and_name(
    keys: SqlApiKeys, actor: Actor, team: Team, clock: ManualClock
) -> None:
    soon = int(clock.now()) + 10
    made = {
        "active": NewKey("An active 100%_key", BOTH),
        "disabled": NewKey("disabled", frozenset({Scope.INFERENCE}), disabled=True, expires_at=soon),
        "expired": NewKey("expired", BOTH, expires_at=soon),
        "revoked": NewKey("revoked", BOTH, disabled=True),
    }
    ids = {status: (await keys.create(actor, new)).info.id for status, new in made.items()}
    await keys.revoke(actor, ids["revoked"])
    clock.advance(10)

    async def found(**wanted: Any) -> set[str]:
        page, total = await keys.page(team.id, KeyFilter(**wanted), limit=10, offset=0)
        assert total == len(page)
        return {info.id for info in page}

    own = actor.key_id
    for status, id_ in ids.items():
        of_status = await found(statuses=frozenset({status}))
        assert of_status - {own} == {id_}
    assert await found() == {own, ids["active"], ids["disabled"], ids["expired"]}
    assert await found(scope=Scope.MANAGEMENT) == {own, ids["active"], ids["expired"]}
    assert await found(name="ACTIVE") == {ids["active"]}
    assert await found(name="0%_K") == {ids["active"]}
    assert await found(name="%x%") == set()
    page, total = await keys.page(team.id, KeyFilter(), limit=2, offset=3)
    assert (len(page), total) == (1, 4)


async def test_a_name_is_found_in_any_case_of_any_alphabet(
    keys: SqlApiKeys, actor: Actor, team: Team, clock: ManualClock
) -> None:
    made = []
    for name in ("Ärzte", "the ÉCOLE", "École", "ЖУК", "other"):
        clock.advance(1)
        made.append((await keys.create(actor, NewKey(name, BOTH))).info)

    async def found(name: str, limit: int = 10, offset: int = 0) -> tuple[Any, int]:
        return await keys.page(team.id, KeyFilter(name=name), limit=limit, offset=offset)

    for name in ("Ärzte", "ärzte", "ÄR"):
        assert await found(name) == ([made[0]], 1)
    assert await found("жук") == ([made[3]], 1)
    assert await found("école") == (made[1:3], 2)
    assert await found("école", limit=1) == ([made[1]], 2)
    assert await found("école", limit=1, offset=1) == ([made[2]], 2)
    assert await found("école", offset=2) == ([], 2)
    assert await found("\0") == ([], 0)


async def test_every_change_is_in_the_log_and_a_refused_one_is_not(
    keys: SqlApiKeys, actor: Actor, team: Team, database: Database, clock: ManualClock
) -> None:
    key_id = (await keys.create(actor, NewKey("x", BOTH, spend_limit=SpendLimit(5)))).info.id
    await keys.change(actor, key_id, KeyChanges(limit_nanos=7, name="y"))
    await keys.rotate(Actor(), key_id, 60)
    await keys.revoke(actor, key_id)
    with pytest.raises(GatewayError):
        await keys.create(Actor(key_id, team.id), NewKey("z", BOTH))
    await Teams(database, clock, UuidV7()).change("acme", {"sort": "price", "content_days": 30})
    told = [(entry.actor, entry.action, entry.target, entry.before, entry.after) for entry in await log(keys, team)]
    until = int(clock.now()) + 60
    assert told[0] == ("cli", "team.update", team.id, {"sort": None}, {"sort": "price"})
    assert told[1] == (actor.key_id, "key.revoke", key_id, {"revoked_at": None}, {"revoked_at": int(clock.now())})
    rotated = {"previous_key_expires_at": None}, {"previous_key_expires_at": until}
    assert told[2] == ("cli", "key.rotate", key_id, *rotated)
    changed = {"name": "x", "limit_nanos": 5}, {"name": "y", "limit_nanos": 7}
    assert told[3] == (actor.key_id, "key.update", key_id, *changed)
    assert told[4][:4] == (actor.key_id, "key.create", key_id, None)
    assert told[4][4]["limit_nanos"] == 5  # type: ignore[index]
    assert [row[1] for row in told[5:]] == ["key.create", "team.create"]
    assert {entry.request_id for entry in await log(keys, team, AuditFilter(actor=actor.key_id))} == {"req-1"}
    assert len(await log(keys, team, AuditFilter(action="key.create"))) == 2


async def test_the_log_is_read_page_by_page_and_kept_for_two_years(
    keys: SqlApiKeys, actor: Actor, team: Team, database: Database, clock: ManualClock
) -> None:
    for _ in range(3):
        clock.advance(1)
        await keys.create(actor, NewKey("x", BOTH))
    whole = await log(keys, team)
    second = await keys.audit(team.id, EVERYTHING, before=whole[1].id, limit=2)
    assert list(second) == whole[2:4]
    since = AuditFilter(since=int(clock.now()), until=int(clock.now()) + 1)
    assert await log(keys, team, since) == whole[:1]
    commits = GroupCommit(database)
    clock.advance(RETENTION_S - 1)
    while await purge_audit(commits, clock, limit=2):
        pass
    await commits.close()
    assert await log(keys, team) == whole[:1]


async def test_when_a_key_was_last_used(
    keys: SqlApiKeys, actor: Actor, admin: IssuedKey, team: Team, database: Database, clock: ManualClock
) -> None:
    assert admin.info.last_used_at is None
    used, slow = LastUsed(database, clock), LastUsed(database, clock)
    slow.note(admin.info.id)
    clock.advance(100)
    used.note(admin.info.id)
    used.note("f" * 16)
    await used.flush()
    await slow.flush()  # what is older does not replace what is newer
    info = await keys.get(team.id, admin.info.id)
    assert info == msgspec.structs.replace(admin.info, last_used_at=int(clock.now()))
    await database.write(lambda connection: _forget(connection))
    await used.flush()
    found = await keys.get(team.id, admin.info.id)
    assert found is not None
    assert found.last_used_at is None


async def _forget(connection: AsyncConnection) -> None:
    await connection.execute(update(api_keys).values(last_used_at=None))
