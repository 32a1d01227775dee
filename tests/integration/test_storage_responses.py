"""Stored responses: as they were put, their own team's, for as long as stated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import UuidV7
from server.domain.money import Pricing, PricingLine
from server.domain.request import (
    Audio,
    File,
    Image,
    Opaque,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from server.domain.response import (
    MessageItem,
    OpaqueOutput,
    OutputRefusal,
    OutputText,
    ReasoningItem,
    Response,
    ResponseStatus,
    ToolCallItem,
)
from server.domain.stored import StoredResponse
from server.domain.usage import Usage
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.responses import RETENTION_S, SqlResponseStore
from server.storage.tables import responses
from server.storage.teams import Teams
from tests.integration.databases import ManualClock

TURNS = (
    Turn(role=Role.SYSTEM, parts=(Text("be brief"),)),
    Turn(
        role=Role.USER,
        name="ann",
        parts=(
            Text("你好🙂 \x00 \u2028 '; DROP TABLE teams; --"),
            Image(data="aGk=", media_type="image/png", detail="low"),
            Audio(data="aGk=", format="wav"),
            File(url="https://example.com/x.pdf", filename="x.pdf"),
            Opaque(type="mcp_call", item=msgspec.Raw(b'{"b": 1,  "a": 1.50}'), param="input[1]"),
        ),
    ),
    Turn(
        role=Role.ASSISTANT,
        parts=(
            Reasoning(text="hm", summary=("s",), signature="sig", encrypted="e", item_id="rs_1"),
            Refusal("no"),
            ToolCall(call_id="c1", name="f", arguments='{"z":1,"a":2}', item_id="fc_1"),
        ),
    ),
    Turn(role=Role.TOOL, parts=(ToolResult(call_id="c1", content=(Text("42"), Image(url="https://e.x/i"))),)),
)

RESPONSE = Response(
    suffix="",
    created_at=1_800_000_000,
    completed_at=1_800_000_001,
    status=ResponseStatus.COMPLETED,
    model="a/b",
    output=(
        ReasoningItem(id="rs_1", status="completed", summary=("s",), encrypted_content="e"),
        MessageItem(
            id="msg_1",
            status="completed",
            content=(
                OutputText("你好🙂 \x00", annotations=(msgspec.Raw(b'{"b":1, "a":2}'),)),
                OutputRefusal("no"),
            ),
        ),
        ToolCallItem(id="fc_1", status="completed", call_id="c1", name="f", arguments='{"z":1}'),
        OpaqueOutput(msgspec.Raw(b'{"type": "mcp_call"}')),
    ),
    usage=Usage(input_tokens=3, output_tokens=4, pricing=Pricing((PricingLine("requests", 1, 7_000_000, 7),), 7)),
    metadata={"k": "v"},
    echo={"tools": msgspec.Raw(b'[{"z": 1,  "a": 1.50}]')},
)


class Stage:
    """A response store, and two teams to use it."""

    def __init__(self, database: Database, commits: GroupCommit, clock: ManualClock, a: str, b: str) -> None:
        self.database = database
        self.store = SqlResponseStore(database, commits, clock)
        self.clock = clock
        self.team_a, self.team_b = a, b

    def response(self, suffix: str, team_id: str | None = None) -> StoredResponse:
        return StoredResponse(
            suffix=suffix,
            team_id=team_id or self.team_a,
            created_at=int(self.clock.now()),
            turns=TURNS,
            response=msgspec.structs.replace(RESPONSE, suffix=suffix),
        )

    async def rows(self) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(select(func.count()).select_from(responses))).scalar_one()

        return await self.database.read(work)


@pytest.fixture
async def stage(database: Database, clock: ManualClock) -> AsyncIterator[Stage]:
    teams = Teams(database, clock, UuidV7())
    commits = GroupCommit(database)
    yield Stage(database, commits, clock, (await teams.create("a")).id, (await teams.create("b")).id)
    await commits.close()


async def test_a_response_is_read_back_as_it_was_put(stage: Stage) -> None:
    put = stage.response("one")
    await stage.store.put(put)
    got = await stage.store.get(stage.team_a, "one")
    assert got is not None
    assert got.created_at == put.created_at
    assert msgspec.json.encode(got.response) == msgspec.json.encode(put.response)
    assert bytes(got.response.echo["tools"]) == b'[{"z": 1,  "a": 1.50}]'
    assert msgspec.json.encode(got.turns) == msgspec.json.encode(put.turns)
    opaque = got.turns[1].parts[4]
    assert isinstance(opaque, Opaque)
    assert bytes(opaque.item) == b'{"b": 1,  "a": 1.50}'


async def test_another_teams_response_does_not_exist(stage: Stage) -> None:
    await stage.store.put(stage.response("one"))
    for spelling in ("one", "resp_one", "ONE", "one ", "%", "' OR 1=1 --"):
        assert await stage.store.get(stage.team_b, spelling) is None
        assert await stage.store.delete(stage.team_b, spelling) is False
    assert await stage.store.get(stage.team_a, "one") is not None


async def test_nobody_takes_over_a_suffix(stage: Stage) -> None:
    await stage.store.put(stage.response("one"))
    await stage.store.put(stage.response("one", stage.team_b))
    assert await stage.store.get(stage.team_b, "one") is None
    assert await stage.store.get(stage.team_a, "one") is not None


async def test_delete_says_whether_there_was_one(stage: Stage) -> None:
    await stage.store.put(stage.response("one"))
    assert await stage.store.delete(stage.team_a, "one") is True
    assert await stage.store.delete(stage.team_a, "one") is False
    assert await stage.store.get(stage.team_a, "one") is None


async def test_an_expired_response_is_gone_before_it_is_purged(stage: Stage) -> None:
    await stage.store.put(stage.response("one"))
    stage.clock.advance(RETENTION_S - 1)
    assert await stage.store.get(stage.team_a, "one") is not None
    stage.clock.advance(1)
    assert await stage.store.get(stage.team_a, "one") is None
    assert await stage.store.delete(stage.team_a, "one") is False
    assert await stage.rows() == 1


async def test_a_purge_deletes_what_is_expired_in_batches(stage: Stage) -> None:
    await asyncio.gather(*(stage.store.put(stage.response(f"old{number}")) for number in range(25)))
    stage.clock.advance(RETENTION_S)
    await stage.store.put(stage.response("new"))
    assert [await stage.store.purge(10) for _ in range(4)] == [10, 10, 5, 0]
    assert await stage.rows() == 1
    assert await stage.store.get(stage.team_a, "new") is not None


async def test_a_response_of_some_megabytes(stage: Stage) -> None:
    turn = Turn(role=Role.USER, parts=(Image(data="x" * 8_000_000, media_type="image/png"),))
    put = msgspec.structs.replace(stage.response("big"), turns=(turn,))
    await stage.store.put(put)
    got = await stage.store.get(stage.team_a, "big")
    assert got is not None
    assert got.turns == (turn,)
