"""`/v1/embeddings` over the real pipeline, adapters and database, before stand-ins of every dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import httpx2
import openai

from rest_bridge.app import RestApp
from rest_bridge.embeddings import EmbeddingsRest
from rest_bridge.http import ByteStream, RestRequest
from server.domain.catalog import Catalog, Dialect, EmbeddingFacts, Model, Offer, Provider, Routing
from server.domain.ports import ProviderAdapter
from server.domain.pricing import PriceList
from server.domain.request import Endpoint
from server.pipeline.embed import Embed
from server.pipeline.generate import Generator
from server.providers.cohere import CohereAdapter
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter
from server.storage.database import Database
from server.transport import Transport
from tests.fakes.embedding_wire import as_cohere, as_gemini_embeddings, as_openai_embeddings
from tests.fakes.health import steady
from tests.fakes.openai_upstream import Upstream
from tests.fakes.responses_rest import TwoTeams
from tests.fakes.rest import pieces_of
from tests.integration.money import Till, till

PRICE = PriceList({"input_text_tokens": 20_000_000})
"""20 nano-dollars a token."""
NANOS_EACH = 60
"""Of an input, of which a stand-in counts three tokens."""
ROUTING = Routing(timeout_s=60.0, first_byte_timeout_s=20.0, idle_timeout_s=20.0, max_attempts=2)
FACTS: Mapping[str, EmbeddingFacts] = {
    "numbers": EmbeddingFacts(),
    "packed": EmbeddingFacts(encoding="base64"),
    "small": EmbeddingFacts(max_inputs=2, encoding="base64"),
    "text": EmbeddingFacts(token_input=False),
    "renamed": EmbeddingFacts(dimensions_field="output_dimension"),
    "google": EmbeddingFacts(),
    "cohere": EmbeddingFacts(encoding="base64"),
}
DIALECTS: Mapping[str, Dialect] = {"google": "gemini", "cohere": "cohere"}


class Stage:
    """`client` is the OpenAI SDK of a team with credit. Each provider of FACTS has a model `a/<provider>`.

    `a/two` is offered by `packed` and then by `numbers`.
    """

    def __init__(self, client: openai.AsyncOpenAI, upstreams: Mapping[str, Upstream], counter: Till) -> None:
        self.client = client
        self.upstreams = upstreams
        self.counter = counter

    async def raw(self, **body: object) -> httpx2.Response:
        """The answer to a body as it is."""
        return await self.client.post("/embeddings", body=body, cast_to=httpx2.Response)


@asynccontextmanager
async def stage(database: Database) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        counter = await stack.enter_async_context(till(database))
        transport = await stack.enter_async_context(Transport())
        defaults = {"google": as_gemini_embeddings, "cohere": as_cohere}
        upstreams = {
            name: await stack.enter_async_context(Upstream(defaults.get(name, as_openai_embeddings))) for name in FACTS
        }
        counter.current = _catalog(upstreams)
        adapters: dict[Dialect, ProviderAdapter] = {
            "openai": OpenAIAdapter(transport, counter.clock, counter.ids),
            "gemini": GeminiAdapter(transport, counter.clock, counter.ids),
            "cohere": CohereAdapter(transport, counter.clock),
        }
        counter.generate = Generator(
            counter, adapters, counter.ledger, counter.clock, counter.shutdown, counter.drains, steady(counter.clock)
        )
        http = await stack.enter_async_context(httpx2.AsyncClient(transport=_Host(counter)))
        client = openai.AsyncOpenAI(api_key="real", base_url="http://gateway.test/v1", http_client=http, max_retries=0)
        yield Stage(client, upstreams, counter)


def _catalog(upstreams: Mapping[str, Upstream]) -> Catalog:
    providers = {
        name: Provider(name, DIALECTS.get(name, "openai"), upstream.base_url, api_key="sk-canary")
        for name, upstream in upstreams.items()
    }
    offers = {
        name: Offer(provider, "embed-1", frozenset({Endpoint.EMBEDDINGS}), prices=PRICE, embeddings=FACTS[name])
        for name, provider in providers.items()
    }
    models = {f"a/{name}": Model(f"a/{name}", (offer,)) for name, offer in offers.items()}
    models["a/two"] = Model("a/two", (offers["packed"], offers["numbers"]))
    return Catalog(providers, models, routing=ROUTING)


class _Host(httpx2.AsyncBaseTransport):
    """Carries the SDK's requests to the surface, and its answers back, streamed as they come."""

    def __init__(self, counter: Till) -> None:
        self._counter = counter
        reception = TwoTeams({"Bearer real": counter.team_id})
        self._app = RestApp(reception, EmbeddingsRest(Embed(counter.generate)).routes())

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._app(
            RestRequest(
                method=request.method,
                path=request.url.raw_path.partition(b"?")[0].decode(),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=pieces_of(await request.aread()),
                arrival=self._counter.call().arrival,
            )
        )
        body = response.body if isinstance(response.body, bytes) else _pieces(response.body)
        return httpx2.Response(response.status, headers=list(response.headers), content=body)


async def _pieces(body: ByteStream) -> AsyncIterator[bytes]:
    async with aclosing(body):
        async for piece in body:
            yield piece
