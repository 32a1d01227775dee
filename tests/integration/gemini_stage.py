"""Every REST surface over the real pipeline, the gemini adapter and a real database, before the stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import openai

from server.domain.catalog import Catalog, Model, Offer, Provider, Routing
from server.domain.money import nanos
from server.domain.pricing import PriceList
from server.domain.request import Endpoint
from server.providers.gemini import GeminiAdapter
from server.storage.database import Database
from server.transport import Transport
from tests.fakes.gemini_upstream import KEY, GeminiUpstream
from tests.integration.money import Till, till
from tests.integration.surfaces_client import surfaces_client
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
ROUTING = Routing(timeout_s=60.0, first_byte_timeout_s=20.0, idle_timeout_s=20.0, max_attempts=2)


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


@asynccontextmanager
async def stage(database: Database) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(GeminiUpstream())
        transport = await stack.enter_async_context(Transport())
        counter = await stack.enter_async_context(till(database))
        counter.current = catalog(upstream.base_url)
        adapter = GeminiAdapter(transport, counter.clock, counter.ids)
        http = await stack.enter_async_context(surfaces_client(database, counter, {"gemini": adapter}))
        client = openai.AsyncOpenAI(api_key="real", base_url="http://gateway.test/v1", http_client=http, max_retries=0)
        yield Stage(client, upstream, counter)
