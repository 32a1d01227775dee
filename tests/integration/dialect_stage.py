"""All three REST surfaces over the real pipeline, adapters and database, before a stand-in of every dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import httpx2

from rest_bridge.app import RestApp
from rest_bridge.chat import ChatRest
from rest_bridge.http import ByteStream, RestRequest
from rest_bridge.messages import MessagesRest
from rest_bridge.responses import ResponsesRest
from server.domain.catalog import Catalog, Dialect, Model, Offer, Provider, ProviderProfile, Routing
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint
from server.pipeline.count_tokens import TokenEstimate
from server.pipeline.generate import Generator
from server.pipeline.respond import Respond
from server.providers.anthropic import AnthropicAdapter
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.responses import SqlResponseStore
from server.transport import Transport
from tests.dialects.cells import Bench, model_of
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.dialects import DialectName
from tests.fakes.gemini_upstream import KEY, GeminiUpstream
from tests.fakes.health import steady
from tests.fakes.openai_upstream import Upstream
from tests.fakes.responses_rest import TwoTeams
from tests.fakes.rest import pieces_of
from tests.fakes.surfaces import surfaces
from tests.fakes.wire import WireServer
from tests.integration.money import Till, till

SPOKEN: dict[DialectName, tuple[Dialect, str, ProviderProfile]] = {
    "openai": ("openai", "test-1", ProviderProfile(apis=frozenset({"chat"}))),
    "openai_responses": ("openai", "test-1", ProviderProfile(apis=frozenset({"responses"}))),
    "anthropic": ("anthropic", "claude-sonnet-5-5", ProviderProfile()),
    "gemini": ("gemini", "gemini-3-flash-preview", ProviderProfile()),
}
"""By dialect its adapter, a model of today and how its provider departs from it."""
BESIDE = "acme/beside:free"
"""A model of a provider by OpenAI's chat completions that counts reasoning beside its output, as xAI does."""
ROUTING = Routing(timeout_s=20.0, first_byte_timeout_s=10.0, idle_timeout_s=10.0, max_attempts=1)


class Stage(Bench):
    """A bench in this process: `counter` is its pipeline, `http` what its SDKs speak through."""

    def __init__(self, upstreams: dict[DialectName, WireServer], counter: Till, http: httpx2.AsyncClient) -> None:
        super().__init__(surfaces("http://gateway.test", "real", http), upstreams)
        self.counter = counter
        self.http = http


def catalog(upstreams: dict[DialectName, Any], models_of: Mapping[DialectName, str]) -> Catalog:
    endpoints = frozenset({Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES})
    providers: dict[str, Provider] = {
        name: Provider(name, dialect, upstreams[name].base_url, api_key=KEY, profile=profile)
        for name, (dialect, _, profile) in SPOKEN.items()
    }
    models = [
        Model(
            model_of(name),
            (Offer(providers[name], models_of.get(name, native), endpoints, max_output_tokens=8192),),
            max_output_tokens=8192,
        )
        for name, (_, native, _) in SPOKEN.items()
    ]
    profile = ProviderProfile(reasoning_tokens="beside")
    providers["beside"] = Provider("beside", "openai", upstreams["openai"].base_url, api_key=KEY, profile=profile)
    models.append(Model(BESIDE, (Offer(providers["beside"], "test-1", endpoints),)))
    return Catalog(providers, {model.id: model for model in models}, routing=ROUTING)


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


@asynccontextmanager
async def stage(database: Database, models_of: Mapping[DialectName, str] | None = None) -> AsyncIterator[Stage]:
    """`models_of` names other models than those of `SPOKEN`."""
    async with AsyncExitStack() as stack:
        upstreams: dict[DialectName, WireServer] = {
            "openai": await stack.enter_async_context(Upstream()),
            "openai_responses": await stack.enter_async_context(Upstream()),
            "anthropic": await stack.enter_async_context(AnthropicUpstream()),
            "gemini": await stack.enter_async_context(GeminiUpstream()),
        }
        transport = await stack.enter_async_context(Transport())
        counter = await stack.enter_async_context(till(database))
        counter.current = catalog(upstreams, models_of or {})
        clock, ids = counter.clock, counter.ids
        adapters: dict[Dialect, ProviderAdapter] = {
            "openai": OpenAIAdapter(transport, clock, ids),
            "anthropic": AnthropicAdapter(transport, clock, ids),
            "gemini": GeminiAdapter(transport, clock, ids),
        }
        counter.generate = Generator(
            counter, adapters, counter.ledger, clock, counter.shutdown, counter.drains, steady(clock)
        )
        commits = GroupCommit(database)
        stack.push_async_callback(commits.close)
        respond = Respond(counter.generate, SqlResponseStore(database, commits, clock), clock)
        http = await stack.enter_async_context(httpx2.AsyncClient(transport=_Host(respond, counter)))
        yield Stage(upstreams, counter, http)
