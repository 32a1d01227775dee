"""A response that was made and paid for, and could not be kept: it is told all the same, and charged once."""

from __future__ import annotations

from contextlib import aclosing

import pytest
from msgspec.structs import replace

from server.domain.errors import GatewayError, Reason
from server.domain.request import Endpoint
from server.domain.response import (
    EventType,
    LifecycleEvent,
    MessageItem,
    OutputText,
    Response,
    ResponseRequest,
    ResponseStatus,
)
from server.domain.stored import StoredResponse
from server.pipeline.respond import Respond
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.responses import SqlResponseStore
from tests.integration.money import till

COST = 9 * 150 + 3 * 600


class Away(SqlResponseStore):
    """Nothing can be written to it any more."""

    async def put(self, response: StoredResponse) -> None:
        raise GatewayError(Reason.DATABASE_UNAVAILABLE, "on purpose", retry_after_s=1.0)


@pytest.mark.parametrize("is_away", [False, True], ids=["stopping", "away"])
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_what_is_paid_for_is_told(database: Database, is_away: bool, stream: bool) -> None:
    async with till(database) as counter:
        model = counter.current.models["a/b"]
        offers = tuple(replace(offer, endpoints=frozenset({Endpoint.RESPONSES})) for offer in model.offers)
        counter.current = replace(counter.current, models={"a/b": replace(model, offers=offers)})
        commits = GroupCommit(database)
        await commits.close()
        store = (Away if is_away else SqlResponseStore)(database, commits, counter.clock)
        respond = Respond(counter.generate, store, counter.clock)
        call = counter.call()
        request = ResponseRequest(replace(counter.request(stream=stream), endpoint=Endpoint.RESPONSES))
        if stream:
            async with aclosing(respond.stream(call, request)) as batches:
                events = [event async for batch in batches for event in batch]
            last = events[-1]
            assert isinstance(last, LifecycleEvent)
            assert last.type is EventType.COMPLETED
            response = last.response
        else:
            response = await respond.create(call, request)
        assert response.status is ResponseStatus.COMPLETED
        assert bytes(response.echo["store"]) == b"false"
        assert texts(response) == ["Hello there!"]
        assert await counter.spent() == COST
        assert await counter.kinds(call) == ["reserve", "settle"]
        assert await store.get(counter.team_id, call.suffix) is None


def texts(response: Response) -> list[str]:
    parts = [part for item in response.output if isinstance(item, MessageItem) for part in item.content]
    return [part.text for part in parts if isinstance(part, OutputText)]
