"""Where webhooks are kept: whose they are, how many, who changed them, and what becomes of their secrets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.domain.keys import Actor, AuditFilter
from server.domain.webhooks import TEST_EVENT, Delivery, NewWebhook, WebhookChanges
from server.storage.audit import read_audit
from server.storage.database import Database
from server.storage.tables import webhook_deliveries, webhooks
from server.storage.webhooks import SqlWebhooks
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import rows
from tests.integration.webhook_world import ACTOR, World, world_with

URL = "https://hooks.invalid/videos"
OTHER = Actor("another", "other", "req-2")
NOBODY = "0" * 32


@pytest.fixture
async def world(database: Database, clock: ManualClock) -> AsyncIterator[World]:
    async with world_with(database, clock) as world:
        yield world


async def test_another_teams_do_not_exist(world: World) -> None:
    mine, theirs = await world.hook(URL), await world.hook(URL, OTHER)
    await world.made()
    await world.made("other")
    hooks, suffix = world.hooks, theirs.webhook.suffix
    assert [one.id for one in await hooks.list("team")] == [mine.webhook.id]
    assert await hooks.get("team", suffix) is None
    assert await hooks.change(ACTOR, suffix, WebhookChanges(url="https://mine.example")) is None
    assert await hooks.rotate(ACTOR, suffix, 0) is None
    assert not await hooks.delete(ACTOR, suffix)
    assert await hooks.test("team", suffix) is None
    assert await hooks.deliveries("team", suffix, state=None, after=None, limit=9) is None
    assert await hooks.replay_dead("team", suffix, 0, 9) is None
    found = await hooks.deliveries("other", suffix, state=None, after=None, limit=9)
    assert found is not None
    for one in found:
        assert await hooks.replay("team", suffix, one.event_suffix) is None
        assert await hooks.replay("team", mine.webhook.suffix, one.event_suffix) is None
    assert (await hooks.get("other", suffix), len(found)) == (theirs.webhook, 2)


async def test_a_change_is_in_the_audit_log_and_no_secret_is(
    database: Database, world: World, clock: ManualClock
) -> None:
    made = await world.hook(URL)
    suffix = made.webhook.suffix
    await world.change(made, url="https://new.invalid/", disabled=True)
    await world.change(made)
    rotated = await world.hooks.rotate(ACTOR, suffix, 60)
    assert rotated is not None
    assert await world.hooks.delete(ACTOR, suffix)
    told = await read_audit(database, "team", AuditFilter(target=made.webhook.id), before=None, limit=9)
    assert [(one.action, one.actor, one.request_id) for one in reversed(told)] == [
        (f"webhook.{action}", "key", "req-1") for action in ("create", "update", "rotate_secret", "delete")
    ]
    deleted, renewed, updated, created = told
    assert updated.before == {"url": URL, "disabled": False}
    assert updated.after == {"url": "https://new.invalid/", "disabled": True}
    assert renewed.after == {"previous_secret_expires_at": int(clock.now()) + 60}
    assert (created.before, deleted.after) == (None, None)
    for secret in (made.secret, rotated.secret):
        assert secret.startswith("whsec_")
        assert secret not in f"{told}{made}{rotated}{await world.hooks.list('team')}"


async def test_what_is_leased_shows_no_secret(world: World, clock: ManualClock) -> None:
    made = await world.hook(URL)
    await world.begin()
    [due] = await world.one.queue.claim(clock.now() + 30, 9)
    assert due.secrets == (made.secret,)
    assert made.secret not in repr(due)


async def test_a_team_may_have_so_many(database: Database, world: World, clock: ManualClock) -> None:
    hooks = SqlWebhooks(database, clock, world.ids, max_webhooks=2)
    made = [await hooks.create(ACTOR, NewWebhook(URL)) for _ in range(2)]
    with pytest.raises(GatewayError, match="has 2 webhooks") as caught:
        await hooks.create(ACTOR, NewWebhook(URL))
    assert caught.value.reason is Reason.TOO_MANY_WEBHOOKS
    await hooks.create(OTHER, NewWebhook(URL))
    assert await hooks.delete(ACTOR, made[0].webhook.suffix)
    await hooks.create(ACTOR, NewWebhook(URL))


async def test_with_a_webhook_its_deliveries_go(database: Database, world: World) -> None:
    made = await world.hook(URL)
    await world.made()
    await world.one.deliver()
    assert len(await rows(database, webhook_deliveries)) == 2
    assert await world.hooks.delete(ACTOR, made.webhook.suffix)
    assert await rows(database, webhook_deliveries) == await rows(database, webhooks) == []
    await world.made()
    assert await world.one.queue.next_due() is None


async def test_what_is_disabled_is_tested_and_replayed_by_nobody(world: World) -> None:
    made = await world.hook(URL, disabled=True)
    suffix = made.webhook.suffix
    for call in (
        world.hooks.test("team", suffix),
        world.hooks.replay("team", suffix, NOBODY),
        world.hooks.replay_dead("team", suffix, 0, 9),
    ):
        with pytest.raises(GatewayError) as caught:
            await call
        assert caught.value.reason is Reason.NOT_READY
    await world.change(made, disabled=False)
    queued = await world.hooks.test("team", suffix)
    assert queued is not None
    assert (queued.event_type, queued.state, queued.subject) == (TEST_EVENT, "pending", made.webhook.id)
    await world.change(made, disabled=True)
    [ended] = await world.deliveries(made)
    assert (ended.state, ended.error, ended.due_at) == ("dead", "disabled", None)


async def test_deliveries_by_pages(world: World) -> None:
    made = await world.hook(URL)
    for _ in range(3):
        assert await world.hooks.test("team", made.webhook.suffix) is not None
    everything = await world.hooks.deliveries("team", made.webhook.suffix, state="pending", after=None, limit=9)
    assert everything is not None
    seen: list[Delivery] = []
    after = None
    for _ in range(3):
        page = await world.hooks.deliveries("team", made.webhook.suffix, state=None, after=after, limit=1)
        assert page
        seen += page
        after = page[-1].event_suffix
    assert seen == list(everything)
    assert await world.hooks.deliveries("team", made.webhook.suffix, state="dead", after=None, limit=9) == []


async def test_a_webhook_that_goes_while_a_video_ends_costs_it_nothing(database: Database, world: World) -> None:
    """Its row is held until the end is written, or is gone before: no delivery is left without its endpoint."""
    for _ in range(10):
        made, job = await world.hook(URL), await world.begin()
        await asyncio.gather(world.end(job), world.hooks.delete(ACTOR, made.webhook.suffix))
    assert await rows(database, webhook_deliveries) == []


async def test_no_more_is_asked_of_the_database_where_nobody_is_told(database: Database, world: World) -> None:
    """One look-up by an index."""

    async def work(connection: AsyncConnection) -> str:
        plan = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "SET enable_seqscan = off; EXPLAIN"
        *before, explain = plan.split("; ")
        for statement in before:
            await connection.exec_driver_sql(statement)
        query = "SELECT suffix, events_json FROM webhooks WHERE team_id = 'team' AND NOT disabled ORDER BY suffix"
        return str((await connection.exec_driver_sql(f"{explain} {query}")).all())

    assert "ix_webhooks_team_id" in await database.write(work)
