"""Image requests straight to an adapter, before a stand-in on a real socket."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from server.clock import SystemClock, UuidV7
from server.domain.catalog import Dialect, Offer, Provider, ProviderProfile
from server.domain.events import ImagePartial, Produced, ProviderEvent, UsageReported
from server.domain.images import ImageRequest, Images
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint
from server.domain.usage import Usage
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter
from server.transport import Transport
from tests.fakes.gemini_upstream import KEY

MODELS: dict[Dialect, str] = {"openai": "gpt-image-2", "gemini": "gemini-3.1-flash-image"}


def wanted(**fields: Any) -> ImageRequest:
    return ImageRequest(**{"endpoint": Endpoint.IMAGES, "model": "a/b", "prompt": "A red dot.", **fields})


def offer(dialect: Dialect, base_url: str = "https://api.example.com/v1", *, model: str = "", **profile: Any) -> Offer:
    provider = Provider("p", dialect, base_url, api_key=KEY, profile=ProviderProfile(**profile))
    return Offer(provider, model or MODELS[dialect], frozenset({Endpoint.IMAGES}))


async def batches(offer: Offer, request: ImageRequest) -> list[Sequence[ProviderEvent]]:
    """What the adapter yields. Raises ProviderFailure."""
    seen: list[Sequence[ProviderEvent]] = []
    await collect(offer, request, seen)
    return seen


async def collect(offer: Offer, request: ImageRequest, seen: list[Sequence[ProviderEvent]]) -> None:
    """The same into `seen`, which keeps what came before a failure."""
    clock = SystemClock()
    async with Transport() as transport:
        adapters: dict[Dialect, ProviderAdapter] = {
            "openai": OpenAIAdapter(transport, clock, UuidV7()),
            "gemini": GeminiAdapter(transport, clock, UuidV7()),
        }
        async with aclosing(adapters[offer.provider.dialect].stream(offer, request)) as stream:
            async for batch in stream:
                seen += [batch]


def flat(seen: Sequence[Sequence[ProviderEvent]]) -> list[ProviderEvent]:
    return [event for batch in seen for event in batch]


def images_of(seen: Sequence[Sequence[ProviderEvent]]) -> Images:
    [made] = [event.result for event in flat(seen) if isinstance(event, Produced)]
    assert isinstance(made, Images)
    return made


def data_of(seen: Sequence[Sequence[ProviderEvent]]) -> list[str]:
    return [image.data for image in images_of(seen).images]


def partials_of(seen: Sequence[Sequence[ProviderEvent]]) -> list[ImagePartial]:
    return [event for event in flat(seen) if isinstance(event, ImagePartial)]


def usage_of(seen: Sequence[Sequence[ProviderEvent]]) -> Usage | None:
    return next((event.usage for event in reversed(flat(seen)) if isinstance(event, UsageReported)), None)
