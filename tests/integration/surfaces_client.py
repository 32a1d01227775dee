"""The surfaces over a real pipeline, without a network before them: an HTTP client that the SDKs take."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

import httpx2

from rest_bridge.app import RestApp
from rest_bridge.chat import ChatRest
from rest_bridge.http import ByteStream, RestRequest
from rest_bridge.messages import MessagesRest
from rest_bridge.responses import ResponsesRest
from server.domain.catalog import Dialect
from server.domain.ports import ProviderAdapter
from server.pipeline.count_tokens import TokenEstimate
from server.pipeline.generate import Generator
from server.pipeline.respond import Respond
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.responses import SqlResponseStore
from tests.fakes.health import steady
from tests.fakes.responses_rest import TwoTeams
from tests.fakes.rest import pieces_of
from tests.integration.money import Till


@asynccontextmanager
async def surfaces_client(
    database: Database, counter: Till, adapters: Mapping[Dialect, ProviderAdapter]
) -> AsyncIterator[httpx2.AsyncClient]:
    """Chat, responses and messages of the till's team, whose key is `real`; the till's `generate` is the pipeline."""
    clock = counter.clock
    counter.generate = Generator(
        counter, adapters, counter.ledger, clock, counter.shutdown, counter.drains, steady(clock)
    )
    commits = GroupCommit(database)
    respond = Respond(counter.generate, SqlResponseStore(database, commits, clock), clock)
    try:
        async with httpx2.AsyncClient(transport=_Host(respond, counter)) as client:
            yield client
    finally:
        await commits.close()


class _Host(httpx2.AsyncBaseTransport):
    """Carries the SDKs' requests to the surfaces, and their answers back, streamed as they come."""

    def __init__(self, respond: Respond, counter: Till) -> None:
        self._counter = counter
        estimate = TokenEstimate(counter, {})
        faces = (ChatRest(counter.generate), ResponsesRest(respond), MessagesRest(counter.generate, estimate))
        reception = TwoTeams({"Bearer real": counter.team_id})
        self._app = RestApp(reception, [route for face in faces for route in face.routes()])

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._app(
            RestRequest(
                method=request.method,
                path=request.url.raw_path.partition(b"?")[0].decode(),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=pieces_of(await request.aread()),
                arrival=self._counter.call().arrival,
                query={},
            )
        )
        body = response.body if isinstance(response.body, bytes) else _pieces(response.body)
        return httpx2.Response(response.status, headers=list(response.headers), content=body)


async def _pieces(body: ByteStream) -> AsyncIterator[bytes]:
    async with aclosing(body):
        async for piece in body:
            yield piece
