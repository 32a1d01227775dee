"""Pictures through the whole pipeline: routed by what each dialect can say, charged for what was made, once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.errors import GatewayError, Reason
from server.domain.events import GenerationEvent, ImagePartial, Produced, Settled
from server.domain.images import ImageRequest, Images
from server.domain.pricing import PriceList
from server.domain.request import Endpoint
from server.pipeline.generate import Generator
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter
from server.storage.database import Database
from server.transport import Transport
from tests.fakes.gemini_upstream import KEY, GeminiUpstream
from tests.fakes.gemini_wire import whole_reply
from tests.fakes.health import steady
from tests.fakes.image_wire import as_openai_images, blocked, image_stream, images_body, no_gemini_picture, png
from tests.fakes.openai_upstream import Pause, Upstream, json_reply, rate_limited
from tests.fakes.replies import broken_after
from tests.fakes.uploads import BytesUpload
from tests.integration.databases import migrated
from tests.integration.money import ROUTING, Till, till

PER_TOKEN = PriceList(
    {
        "input_text_tokens": 5_000_000_000,
        "input_image_tokens": 8_000_000_000,
        "output_text_tokens": 10_000_000_000,
        "output_image_tokens": 32_000_000_000,
    }
)
"""5,000, 8,000, 10,000 and 32,000 nano-dollars a token."""
PER_PICTURE = PriceList({"output_image": 40_000_000_000_000})
"""4 cents each."""
PROMPT = 9 * 5_000
PICTURE = 1000 * 32_000
CENTS = 10_000_000


@pytest.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    """One is enough: that both keep the same books is tested elsewhere."""
    async with migrated(sqlite_url) as opened:
        yield opened


class Stage:
    """`a/openai` and `a/gemini` are charged by tokens, `a/each` by the picture; `a/two` is asked of OpenAI first."""

    def __init__(self, counter: Till, openai: Upstream, gemini: GeminiUpstream) -> None:
        self.counter, self.openai, self.gemini = counter, openai, gemini

    async def ask(self, model: str, **fields: Any) -> tuple[list[GenerationEvent], int]:
        """The events, and what they cost. Raises GatewayError."""
        request = ImageRequest(endpoint=Endpoint.IMAGES, model=model, prompt="A red dot.", **fields)
        before = await self.counter.spent()
        call = self.counter.call()
        events = await self.counter.run(call, request)
        await self.counter.settled(call)
        return events, await self.counter.spent() - before

    async def refusal(self, model: str, **fields: Any) -> tuple[GatewayError, int]:
        """How it failed, and what that cost."""
        before = await self.counter.spent()
        request = ImageRequest(endpoint=Endpoint.IMAGES, model=model, prompt="A red dot.", **fields)
        call = self.counter.call()
        with pytest.raises(GatewayError) as caught:
            await self.counter.run(call, request)
        await self.counter.drains.close()
        return caught.value, await self.counter.spent() - before


@asynccontextmanager
async def stage(database: Database) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        counter = await stack.enter_async_context(till(database))
        transport = await stack.enter_async_context(Transport())
        openai = await stack.enter_async_context(Upstream(as_openai_images))
        gemini = await stack.enter_async_context(GeminiUpstream())
        counter.current = _catalog(openai.base_url, gemini.base_url)
        counter.generate = Generator(
            counter,
            {
                "openai": OpenAIAdapter(transport, counter.clock, counter.ids),
                "gemini": GeminiAdapter(transport, counter.clock, counter.ids),
            },
            counter.ledger,
            counter.clock,
            counter.shutdown,
            counter.drains,
            steady(counter.clock),
        )
        yield Stage(counter, openai, gemini)


def _catalog(openai_url: str, gemini_url: str) -> Catalog:
    providers: Mapping[str, Provider] = {
        "openai": Provider("openai", "openai", openai_url, api_key=KEY),
        "gemini": Provider("gemini", "gemini", gemini_url, api_key=KEY),
    }
    made = frozenset({Endpoint.IMAGES})
    openai = Offer(providers["openai"], "gpt-image-2", made, prices=PER_TOKEN)
    gemini = Offer(providers["gemini"], "gemini-3.1-flash-image", made, prices=PER_TOKEN)
    each = Offer(providers["openai"], "flux", made, prices=PER_PICTURE)
    offers = {"openai": (openai,), "gemini": (gemini,), "two": (openai, gemini), "each": (each,)}
    models = {f"a/{name}": Model(f"a/{name}", some) for name, some in offers.items()}
    return Catalog(providers, models, routing=ROUTING)


def lines_of(events: list[GenerationEvent]) -> dict[str, int]:
    """What was charged for, and how much of it."""
    settled = events[-1]
    assert isinstance(settled, Settled)
    assert settled.usage.pricing is not None
    return {line.dimension: line.quantity for line in settled.usage.pricing.lines}


@pytest.mark.parametrize("model", ["a/openai", "a/gemini"])
async def test_pictures_are_charged_by_the_kinds_of_their_tokens(database: Database, model: str) -> None:
    async with stage(database) as at:
        events, cost = await at.ask(model, n=2)
        calls = 2 if model == "a/gemini" else 1
        assert lines_of(events) == {"input_text_tokens": 9 * calls, "output_image_tokens": 2000}
        assert cost == calls * PROMPT + 2 * PICTURE
        events, cost = await at.ask(model, images=(BytesUpload(png()),))
        assert lines_of(events) == {"input_text_tokens": 9, "input_image_tokens": 300, "output_image_tokens": 1000}
        assert cost == PROMPT + 300 * 8_000 + PICTURE


async def test_where_nobody_counts_tokens_pictures_are_counted(database: Database) -> None:
    async with stage(database) as at:
        at.openai.script(json_reply(images_body(0, 1, usage=None)))
        events, cost = await at.ask("a/each", n=3)
        assert lines_of(events) == {"output_image": 2}
        assert cost == 2 * 4 * CENTS


async def test_a_stream_may_show_nothing_for_longer_than_a_text_may(database: Database) -> None:
    async with stage(database) as at:
        steps = list(image_stream(1, 1))
        at.counter.limit(first_byte_timeout_s=2.0)
        at.openai.script([steps[0], Pause(2.5), *steps[1:]])
        events, cost = await at.ask("a/openai", stream=True, partials=1)
    assert [type(event) for event in events if isinstance(event, ImagePartial | Produced)] == [ImagePartial, Produced]
    assert cost == PROMPT + PICTURE


async def test_the_next_provider_makes_the_picture_where_the_first_is_busy(database: Database) -> None:
    async with stage(database) as at:
        at.openai.script(rate_limited("7"))
        events, cost = await at.ask("a/two", size="1024x1024", parameters={"size": "size"})
        assert (len(at.openai.requests), len(at.gemini.requests)) == (1, 1)
        assert cost == PROMPT + PICTURE
    [made] = [event.result for event in events if isinstance(event, Produced)]
    assert isinstance(made, Images)


async def test_what_one_dialect_cannot_say_another_does(database: Database) -> None:
    async with stage(database) as at:
        wish: dict[str, Any] = {"quality": "high", "parameters": {"quality": "quality"}}
        await at.ask("a/two", **wish)
        assert (len(at.openai.requests), len(at.gemini.requests)) == (1, 0)
        error, cost = await at.refusal("a/gemini", **wish)
        assert (error.reason, error.param, cost) == (Reason.UNSUPPORTED_PARAMETER, "quality", 0)


async def test_a_stream_that_breaks_after_a_partial_is_charged_for_that_picture_at_the_most(database: Database) -> None:
    async with stage(database) as at:
        at.openai.script(broken_after(image_stream(2, 1), 2))
        error, cost = await at.refusal("a/each", stream=True, partials=1, n=2)
        assert error.origin == "upstream"
        assert cost <= 4 * CENTS


async def test_a_refusal_by_the_filter_is_final_and_costs_what_the_provider_counted(database: Database) -> None:
    async with stage(database) as at:
        at.openai.script(blocked())
        error, cost = await at.refusal("a/two")
        assert (error.failures[0].category, cost) == ("content_policy", 0)
        assert not at.gemini.requests
        at.gemini.script(whole_reply(no_gemini_picture("IMAGE_SAFETY")))
        error, cost = await at.refusal("a/gemini")
        assert (error.failures[0].category, cost) == ("content_policy", PROMPT)
