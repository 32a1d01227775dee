"""What the tests of the gemini dialect share: offers, encoding and decoding in one step."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from server.domain.catalog import Offer, Provider
from server.domain.errors import ProviderFailure
from server.domain.events import ProviderEvent
from server.domain.request import Endpoint, GenerationRequest
from server.providers.gemini_decode import GeminiDecoder
from server.providers.gemini_encode import encode
from server.providers.gemini_supports import unsupported
from tests.fakes.gemini_upstream import KEY
from tests.fakes.replies import compact
from tests.unit.openai_cases import Answer, CountingIds, fold

NEW, OLD, PLAIN = "gemini-3-flash-preview", "gemini-2.5-flash", "gemini-2.0-flash"
"""A model that has levels of thinking, one that has a budget, and one that does not think."""


def provider(**fields: Any) -> Provider:
    given = {"api_key": KEY, "base_url": "http://127.0.0.1:9/v1beta", **fields}
    return Provider(id="google", dialect="gemini", **given)


def offer(model: str = NEW, **fields: Any) -> Offer:
    endpoints = frozenset({Endpoint.CHAT, Endpoint.RESPONSES})
    return Offer(provider=provider(**fields), provider_model=model, endpoints=endpoints)


def body(request: GenerationRequest, model: str = NEW) -> Any:
    """The body as the upstream parses it; `request` must be sayable."""
    assert unsupported(request, model) is None
    return json.loads(encode(offer(model), request))


def refusal(request: GenerationRequest, model: str = NEW) -> str | None:
    return unsupported(request, model)


def decoder() -> GeminiDecoder:
    return GeminiDecoder(provider(), CountingIds())


def events_of(chunks: Iterable[Any]) -> list[ProviderEvent]:
    """The events of a stream of these chunks (dicts are encoded, bytes go as they are), to its end."""
    made, out = decoder(), list[ProviderEvent]()
    for chunk in chunks:
        made.feed(None, chunk if isinstance(chunk, bytes) else compact(chunk), out)
    made.finish(out)
    return out


def streamed(*chunks: Any) -> Answer:
    return fold(events_of(chunks))


def unary(reply: Any) -> Answer:
    out: list[ProviderEvent] = []
    decoder().whole(reply if isinstance(reply, bytes) else compact(reply), out)
    return fold(out)


def stream_failure(*chunks: Any) -> ProviderFailure:
    try:
        events_of(chunks)
    except ProviderFailure as failure:
        return failure
    raise AssertionError("the stream did not fail")


def unary_failure(reply: Any) -> ProviderFailure:
    try:
        unary(reply)
    except ProviderFailure as failure:
        return failure
    raise AssertionError("the reply did not fail")
