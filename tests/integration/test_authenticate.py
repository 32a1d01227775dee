"""From the header to the caller: what is accepted, and that a refusal never says why."""

from __future__ import annotations

import pytest

from server.clock import UuidV7
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Scope
from server.pipeline.authenticate import Authenticate
from server.storage.database import Database
from server.storage.key_records import CreatedKey, KeyRecords
from server.storage.keys import SqlKeyStore
from server.storage.teams import Teams
from tests.integration.databases import ManualClock

REFUSED = "A valid API key is needed, in the header 'Authorization: Bearer <key>'."


@pytest.fixture
def authenticate(database: Database, clock: ManualClock) -> Authenticate:
    return Authenticate(SqlKeyStore(database, clock))


@pytest.fixture
async def key(database: Database, clock: ManualClock) -> CreatedKey:
    await Teams(database, clock, UuidV7()).create("acme")
    return await KeyRecords(database, clock).create(team="acme", name="laptop", scopes=frozenset({Scope.INFERENCE}))


@pytest.mark.parametrize(
    "form", ["Bearer {}", "bearer {}", "BEARER {}", "  Bearer {}  ", "Bearer    {}", "Bearer \t{}\r\n"]
)
async def test_a_valid_key_in_every_tolerated_spelling(authenticate: Authenticate, key: CreatedKey, form: str) -> None:
    principal = await authenticate(form.format(key.key), Scope.INFERENCE)
    assert principal.key_id == key.id


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "Bearer",
        "Bearer ",
        "{key}",
        "Basic {key}",
        "Bearer{key}",
        "Bearer {key}x",
        "Bearer {key} {key}",
        "Bearer, {key}",
        "Bearer aistats_v1_sk_ffffffffffffffff_" + "0" * 64,
        "Bearer ' OR '1'='1",
        "Bearer \0",
        "Bearer é",
        "Bearer " + "a" * 1_000_000,
        " " * 1_000_000 + "Bearer {key}",
    ],
    ids=lambda header: repr(header)[:40],
)
async def test_every_refusal_is_the_same(authenticate: Authenticate, key: CreatedKey, header: str | None) -> None:
    sent = None if header is None else header.replace("{key}", key.key)
    with pytest.raises(GatewayError) as caught:
        await authenticate(sent, Scope.INFERENCE)
    error = caught.value
    assert (error.reason, error.description) == (Reason.INVALID_API_KEY, REFUSED)
    assert (error.param, error.retry_after_s, error.failures) == (None, None, ())


async def test_expired_revoked_and_unknown_keys_are_told_the_same(
    authenticate: Authenticate, database: Database, clock: ManualClock, key: CreatedKey
) -> None:
    records = KeyRecords(database, clock)
    scopes = frozenset({Scope.INFERENCE})
    expired = await records.create(team="acme", name="x", scopes=scopes, expires_at=int(clock.now()))
    await records.revoke(key.id)
    seen = set()
    for text in (expired.key, key.key, "aistats_v1_sk_ffffffffffffffff_" + "0" * 64):
        with pytest.raises(GatewayError) as caught:
            await authenticate(f"Bearer {text}", Scope.INFERENCE)
        seen.add((caught.value.reason, str(caught.value)))
    assert seen == {(Reason.INVALID_API_KEY, REFUSED)}


async def test_a_known_key_without_the_scope_is_told_which(authenticate: Authenticate, key: CreatedKey) -> None:
    with pytest.raises(GatewayError) as caught:
        await authenticate(f"Bearer {key.key}", Scope.MANAGEMENT)
    assert caught.value.reason is Reason.MISSING_SCOPE
    assert caught.value.description == "This API key lacks the scope 'management'."


async def test_a_key_without_the_scope_that_is_over_is_only_refused(
    authenticate: Authenticate, database: Database, clock: ManualClock, key: CreatedKey
) -> None:
    await KeyRecords(database, clock).revoke(key.id)
    with pytest.raises(GatewayError) as caught:
        await authenticate(f"Bearer {key.key}", Scope.MANAGEMENT)
    assert caught.value.reason is Reason.INVALID_API_KEY
