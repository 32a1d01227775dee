"""Every REST surface over the real pipeline, the anthropic adapter and a real database, before the stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anthropic
import openai

from server.domain.catalog import Catalog, Model, Offer, Provider, Routing
from server.domain.money import nanos
from server.domain.pricing import PriceList
from server.domain.request import Endpoint
from server.providers.anthropic import AnthropicAdapter
from server.storage.database import Database
from server.transport import Transport
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.integration.money import Till, till
from tests.integration.surfaces_client import surfaces_client
from tests.unit.anthropic_cases import ADAPTIVE, BUDGET, KEY
from tests.unit.openai_cases import CountingIds

HAIKU, SONNET, PAID = "anthropic/haiku:free", "anthropic/sonnet:free", "anthropic/opus"
PRICES = PriceList(
    {
        "input_text_tokens": nanos("5"),
        "cached_write_text_tokens": nanos("6.25"),
        "cached_read_text_tokens": nanos("0.5"),
        "output_text_tokens": nanos("25"),
    }
)
ROUTING = Routing(timeout_s=60.0, first_byte_timeout_s=20.0, idle_timeout_s=20.0, max_attempts=2)


def catalog(base_url: str) -> Catalog:
    provider = Provider("anthropic", "anthropic", base_url, api_key=KEY)
    endpoints = frozenset({Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES})
    models = {
        name: Model(
            name,
            (Offer(provider, native, endpoints, prices=prices, max_output_tokens=8192),),
            max_output_tokens=8192,
        )
        for name, native, prices in (
            (HAIKU, BUDGET, PriceList()),
            (SONNET, ADAPTIVE, PriceList()),
            (PAID, "claude-opus-4-5", PRICES),
        )
    }
    return Catalog({provider.id: provider}, models, routing=ROUTING)


class Stage:
    """`client` and `native` are the SDKs of a team with credit; `upstream` is what its gateway calls."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        native: anthropic.AsyncAnthropic,
        upstream: AnthropicUpstream,
        counter: Till,
    ) -> None:
        self.client = client
        self.native = native
        self.upstream = upstream
        self.counter = counter

    @property
    def sent(self) -> Any:
        """The body of the upstream's latest request."""
        return self.upstream.requests[-1].json


@asynccontextmanager
async def stage(database: Database) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(AnthropicUpstream())
        transport = await stack.enter_async_context(Transport())
        counter = await stack.enter_async_context(till(database))
        counter.current = catalog(upstream.base_url)
        adapter = AnthropicAdapter(transport, counter.clock, CountingIds())
        http = await stack.enter_async_context(surfaces_client(database, counter, {"anthropic": adapter}))
        client = openai.AsyncOpenAI(api_key="real", base_url="http://gateway.test/v1", http_client=http, max_retries=0)
        native = anthropic.AsyncAnthropic(
            api_key="real", base_url="http://gateway.test", http_client=http, max_retries=0
        )
        yield Stage(client, native, upstream, counter)
