"""Every REST surface over the real pipeline, the gemini adapter and a real database, before the stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import httpx2
import openai

from rest_bridge.app import RestApp
from rest_bridge.chat import ChatRest
from rest_bridge.http import ByteStream, RestRequest
from rest_bridge.messages import MessagesRest
from rest_bridge.responses import ResponsesRest
from server.domain.catalog import Catalog, Model, Offer, Provider, Routing
from server.domain.money import nanos
from server.domain.pricing import PriceList
from server.domain.request import Endpoint, GenerationRequest
from server.pipeline.generate import Generator
from server.pipeline.respond import Respond
from server.providers.gemini import GeminiAdapter
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.responses import SqlResponseStore
from server.transport import Transport
from tests.fakes.gemini_upstream import KEY, GeminiUpstream
from tests.fakes.health import steady
from tests.fakes.responses_rest import TwoTeams
from tests.fakes.rest import pieces_of
from tests.integration.money import Till, till
from tests.unit.gemini_cases import NEW, OLD

FLASH, BUDGET, PAID = "google/flash:free", "google/flash-2.5:free", "google/pro"
PRICES = PriceList(
    {
        "input_text_tokens": nanos("2"),
        "cached_read_text_tokens": nanos("0.2"),
        "input_audio_tokens": nanos("3"),
        "output_text_tokens": nanos("12"),
        "output_audio_tokens": nanos("20"),
    }
)
"""Thoughts have no price of their own: Google charges them as output."""
ROUTING = Routing(timeout_s=5.0, first_byte_timeout_s=2.0, idle_timeout_s=2.0, max_attempts=2)


def catalog(base_url: str) -> Catalog:
    provider = Provider("google", "gemini", base_url, api_key=KEY)
    endpoints = frozenset({Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES})
    offers = ((FLASH, NEW, PriceList()), (BUDGET, OLD, PriceList()), (PAID, NEW, PRICES))
    models = {
        name: Model(name, (Offer(provider, native, endpoints, prices=prices),), max_output_tokens=8192)
        for name, native, prices in offers
    }
    return Catalog({provider.id: provider}, models, routing=ROUTING)


class Stage:
    """`client` is the OpenAI SDK of a team with credit; `upstream` is what its gateway calls."""

    def __init__(self, client: openai.AsyncOpenAI, upstream: GeminiUpstream, counter: Till) -> None:
        self.client = client
        self.upstream = upstream
        self.counter = counter

    @property
    def sent(self) -> Any:
        """The body of the upstream's latest request."""
        return self.upstream.requests[-1].json


class _Host(httpx2.AsyncBaseTransport):
    """Carries the SDK's requests to the surfaces, and their answers back, streamed as they come."""

    def __init__(self, respond: Respond, counter: Till) -> None:
        self._counter = counter
        generate = counter.generate
        faces = (ChatRest(generate), ResponsesRest(respond), MessagesRest(generate, nothing))
        self._app = RestApp(
            TwoTeams({"Bearer real": counter.team_id}), [route for face in faces for route in face.routes()]
        )

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


def nothing(request: GenerationRequest) -> int:
    """A `CountTokens` that nobody asks."""
    raise AssertionError(request.model)


async def _pieces(body: ByteStream) -> AsyncIterator[bytes]:
    async with aclosing(body):
        async for piece in body:
            yield piece


@asynccontextmanager
async def stage(database: Database) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(GeminiUpstream())
        transport = await stack.enter_async_context(Transport())
        counter = await stack.enter_async_context(till(database))
        counter.current = catalog(upstream.base_url)
        clock = counter.clock
        adapter = GeminiAdapter(transport, clock, counter.ids)
        counter.generate = Generator(
            counter, {"gemini": adapter}, counter.ledger, clock, counter.shutdown, counter.drains, steady(clock)
        )
        commits = GroupCommit(database)
        stack.push_async_callback(commits.close)
        respond = Respond(counter.generate, SqlResponseStore(database, commits, clock), clock)
        http = await stack.enter_async_context(httpx2.AsyncClient(transport=_Host(respond, counter)))
        client = openai.AsyncOpenAI(api_key="real", base_url="http://gateway.test/v1", http_client=http, max_retries=0)
        yield Stage(client, upstream, counter)
