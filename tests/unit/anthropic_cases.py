"""What the tests of the anthropic dialect share: offers, and answers decoded whole and as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from server.domain.catalog import Offer, Provider
from server.domain.errors import ProviderFailure
from server.domain.events import ProviderEvent
from server.domain.pricing import PriceList
from server.domain.request import Endpoint, GenerationRequest
from server.providers.anthropic_decode import MessagesDecoder
from server.providers.anthropic_encode import encode_messages
from server.providers.anthropic_refusals import unsupported
from tests.fakes.anthropic_wire import Event, events_of, problem_of
from tests.fakes.replies import compact
from tests.unit.openai_cases import Answer, CountingIds, fold

KEY = "sk-ant-api03-canary0123456789"
OLD, BUDGET, ADAPTIVE, ALWAYS = "claude-3-5-haiku-20241022", "claude-haiku-4-5", "claude-sonnet-5", "claude-opus-5-5"
FREE = PriceList()
ALL = frozenset({Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES})


def provider(**fields: Any) -> Provider:
    given = {"api_key": KEY, "base_url": "http://127.0.0.1:9/v1", **fields}
    return Provider(id="anthropic", dialect="anthropic", **given)


def offer(model: str = BUDGET, *, prices: PriceList = FREE, limit: int | None = 4096, **fields: Any) -> Offer:
    return Offer(provider(**fields), model, ALL, prices=prices, max_output_tokens=limit)


def body_of(request: GenerationRequest, model: str = BUDGET, **fields: Any) -> dict[str, Any]:
    """What is sent, which the vendor would take."""
    where = offer(model, **fields)
    assert unsupported(where, request) is None
    body, _ = encode_messages(where, request)
    sent = json.loads(body)
    assert problem_of(sent, "2023-06-01") is None
    return sent  # type: ignore[no-any-return]


def decoded(events: Iterable[Event | bytes]) -> tuple[list[ProviderEvent], ProviderFailure | None]:
    """The events of a stream that ends after these, and the failure that ended it."""
    decoder = MessagesDecoder(provider(), CountingIds())
    out: list[ProviderEvent] = []
    failure = None
    try:
        for event in events:
            if isinstance(event, bytes):
                decoder.feed(None, event, out)
            else:
                decoder.feed(event["type"], compact(event), out)
        decoder.finish(out)
    except ProviderFailure as raised:
        failure = raised
    return out, failure


def streamed(events: Iterable[Event | bytes]) -> Answer:
    out, failure = decoded(events)
    assert failure is None, failure.upstream
    return fold(out)


def unary(whole: dict[str, Any]) -> Answer:
    out: list[ProviderEvent] = []
    MessagesDecoder(provider(), CountingIds()).whole(compact(whole), out)
    return fold(out)


def both(whole: dict[str, Any], pieces: int = 3) -> Answer:
    """What a message says, which must be the same whole and streamed."""
    answer = unary(whole)
    assert streamed(events_of(whole, pieces=pieces)) == answer
    return answer
