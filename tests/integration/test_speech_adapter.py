"""Speech by the openai dialect, over real sockets: what is asked for, and sound that is relayed as it comes."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from rest_bridge.audio_decode import decode_speech
from server.domain.audio import SpeechRequest
from server.domain.catalog import Offer, Provider
from server.domain.errors import FailureCategory, GatewayError, ProviderFailure, Reason
from server.domain.events import AudioDelta, Completed, ProviderEvent, Started, UsageReported
from server.domain.request import Endpoint
from server.domain.usage import Usage
from server.providers.openai import OpenAIAdapter
from server.transport import Transport
from tests.fakes.audio_wire import PIECES, SOUND, as_openai_audio, events, speech, speech_events
from tests.fakes.openai_upstream import Call, Cut, Reset, Send, Upstream, error, json_reply, rate_limited, sse, whole
from tests.fakes.replies import chunk, chunked, sse_event, until_close
from tests.fakes.wire import Reply
from tests.unit.openai_cases import CountingIds, FixedClock

IN_EVENTS = frozenset({"speed", "instructions", "stream_format"})


class Bench:
    def __init__(self, upstream: Upstream, transport: Transport) -> None:
        self.upstream = upstream
        self.adapter = OpenAIAdapter(transport, FixedClock(), CountingIds())

    def offer(self, params: frozenset[str] | None = None, model: str = "gpt-4o-mini-tts") -> Offer:
        provider = Provider("acme", "openai", self.upstream.base_url, api_key="sk-upstream")
        return Offer(provider, model, frozenset({Endpoint.AUDIO}), params)

    async def batches(
        self, params: frozenset[str] | None = None, **asked: Any
    ) -> tuple[list[list[ProviderEvent]], ProviderFailure | None]:
        """What was said, and the failure that ended it."""
        offer, wanted = self.offer(params), request(**asked)
        assert self.adapter.supports(offer, wanted) is None
        found: list[list[ProviderEvent]] = []
        try:
            async with aclosing(self.adapter.stream(offer, wanted)) as stream:
                async for batch in stream:
                    found.append(list(batch))  # noqa: PERF401 - what came before a failure must be kept
        except ProviderFailure as failure:
            return found, failure
        return found, None

    async def sound(self, params: frozenset[str] | None = None, **asked: Any) -> bytes:
        found, failure = await self.batches(params, **asked)
        assert failure is None
        assert found[-1][-1] == Completed()
        return heard(found)

    async def failure(self, params: frozenset[str] | None = None) -> ProviderFailure:
        """Of an answer that brought no sound."""
        found, failure = await self.batches(params)
        assert failure is not None
        assert heard(found) == b""
        return failure


def request(**asked: Any) -> SpeechRequest:
    given: dict[str, Any] = {"text": "Hello there.", "voice": "alloy", **asked}
    return SpeechRequest(endpoint=Endpoint.AUDIO, model="acme/tts", **given)


def heard(batches: list[list[ProviderEvent]]) -> bytes:
    return b"".join(event.data for batch in batches for event in batch if isinstance(event, AudioDelta))


def options(**given: Any) -> Mapping[str, Mapping[str, msgspec.Raw]]:
    return {"acme": {name: msgspec.Raw(json.dumps(value).encode()) for name, value in given.items()}}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Upstream(as_openai_audio) as upstream, Transport() as transport:
        yield Bench(upstream, transport)


ASKED: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"response_format": "mp3"}),
    "format": ({"format": "wav"}, {"response_format": "wav"}),
    "all": (
        {"format": "opus", "speed": 1.5, "instructions": "Cheerfully.", "parameters": {"speed": "speed"}},
        {"response_format": "opus", "speed": 1.5, "instructions": "Cheerfully."},
    ),
}


@pytest.mark.parametrize("name", ASKED)
async def test_what_is_asked_for(bench: Bench, name: str) -> None:
    asked, sent = ASKED[name]
    assert await bench.sound(**asked) == SOUND
    (got,) = bench.upstream.requests
    assert (got.method, got.path) == ("POST", "/v1/audio/speech")
    assert got.json == {"model": "gpt-4o-mini-tts", "input": "Hello there.", "voice": "alloy", **sent}
    assert (got.header("authorization"), got.header("accept")) == ("Bearer sk-upstream", "*/*")


async def test_a_voice_is_told_as_the_client_says_it(bench: Bench) -> None:
    for voice in ("coral", {"id": "voice_1"}):
        order = decode_speech(json.dumps({"model": "acme/tts", "input": "Hi.", "voice": voice}).encode())
        async with aclosing(bench.adapter.stream(bench.offer(), order.request)) as batches:
            assert heard([list(batch) async for batch in batches]) == SOUND
        assert bench.upstream.requests[-1].json["voice"] == voice


@pytest.mark.parametrize("stream", [False, True])
async def test_sound_is_relayed_as_it_comes(bench: Bench, stream: bool) -> None:
    seen = asyncio.Event()

    async def first_was_seen(_: object) -> None:
        async with asyncio.timeout(30):
            await seen.wait()

    bench.upstream.script(speech(PIECES[0], Call(first_was_seen), PIECES[1]))
    found: list[ProviderEvent] = []
    async with aclosing(bench.adapter.stream(bench.offer(), request(stream=stream))) as batches:
        async for batch in batches:
            found += batch
            seen.set()
    assert found == [Started(request_id="req_audio1"), AudioDelta(PIECES[0]), AudioDelta(PIECES[1]), Completed()]


async def test_what_tells_usage_is_asked_for_in_events(bench: Bench) -> None:
    found, failure = await bench.batches(IN_EVENTS, stream=False)
    assert failure is None
    assert bench.upstream.requests[0].json["stream_format"] == "sse"
    events = [event for batch in found for event in batch]
    usage = UsageReported(Usage(input_tokens=14, output_tokens=101, output_audio_tokens=101))
    assert events == [Started(request_id="req_audio1"), *map(AudioDelta, PIECES), usage, Completed()]


@pytest.mark.parametrize(
    "reply",
    [
        speech(),
        speech(content_type="application/octet-stream"),
        whole(SOUND, content_type="audio/mpeg"),
        until_close(SOUND, content_type="audio/mpeg"),
    ],
    ids=["chunked", "bytes", "whole", "until-close"],
)
@pytest.mark.parametrize("params", [None, IN_EVENTS], ids=["raw", "events"])
async def test_sound_counts_however_it_comes(bench: Bench, reply: Reply, params: frozenset[str] | None) -> None:
    bench.upstream.script(reply)
    assert await bench.sound(params) == SOUND


async def test_events_count_where_none_were_asked_for_and_without_usage(bench: Bench) -> None:
    bench.upstream.script(speech_events(usage=None))
    assert await bench.sound() == SOUND


async def test_sound_without_a_type_is_sound(bench: Bench) -> None:
    bench.upstream.script(whole(SOUND, content_type=""))
    assert await bench.sound() == SOUND


FAILURES: Mapping[str, tuple[Reply, FailureCategory]] = {
    "json": (json_reply({"text": "hello"}), FailureCategory.PROTOCOL),
    "page": (whole(b"<html>Sign in</html>", content_type="text/html; charset=utf-8"), FailureCategory.PROTOCOL),
    "text": (whole(b"busy", content_type="text/plain"), FailureCategory.PROTOCOL),
    "empty": (whole(b"", content_type="audio/mpeg"), FailureCategory.PROTOCOL),
    "empty-chunks": (chunked([], content_type="audio/mpeg"), FailureCategory.PROTOCOL),
    "error-in-200": (
        json_reply({"error": {"message": "Overloaded.", "type": "server_error", "code": 503}}),
        FailureCategory.OVERLOADED,
    ),
    "cut-at-once": (chunked([Cut()], content_type="audio/mpeg"), FailureCategory.CONNECTION),
    "reset": ([Reset()], FailureCategory.CONNECTION),
    "redirect": (whole(b"", status=302, headers={"location": "https://evil.example/"}), FailureCategory.PROTOCOL),
    "refused": (error(400, "Unknown voice.", type="invalid_request_error"), FailureCategory.CALLER_ERROR),
    "key": (error(401, "Incorrect API key.", code="invalid_api_key"), FailureCategory.CREDENTIALS),
    "down": (error(500), FailureCategory.SERVER_ERROR),
    "events-empty": (speech_events(b"", usage=None), FailureCategory.PROTOCOL),
    "events-nothing": (sse([]), FailureCategory.CONNECTION),
    "events-garbage": (sse([sse_event(b"{oops")]), FailureCategory.PROTOCOL),
    "events-no-base64": (sse([sse_event(b'{"type":"speech.audio.delta","audio":"%%%"}')]), FailureCategory.PROTOCOL),
    "events-error": (
        events({"type": "error", "error": {"message": "Rate limited.", "code": "rate_limit_exceeded"}}),
        FailureCategory.RATE_LIMITED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
async def test_what_is_no_sound_is_a_failure_without_output(bench: Bench, name: str) -> None:
    reply, category = FAILURES[name]
    bench.upstream.script(reply)
    failure = await bench.failure(IN_EVENTS if name.startswith("events") else None)
    assert failure.category is category, failure


async def test_a_rate_limit_says_how_long(bench: Bench) -> None:
    bench.upstream.script(rate_limited("7"))
    failure = await bench.failure()
    assert (failure.category, failure.retry_after_s) == (FailureCategory.RATE_LIMITED, 7.0)


@pytest.mark.parametrize("params", [None, IN_EVENTS], ids=["raw", "events"])
@pytest.mark.parametrize("end", [Cut(), Reset()], ids=["cut", "reset"])
async def test_a_cut_comes_after_the_sound_before_it(bench: Bench, end: Any, params: frozenset[str] | None) -> None:
    whole_so_far = speech(end=end) if params is None else speech_events(done=False, end=end)
    bench.upstream.script(whole_so_far)
    found, failure = await bench.batches(params)
    assert failure is not None
    assert (failure.category, failure.request_id) == (FailureCategory.CONNECTION, "req_audio1")
    assert SOUND.startswith(heard(found))
    assert Completed() not in [event for batch in found for event in batch]


async def test_a_short_body_is_cut(bench: Bench) -> None:
    bench.upstream.script([*whole(SOUND, content_type="audio/mpeg", headers={"content-length": "9999"}), Cut()])
    found, failure = await bench.batches()
    assert failure is not None
    assert (failure.category, heard(found)) == (FailureCategory.CONNECTION, SOUND)


async def test_events_that_end_without_their_last_are_cut(bench: Bench) -> None:
    bench.upstream.script(speech_events(done=False))
    found, failure = await bench.batches(IN_EVENTS)
    assert failure is not None
    assert (failure.category, heard(found)) == (FailureCategory.CONNECTION, SOUND)


async def test_an_error_among_the_events_comes_after_the_sound_before_it(bench: Bench) -> None:
    delta = {"type": "speech.audio.delta", "audio": "SUQz"}
    bench.upstream.script(events(delta, {"error": {"message": "Overloaded.", "type": "server_error", "code": 503}}))
    found, failure = await bench.batches(IN_EVENTS)
    assert failure is not None
    assert (failure.category, heard(found)) == (FailureCategory.OVERLOADED, b"ID3")


async def test_a_client_that_goes_ends_the_call(bench: Bench) -> None:
    bench.upstream.script(speech(PIECES[0], Call(lambda _: asyncio.sleep(60))))
    stream = bench.adapter.stream(bench.offer(), request())
    await anext(stream)
    await stream.aclose()
    await bench.upstream.wait_disconnect()


async def test_a_long_sound_is_not_held(bench: Bench) -> None:
    piece = b"\xff\xf3\x84\xc4" * 16_384
    bench.upstream.script(speech(*[Send(chunk(piece))] * 401))
    size = peak = 0
    tracemalloc.start()
    try:
        async with aclosing(bench.adapter.stream(bench.offer(), request())) as batches:
            async for batch in batches:
                size += sum(len(event.data) for event in batch if isinstance(event, AudioDelta))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 401 * len(piece) > 25 * 1024 * 1024
    assert peak < 8 * 1024 * 1024


@pytest.mark.parametrize("name", ["response_format", "stream_format", "input", "model"])
def test_options_may_not_say_what_the_gateway_answers_for(bench: Bench, name: str) -> None:
    with pytest.raises(GatewayError) as caught:
        bench.adapter.supports(bench.offer(), request(provider_options=options(**{name: "x"})))
    assert (caught.value.reason, caught.value.param) == (Reason.UNSUPPORTED_PARAMETER, f"provider_options.acme.{name}")


async def test_other_options_go_along(bench: Bench) -> None:
    bench.upstream.script(speech())
    await bench.sound(provider_options=options(lang_code="en", volume=2))
    sent = bench.upstream.requests[0].json
    assert (sent["lang_code"], sent["volume"]) == ("en", 2)


def test_what_cannot_be_said_is_named(bench: Bench) -> None:
    asked = request(parameters={"speed": "speed", "seed": "seed"})
    assert bench.adapter.supports(bench.offer(), asked) == "seed"
