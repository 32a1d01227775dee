"""What an upstream may answer: redirects lead nowhere, bodies have an end, and its id of a request is kept."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest

from server.clock import SystemClock, UuidV7
from server.domain.catalog import Offer, Provider, ProviderProfile
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import ProviderEvent, Started
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint
from server.providers import exchange, gemini
from server.providers.anthropic import AnthropicAdapter
from server.providers.exchange import MAX_ERROR_BYTES, Deadlines
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter
from server.transport import Transport
from server.transport.faults import Fault, failure
from tests.fakes import anthropic_wire
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.chat_wire import completion
from tests.fakes.gemini_upstream import KEY, GeminiUpstream
from tests.fakes.openai_upstream import Hang, Upstream, error
from tests.fakes.replies import chunk, chunked, encoded, json_reply, whole
from tests.fakes.responses_wire import message_item, response_object
from tests.fakes.wire import Endless, Reply, WireServer
from tests.unit.openai_cases import ask

MIB = 1024 * 1024
Speaks = tuple[Callable[[], WireServer], type, str, ProviderProfile]
DIALECTS: dict[str, Speaks] = {
    "chat": (Upstream, OpenAIAdapter, "test-1", ProviderProfile()),
    "responses": (Upstream, OpenAIAdapter, "test-1", ProviderProfile(apis=frozenset({"responses"}))),
    "anthropic": (AnthropicUpstream, AnthropicAdapter, "claude-sonnet-5-5", ProviderProfile()),
    "gemini": (GeminiUpstream, GeminiAdapter, "gemini-3-flash-preview", ProviderProfile()),
}
GOOD: dict[str, Any] = {
    "chat": completion("Hi"),
    "responses": response_object([message_item("Hi")]),
    "anthropic": anthropic_wire.message(anthropic_wire.text("Hi")),
}


class Place:
    """An upstream of one dialect and the adapter that calls it."""

    def __init__(self, dialect: str, upstream: Any, transport: Transport) -> None:
        _, adapter, model, profile = DIALECTS[dialect]
        self.dialect = dialect
        self.upstream = upstream
        self.make: Callable[..., ProviderAdapter] = partial(adapter, transport, SystemClock(), UuidV7())
        self.adapter = self.make()
        provider = Provider("acme", "openai", self.upstream.base_url, api_key=KEY, profile=profile)
        self.offer = Offer(provider, model, frozenset(Endpoint), max_output_tokens=4096)

    async def answer(self, *, stream: bool) -> list[ProviderEvent]:
        async with aclosing(self.adapter.stream(self.offer, ask(stream=stream))) as batches:
            return [event async for batch in batches for event in batch]

    async def failure(self, *, stream: bool) -> ProviderFailure:
        with pytest.raises(ProviderFailure) as caught:
            await self.answer(stream=stream)
        return caught.value


@pytest.fixture(params=list(DIALECTS))
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with DIALECTS[request.param][0]() as upstream, Transport() as transport:
        yield Place(request.param, upstream, transport)


def redirect(status: int, location: str, body: bytes = b"") -> Reply:
    return whole(body, status=status, headers={"location": location})


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_redirect_is_a_failure_of_the_provider_and_is_not_followed(
    place: Place, status: int, stream: bool
) -> None:
    async with Upstream() as sink:
        told = b'{"error": {"type": "invalid_request_error", "message": "Go there."}}' if status != 304 else b""
        place.upstream.script(redirect(status, f"{sink.base_url}/chat/completions", told))
        failed = await place.failure(stream=stream)
        assert (failed.category, failed.status) == (FailureCategory.PROTOCOL, status)
        assert not failed.is_final
        assert failed.upstream.code == "redirect"
        assert sink.connections_accepted == 0
    assert len(place.upstream.requests) == 1


async def test_a_redirect_to_itself_is_not_followed_either(place: Place) -> None:
    place.upstream.script(redirect(307, place.upstream.base_url))
    await place.failure(stream=False)
    assert len(place.upstream.requests) == 1


@pytest.mark.parametrize("coding", ["gzip", "br"])
@pytest.mark.parametrize("status", [200, 400])
async def test_a_compressed_bomb_ends_at_the_limit(place: Place, coding: Any, status: int) -> None:
    place.upstream.script(encoded(b'{"a":"' + b" " * (80 * MIB), coding, status=status))
    failed = await place.failure(stream=False)
    if status == 200:
        assert failed.upstream == failure(Fault.TOO_LARGE).upstream
    else:
        assert failed.category is FailureCategory.CALLER_ERROR


@pytest.mark.parametrize("stream", [False, True])
async def test_an_endless_error_is_read_in_part(place: Place, stream: bool) -> None:
    place.upstream.script(chunked([Endless(chunk(b"x" * 8000))], status=502, content_type="text/html"))
    failed = await place.failure(stream=stream)
    assert failed.status == 502
    gone = await place.upstream.wait_disconnect()
    assert gone.request is not None
    assert gone.request.sent < 16 * MIB + MAX_ERROR_BYTES


async def test_an_error_that_drips_costs_no_more_than_its_time(place: Place) -> None:
    place.adapter = place.make(Deadlines(error_body_s=0.2))
    place.upstream.script(chunked([b"x", Hang()], status=502, content_type="text/html"))
    began = time.monotonic()
    assert (await place.failure(stream=False)).status == 502
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("stream", [False, True])
async def test_an_endless_event_is_too_large(place: Place, stream: bool) -> None:
    place.upstream.script(chunked([b"data: ", Endless(chunk(b"x" * 60_000))], content_type="text/event-stream"))
    assert (await place.failure(stream=stream)).upstream == failure(Fault.TOO_LARGE).upstream


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stream_without_end_is_too_large(place: Place, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (exchange, gemini):
        monkeypatch.setattr(module, "MAX_STREAM_BYTES" if stream else "MAX_BODY_BYTES", 3 * MIB)
    comments = chunk(b": " + b"x" * 60_000 + b"\n\n")
    place.upstream.script(chunked([Endless(comments)], content_type="text/event-stream"))
    assert (await place.failure(stream=stream)).upstream == failure(Fault.TOO_LARGE).upstream


ID_HEADERS = [
    "x-request-id", "request-id", "apim-request-id", "mistral-correlation-id", "inference-id", "x-generation-id"
]  # fmt: skip


@pytest.mark.parametrize("header", ID_HEADERS)
async def test_the_providers_own_id_of_a_request_is_kept(place: Place, header: str) -> None:
    if place.dialect in GOOD:  # Google tells one in bodies alone
        place.upstream.script(json_reply(GOOD[place.dialect], headers={header: "req-0123:abc"}))
        (started,) = [event for event in await place.answer(stream=False) if isinstance(event, Started)]
        assert started.request_id == "req-0123:abc"
        place.upstream.script(whole(b"{]", headers={header: "req-10"}))
        assert (await place.failure(stream=False)).request_id == "req-10"
    place.upstream.script(error(503, headers={header: "req-9"}))
    assert (await place.failure(stream=True)).request_id == "req-9"


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("x" * 5000, "x" * 200),
        ("a\tb c\xe9d", "abcd"),
        (f"req-{KEY}", "req-[key]"),
        ("", None),
    ],
)
async def test_what_is_kept_of_it_is_short_and_clean(place: Place, told: str, kept: str | None) -> None:
    place.upstream.script(error(503, headers={"x-request-id": told}))
    assert (await place.failure(stream=False)).request_id == kept
