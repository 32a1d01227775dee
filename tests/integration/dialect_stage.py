"""All three REST surfaces over the real pipeline, adapters and database, before a stand-in of every dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from server.domain.catalog import Catalog, Dialect, Model, Offer, Provider, ProviderProfile, Routing
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint
from server.providers.anthropic import AnthropicAdapter
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter
from server.storage.database import Database
from server.transport import Transport
from tests.dialects.cells import Bench, model_of
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.dialects import DialectName
from tests.fakes.gemini_upstream import KEY, GeminiUpstream
from tests.fakes.openai_upstream import Upstream
from tests.fakes.surfaces import surfaces
from tests.fakes.wire import WireServer
from tests.integration.databases import migrated
from tests.integration.money import Till, till
from tests.integration.surfaces_client import surfaces_client

SPOKEN: dict[DialectName, tuple[Dialect, str, ProviderProfile]] = {
    "openai": ("openai", "test-1", ProviderProfile(apis=frozenset({"chat"}))),
    "openai_responses": ("openai", "test-1", ProviderProfile(apis=frozenset({"responses"}))),
    "anthropic": ("anthropic", "claude-sonnet-5", ProviderProfile()),
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
        http = await stack.enter_async_context(surfaces_client(database, counter, adapters))
        yield Stage(upstreams, counter, http)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One for all tests of a module."""
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('dialects') / 'gateway.db'}"
    async with migrated(url) as database, stage(database) as made:
        yield made


@pytest.fixture
def at(whole_stage: Stage) -> Stage:
    """The same, with upstreams that know nothing of the test before."""
    whole_stage.forget()
    return whole_stage
