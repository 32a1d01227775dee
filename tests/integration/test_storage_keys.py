"""Keys against the database: who is let in, how long a row is believed, and what is never asked."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import event, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import SystemClock, UuidV7
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Principal, Scope
from server.storage import api_key
from server.storage.database import Database
from server.storage.key_records import CreatedKey, KeyRecords, UnknownTeam
from server.storage.keys import SqlKeyStore
from server.storage.tables import api_keys
from server.storage.teams import InvalidName, NameTaken, Team, Teams
from tests.integration.databases import ManualClock, PostgresServer, migrated

BOTH = frozenset(Scope)


@pytest.fixture
async def team(database: Database, clock: ManualClock) -> Team:
    return await Teams(database, clock, UuidV7()).create("acme")


@pytest.fixture
async def key(database: Database, clock: ManualClock, team: Team) -> CreatedKey:
    return await KeyRecords(database, clock).create(team="acme", name="laptop", scopes=BOTH)


def watch(database: Database) -> list[str]:
    """Everything that is sent to the database from now on, statements with their parameters."""
    sent: list[str] = []

    def note(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        sent.append(f"{statement} {parameters}")

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    return sent


async def test_a_key_lets_its_team_in_with_its_scopes(
    database: Database, clock: ManualClock, team: Team, key: CreatedKey
) -> None:
    store = SqlKeyStore(database, clock)
    assert await store.authenticate(key.key) == Principal(team_id=team.id, key_id=key.id, scopes=BOTH)
    narrow = await KeyRecords(database, clock).create(team="acme", name="ci", scopes=frozenset({Scope.INFERENCE}))
    found = await store.authenticate(narrow.key)
    assert found is not None
    assert found.scopes == {Scope.INFERENCE}


async def test_the_older_spelling_of_a_key_works(database: Database, clock: ManualClock, key: CreatedKey) -> None:
    older = key.key.replace("aistats_v1_sk_", "aistats_v1_k_")
    found = await SqlKeyStore(database, clock).authenticate(older)
    assert found is not None
    assert found.key_id == key.id


async def test_the_database_holds_no_secret(database: Database, clock: ManualClock, team: Team) -> None:
    sent = watch(database)
    created = await KeyRecords(database, clock).create(team="acme", name="laptop", scopes=BOTH)
    token = api_key.parse(created.key)
    assert token is not None
    assert sent
    assert not any(token.secret in text for text in sent)


@pytest.mark.parametrize(
    "change",
    [{"disabled": True}, {"revoked_at": 1}, {"expires_at": 1_800_000_000}],
    ids=["disabled", "revoked", "expired"],
)
async def test_a_key_that_is_over_is_none(
    database: Database, clock: ManualClock, key: CreatedKey, change: dict[str, object]
) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(update(api_keys).values(change))

    await database.write(work)
    assert await SqlKeyStore(database, clock).authenticate(key.key) is None


async def test_a_key_works_until_the_second_in_which_it_expires(
    database: Database, clock: ManualClock, team: Team
) -> None:
    key = await KeyRecords(database, clock).create(
        team="acme", name="short", scopes=BOTH, expires_at=int(clock.now()) + 10
    )
    store = SqlKeyStore(database, clock)
    clock.advance(9.7)
    assert await store.authenticate(key.key) is not None
    clock.advance(0.3)  # the row is still in memory, and the key is over all the same
    assert await store.authenticate(key.key) is None


async def test_the_right_id_with_another_secret_is_none_even_when_the_row_is_warm(
    database: Database, clock: ManualClock, key: CreatedKey
) -> None:
    store = SqlKeyStore(database, clock)
    assert await store.authenticate(key.key) is not None
    last = "0" if key.key[-1] != "0" else "1"
    assert await store.authenticate(key.key[:-1] + last) is None
    assert await store.authenticate(key.key) is not None


@pytest.mark.parametrize(
    "token",
    [
        "' OR '1'='1",
        "aistats_v1_sk_' OR '1'='1_" + "a" * 64,
        "'; SELECT pg_sleep(5); --",
        "aistats_v1_sk_abcd1234_" + "\0" * 64,
        "aistats_v1_sk_abcd1234_" + "a" * 1_000_000,
        "aistats_v1_sk_abcdé234_" + "ü" * 64,
        "\ud800",
    ],
    ids=["or", "or-in-kid", "sleep", "nul", "megabyte", "non-ascii", "surrogate"],
)
async def test_what_cannot_be_a_key_reaches_no_statement(database: Database, clock: ManualClock, token: str) -> None:
    store = SqlKeyStore(database, clock)
    sent = watch(database)
    assert await store.authenticate(token) is None
    assert sent == []


async def test_only_the_id_of_a_wrong_key_reaches_a_statement(database: Database, clock: ManualClock) -> None:
    sent = watch(database)
    assert await SqlKeyStore(database, clock).authenticate("aistats_v1_sk_abcd1234_" + "s" * 64) is None
    assert len(sent) == 1
    assert "abcd1234" in sent[0]
    assert "ssss" not in sent[0]


async def test_a_row_is_believed_for_less_than_a_second(
    database: Database, clock: ManualClock, key: CreatedKey
) -> None:
    store = SqlKeyStore(database, clock)
    sent = watch(database)
    for _ in range(10):
        assert await store.authenticate(key.key) is not None
    assert len(sent) == 1
    assert await KeyRecords(database, clock).revoke(key.id)
    sent.clear()
    clock.advance(0.99)
    assert await store.authenticate(key.key) is None
    assert len(sent) == 1


async def test_a_row_is_as_old_as_the_question_for_it(database: Database, clock: ManualClock, key: CreatedKey) -> None:
    """An answer that took long is old already when it comes."""
    store = SqlKeyStore(database, clock)
    asking = asyncio.create_task(store.authenticate(key.key))
    await asyncio.sleep(0)
    clock.advance(0.9)
    assert await asking is not None
    sent = watch(database)
    assert await store.authenticate(key.key) is not None
    assert len(sent) == 1


async def test_an_unknown_id_is_remembered_too_and_forgotten_as_soon(
    database: Database, clock: ManualClock, key: CreatedKey
) -> None:
    store = SqlKeyStore(database, clock)
    sent = watch(database)
    for _ in range(10):
        assert await store.authenticate("aistats_v1_sk_ffffffffffffffff_" + "0" * 64) is None
    assert len(sent) == 1
    clock.advance(0.9)
    assert await store.authenticate("aistats_v1_sk_ffffffffffffffff_" + "0" * 64) is None
    assert len(sent) == 2


async def test_guesses_do_not_push_valid_keys_out_and_memory_is_bounded(
    database: Database, clock: ManualClock, key: CreatedKey
) -> None:
    store = SqlKeyStore(database, clock, max_unknown=200)
    assert await store.authenticate(key.key) is not None
    for number in range(0, 300, 50):
        guesses = (f"aistats_v1_sk_{guess:016x}_{'0' * 64}" for guess in range(number, number + 50))
        assert await asyncio.gather(*(store.authenticate(guess) for guess in guesses)) == [None] * 50
    sent = watch(database)
    assert await store.authenticate(key.key) is not None
    assert sent == []
    assert await store.authenticate(f"aistats_v1_sk_{0:016x}_{'0' * 64}") is None
    assert len(sent) == 1  # the oldest guess was forgotten


async def test_simultaneous_lookups_of_one_key_are_one_query(
    database: Database, clock: ManualClock, key: CreatedKey
) -> None:
    store = SqlKeyStore(database, clock)
    sent = watch(database)
    found = await asyncio.gather(*(store.authenticate(key.key) for _ in range(100)))
    assert all(principal is not None for principal in found)
    assert len(sent) == 1


async def test_who_gives_up_waiting_does_not_spoil_it_for_the_others(
    database: Database, clock: ManualClock, key: CreatedKey
) -> None:
    store = SqlKeyStore(database, clock)
    tasks = [asyncio.create_task(store.authenticate(key.key)) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert all(isinstance(outcome, Principal) for outcome in outcomes[1:])


async def test_a_revoked_key_fails_in_every_worker_within_a_second(database_url: str) -> None:
    clock = SystemClock()
    async with migrated(database_url) as database:
        await Teams(database, clock, UuidV7()).create("acme")
        records = KeyRecords(database, clock)
        key = await records.create(team="acme", name="laptop", scopes=BOTH)
        workers = [Database.open(database_url) for _ in range(4)]
        try:
            stores = [SqlKeyStore(worker, clock) for worker in workers]
            assert None not in await asyncio.gather(*(store.authenticate(key.key) for store in stores))
            assert await records.revoke(key.id)
            revoked = clock.monotonic()
            while clock.monotonic() - revoked < 0.9:
                await asyncio.gather(*(store.authenticate(key.key) for store in stores))
                await asyncio.sleep(0.05)
            await asyncio.sleep(max(0.0, revoked + 1.0 - clock.monotonic()))
            assert await asyncio.gather(*(store.authenticate(key.key) for store in stores)) == [None] * 4
        finally:
            for worker in workers:
                await worker.close()


async def test_a_database_that_is_down_is_unavailable_and_not_a_wrong_key(clock: ManualClock) -> None:
    server = PostgresServer()
    try:
        server.start()
        async with migrated(server.url("postgres")) as database:
            await Teams(database, clock, UuidV7()).create("acme")
            key = await KeyRecords(database, clock).create(team="acme", name="laptop", scopes=BOTH)
            store = SqlKeyStore(database, clock)
            assert await store.authenticate(key.key) is not None
            server.stop()
            clock.advance(1)
            outcomes = await asyncio.gather(*(store.authenticate(key.key) for _ in range(20)), return_exceptions=True)
            assert all(isinstance(outcome, GatewayError) for outcome in outcomes)
            assert {getattr(outcome, "reason", None) for outcome in outcomes} == {Reason.DATABASE_UNAVAILABLE}
            server.start()
            assert await store.authenticate(key.key) is not None
    finally:
        server.remove()


async def test_keys_are_listed_without_anything_that_helps_to_call(
    database: Database, clock: ManualClock, key: CreatedKey
) -> None:
    records = KeyRecords(database, clock)
    await Teams(database, clock, UuidV7()).create("other")
    clock.advance(1)
    await records.create(team="other", name="x", scopes=BOTH, expires_at=int(clock.now()) + 5)
    await records.revoke(key.id)
    clock.advance(5)
    listed = await records.list()
    assert [(info.team, info.name, info.status(clock.now())) for info in listed] == [
        ("acme", "laptop", "revoked"),
        ("other", "x", "expired"),
    ]
    token = api_key.parse(key.key)
    assert token is not None
    assert token.secret not in repr(listed)
    assert [info.id for info in await records.list(team="acme")] == [key.id]


async def test_an_unknown_team_gets_no_key(database: Database, clock: ManualClock) -> None:
    records = KeyRecords(database, clock)
    with pytest.raises(UnknownTeam):
        await records.create(team="nobody", name="x", scopes=BOTH)
    with pytest.raises(UnknownTeam):
        await records.list(team="nobody")
    assert await records.list() == []


async def test_revoking_twice_keeps_the_first_time(database: Database, clock: ManualClock, key: CreatedKey) -> None:
    records = KeyRecords(database, clock)
    assert await records.revoke(key.id)
    clock.advance(100)
    assert await records.revoke(key.id)
    assert (await records.list())[0].revoked_at == 1_800_000_000
    assert not await records.revoke("ffffffffffffffff")


async def test_teams_have_names_of_their_own(database: Database, clock: ManualClock) -> None:
    teams = Teams(database, clock, UuidV7())
    first = await teams.create("acme")
    await teams.create("b-2.x_y")
    with pytest.raises(NameTaken, match="there is a team 'acme' already"):
        await teams.create("acme")
    for name in ("", " ", "-x", "a b", "a" * 65, "é", "x\n"):
        with pytest.raises(InvalidName):
            await teams.create(name)
    assert [team.name for team in await teams.list()] == ["acme", "b-2.x_y"]
    assert (await teams.list())[0] == first
