"""What speech and transcripts cost: characters, seconds or tokens, once, and nothing where nothing was relayed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from server.domain.audio import SpeechRequest, TranscriptionRequest
from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.errors import GatewayError, Reason
from server.domain.events import AudioDelta, GenerationEvent, Produced, Settled, TextDelta
from server.domain.identity import TeamPolicy
from server.domain.pricing import PriceList
from server.domain.request import Endpoint
from server.pipeline.settle import TOKENS_PER_MADE_SECOND
from server.pipeline.units import LEAST_BYTES_PER_SECOND, USUAL_BYTES_PER_SECOND
from server.storage.database import Database
from tests.fakes.audio_wire import PIECES, SOUND, TEXT, as_openai_audio, speech, speech_events, transcript_events
from tests.fakes.openai_upstream import Call as Do
from tests.fakes.openai_upstream import Cut, Hang, Pause, error, json_reply, silent, whole
from tests.fakes.uploads import BytesUpload
from tests.fakes.wire import Reply, Step
from tests.integration.money import ROUTING, Till, till

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

BY_CHARACTER = PriceList({"input_characters": 15_000_000_000})
"""15,000 nano-dollars a character."""
BY_SECOND = PriceList({"input_audio_seconds": 100_000_000_000})
"""100,000 nano-dollars a second."""
BY_SECOND_SPOKEN = PriceList({"output_audio_seconds": 200_000_000_000})
"""200,000 nano-dollars a second."""
BY_TOKEN = PriceList(
    {"input_text_tokens": 600_000_000, "input_audio_tokens": 3_000_000_000, "output_text_tokens": 5_000_000_000,
     "output_audio_tokens": 12_000_000_000}
)  # fmt: skip
"""600 nano-dollars a token of text, 3,000 of sound heard, 5,000 of text written, 12,000 of sound made."""
WORDS = "Guten Tag, Ada. 🎈"
COST_OF_WORDS = len(WORDS) * 15_000
FILE = BytesUpload(bytes(100_000), filename="talk.mp3")
HEARD = 10 * (FILE.size // USUAL_BYTES_PER_SECOND + 1)
"""Tokens of it where nobody counts them."""
SECOND = bytes(48_000)
"""Of sound that is not compressed."""


@pytest.fixture
async def counter(database: Database) -> AsyncIterator[Till]:
    async with till(database) as counter:
        counter.first.default = counter.second.default = as_openai_audio
        counter.current = catalog(counter)
        yield counter


def catalog(counter: Till) -> Catalog:
    """Models by what they cost, each with both providers; `tts-told` is asked for its usage."""
    providers = {
        name: Provider(name, "openai", upstream.base_url)
        for name, upstream in (("first", counter.first), ("second", counter.second))
    }

    def model(id_: str, prices: PriceList, outputs: str, name: str, params: frozenset[str] | None = None) -> Model:
        audio, made = frozenset({Endpoint.AUDIO}), frozenset({outputs})
        offers = (Offer(one, name, audio, params, prices, output_types=made) for one in providers.values())
        return Model(id_, tuple(offers))

    models = (
        model("a/tts", BY_CHARACTER, "audio", "tts-1"),
        model("a/tts-told", BY_TOKEN, "audio", "gpt-4o-mini-tts", frozenset({"stream_format"})),
        model("a/tts-timed", BY_SECOND_SPOKEN, "audio", "tts-1"),
        model("a/whisper", BY_SECOND, "text", "whisper-1"),
        model("a/transcribe", BY_TOKEN, "text", "gpt-4o-transcribe"),
    )
    return Catalog(providers, {one.id: one for one in models}, routing=ROUTING)


def said(model: str = "a/tts", **asked: Any) -> SpeechRequest:
    return SpeechRequest(endpoint=Endpoint.AUDIO, model=model, text=WORDS, voice="alloy", stream=True, **asked)


def heard(model: str = "a/whisper", **asked: Any) -> TranscriptionRequest:
    return TranscriptionRequest(endpoint=Endpoint.AUDIO, model=model, file=FILE, **asked)


def lines(events: list[GenerationEvent]) -> list[tuple[str, int]]:
    """What was charged, by dimension."""
    account = events[-1]
    assert isinstance(account, Settled)
    assert account.usage.pricing is not None
    return [(line.dimension, line.quantity) for line in account.usage.pricing.lines]


def sound_of(events: list[GenerationEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, AudioDelta))


async def test_speech_costs_what_it_has_of_characters(counter: Till) -> None:
    call = counter.call()
    events = await counter.run(call, said())
    assert (sound_of(events), lines(events)) == (SOUND, [("input_characters", len(WORDS))])
    assert await counter.spent() == COST_OF_WORDS
    record = await counter.settled(call)
    assert record.usage is not None
    units = {"input_characters": len(WORDS), "output_audio_seconds": 1}
    assert (record.success, record.usage.units, record.usage.output_tokens) == (True, units, 0)


async def test_speech_that_tells_its_tokens_costs_those(counter: Till) -> None:
    events = await counter.run(counter.call(), said("a/tts-told"))
    assert lines(events) == [("input_text_tokens", 14), ("output_audio_tokens", 101)]
    assert await counter.spent() == 14 * 600 + 101 * 12_000


async def test_the_most_that_speech_may_cost_is_held_meanwhile(counter: Till) -> None:
    held: list[int] = []

    async def look(_: object) -> None:
        held.append((await counter.wallet())[1])

    counter.first.script([Do(look), *speech()])
    await counter.run(counter.call(), said())
    assert held == [COST_OF_WORDS]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("end", "reason"),
    [(Cut(), Reason.STREAM_INTERRUPTED), (Hang(), Reason.UPSTREAM_TIMEOUT)],
    ids=["cut", "stalled"],
)
async def test_a_cut_speech_is_charged_its_characters_once(
    counter: Till, stream: bool, end: Step, reason: Reason
) -> None:
    counter.limit(idle_timeout_s=0.5)
    counter.first.script(speech(PIECES[0], end))
    call = counter.call()
    with pytest.raises(GatewayError) as cut:
        await counter.run(call, replace(said(), stream=stream))
    assert cut.value.reason is reason
    assert counter.second.requests == []
    assert await counter.spent() == COST_OF_WORDS
    assert await counter.kinds(call) == ["reserve", "settle"]
    record = await counter.settled(call)
    assert (record.success, record.cost_nanos) == (False, COST_OF_WORDS)


async def test_a_client_that_goes_midway_pays_for_its_characters_once(counter: Till) -> None:
    counter.first.script(speech(PIECES[0], Hang()))
    call = counter.call()
    events = await counter.run(call, said(), leave_after=1)
    assert sound_of(events) == PIECES[0]
    record = await counter.settled(call)
    assert await counter.spent() == COST_OF_WORDS
    assert (record.success, record.disconnect) == (False, "cancelled")


NO_SOUND: dict[str, Reply] = {
    "down": error(500),
    "empty": whole(b"", content_type="audio/mpeg"),
    "json": json_reply({"ok": True}),
    "page": whole(b"<html>", content_type="text/html"),
    "cut": speech(Cut()),
    "silent": silent(),
}


@pytest.mark.parametrize("name", NO_SOUND)
async def test_nothing_relayed_costs_nothing(counter: Till, name: str) -> None:
    if name == "silent":
        counter.limit(first_byte_timeout_s=0.5)
    counter.first.script(NO_SOUND[name])
    counter.second.script(NO_SOUND[name])
    call = counter.call()
    with pytest.raises(GatewayError):
        await counter.run(call, said())
    assert await counter.spent() == 0
    assert await counter.kinds(call) == ["reserve", "void"]


async def test_speech_of_the_second_provider_is_charged_once(counter: Till) -> None:
    counter.first.script(json_reply({"error": {"message": "Overloaded.", "code": 503}}))
    events = await counter.run(counter.call(), said())
    assert (sound_of(events), await counter.spent()) == (SOUND, COST_OF_WORDS)


@pytest.mark.parametrize(
    ("piece", "format_", "seconds"),
    [(SECOND * 2 + b"x", "wav", 3), (SECOND, "pcm", 1), (bytes(32_000), "mp3", 2), (SECOND * 100, "wav", 6)],
    ids=["wav", "pcm", "mp3", "longer-than-can-be"],
)
async def test_a_stream_of_events_that_is_cut_is_charged_for_the_sound_that_was_relayed(
    counter: Till, piece: bytes, format_: Any, seconds: int
) -> None:
    """Who goes during the last word has heard all of it."""
    counter.first.script(speech_events(piece, done=False))
    call = counter.call()
    with pytest.raises(GatewayError):
        await counter.run(call, said("a/tts-told", format=format_))
    made = TOKENS_PER_MADE_SECOND * seconds
    assert made * 12_000 < await counter.spent() < made * 12_000 + 14 * 600 * 2
    counted = (await counter.settled(call)).usage
    assert counted is not None
    assert (counted.source, counted.output_tokens, counted.output_audio_tokens) == ("counted", made, made)


async def test_a_speech_whose_tokens_nobody_tells_is_charged_for_its_sound(counter: Till) -> None:
    counter.first.script(speech_events(SECOND, usage=None))
    events = await counter.run(counter.call(), said("a/tts-told", format="wav"))
    assert dict(lines(events))["output_audio_tokens"] == TOKENS_PER_MADE_SECOND


@pytest.mark.parametrize(("size", "seconds"), [(1, 1), (48_000, 1), (48_001, 2)])
async def test_speech_costs_its_seconds_where_they_have_the_price(counter: Till, size: int, seconds: int) -> None:
    counter.first.script(speech(bytes(size), content_type="audio/wav"))
    events = await counter.run(counter.call(), said("a/tts-timed", format="wav"))
    assert lines(events) == [("output_audio_seconds", seconds)]
    assert await counter.spent() == seconds * 200_000


@pytest.mark.parametrize("times", [frozenset(), frozenset({"segment"})], ids=["json", "verbose"])
async def test_a_transcript_costs_its_seconds(counter: Till, times: frozenset[Any]) -> None:
    """Of 8.47 seconds the ninth is charged whole, as OpenAI does."""
    events = await counter.run(counter.call(), heard(granularities=times))
    assert lines(events) == [("input_audio_seconds", 9)]
    assert await counter.spent() == 9 * 100_000


async def test_a_duration_is_enough(counter: Till) -> None:
    counter.first.script(json_reply({"text": TEXT, "duration": "61.0000004", "language": "en"}))
    assert lines(await counter.run(counter.call(), heard())) == [("input_audio_seconds", 61)]


async def test_seconds_that_nobody_tells_are_taken_from_the_size(counter: Till) -> None:
    counter.first.script(json_reply({"text": TEXT}))
    expected = FILE.size // USUAL_BYTES_PER_SECOND + 1
    assert lines(await counter.run(counter.call(), heard())) == [("input_audio_seconds", expected)]


async def test_the_most_that_a_file_may_cost_is_held_meanwhile(counter: Till) -> None:
    held: list[int] = []

    async def look(_: object) -> None:
        held.append((await counter.wallet())[1])

    counter.first.script([Do(look), *json_reply({"text": TEXT, "duration": 3})])
    await counter.run(counter.call(), heard())
    assert held == [(FILE.size // LEAST_BYTES_PER_SECOND + 1) * 100_000]
    assert await counter.spent() == 3 * 100_000


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "not-kept"])
async def test_a_transcript_that_tells_its_tokens_costs_those(counter: Till, stream: bool, keeps: bool) -> None:
    counter.policy = TeamPolicy(store_content=keeps)
    call = counter.call()
    events = await counter.run(call, heard("a/transcribe", stream=stream))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == (TEXT if stream else "")
    assert any(isinstance(event, Produced) for event in events)
    assert lines(events) == [("input_audio_tokens", 85), ("output_text_tokens", 11)]
    assert await counter.spent() == 85 * 3_000 + 11 * 5_000
    record = await counter.settled(call)
    assert record.success


async def test_a_cut_transcript_is_charged_once(counter: Till) -> None:
    counter.first.script(transcript_events(["The stale "], done=False))
    call = counter.call()
    with pytest.raises(GatewayError):
        await counter.run(call, heard(stream=True))
    assert counter.second.requests == []
    assert await counter.spent() == (FILE.size // USUAL_BYTES_PER_SECOND + 1) * 100_000
    assert await counter.kinds(call) == ["reserve", "settle"]


async def test_a_cut_transcript_by_the_token_is_charged_what_its_sound_comes_to(counter: Till) -> None:
    """Ten tokens a second, as OpenAI counts, and not what the hold took to be safe."""
    counter.first.script(transcript_events(["The stale "], done=False))
    call = counter.call()
    with pytest.raises(GatewayError):
        await counter.run(call, heard("a/transcribe", stream=True))
    record = await counter.settled(call)
    assert record.usage is not None
    assert (record.usage.input_audio_tokens, record.usage.output_tokens) == (HEARD, 3)
    assert await counter.spent() == HEARD * 3_000 + 3 * 5_000


@pytest.mark.parametrize("stream", [True, False])
async def test_a_transcript_whose_tokens_nobody_tells_is_charged_for_sound_and_text(
    counter: Till, stream: bool
) -> None:
    counter.first.script(transcript_events([TEXT], usage=None) if stream else json_reply({"text": TEXT}))
    events = await counter.run(counter.call(), heard("a/transcribe", stream=stream))
    assert lines(events) == [("input_audio_tokens", HEARD), ("output_text_tokens", -(-len(TEXT) // 4))]


async def test_a_streamed_transcript_may_begin_as_late_as_a_whole_one(counter: Till) -> None:
    """The file has to be sent and listened to first, and some providers stream nothing."""
    counter.limit(first_byte_timeout_s=0.25)
    counter.first.script([Pause(0.5), *transcript_events()])
    events = await counter.run(counter.call(), heard(stream=True))
    assert (isinstance(events[-1], Settled), counter.second.requests) == (True, [])


async def test_a_transcript_that_does_not_come_costs_nothing(counter: Till) -> None:
    counter.first.script(error(503))
    counter.second.script(json_reply({"text": None}))
    with pytest.raises(GatewayError):
        await counter.run(counter.call(), heard())
    assert await counter.spent() == 0


async def test_every_provider_that_is_asked_gets_the_whole_file(counter: Till) -> None:
    counter.first.script(error(500))
    await counter.run(counter.call(), heard())
    bodies = [upstream.requests[0].body for upstream in (counter.first, counter.second)]
    assert [FILE.data in body for body in bodies] == [True, True]


async def test_who_speaks_is_not_asked_to_listen_and_the_other_way_round(counter: Till) -> None:
    for asked in (heard("a/tts"), said("a/whisper")):
        with pytest.raises(GatewayError) as refused:
            await counter.run(counter.call(), asked)
        assert (refused.value.reason, refused.value.param) == (Reason.UNSUPPORTED_ENDPOINT, "model")
    assert counter.first.requests == counter.second.requests == []
