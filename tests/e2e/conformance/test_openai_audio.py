"""`openai`: speech, transcripts and translations, by the synchronous and the asynchronous client."""

from __future__ import annotations

import base64
import json
from typing import Any

import openai
import pytest

from tests.e2e.conformance.both import all_of, entered, got
from tests.e2e.conformance.cases import shows
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.audio_wire import transcript_events
from tests.fakes.bodies import LISTENER, WAV

SPEAKER, HEARER = "local/espeak:free", "local/pocketsphinx:free"
SAID, HEARD = "The weather is very nice today.", "the weather is very nice today"
FILE = ("a.wav", WAV)


async def spoken(client: Any) -> bytes:
    made = await got(client.audio.speech.create(model=SPEAKER, input=SAID, voice="alloy", response_format="wav"))
    return bytes(made.content)


@shows("openai", "audio.speech.create")
async def test_speech(client: Any) -> None:
    assert (await spoken(client))[8:12] == b"WAVE"


@shows("openai", "audio.speech.create")
async def test_speech_as_it_is_made(client: Any) -> None:
    asked = client.audio.speech.with_streaming_response.create(model=SPEAKER, input=SAID, voice="alloy")
    async with entered(asked) as reply:
        assert reply.headers["content-type"] == "audio/mpeg"
        assert b"".join(await all_of(reply.iter_bytes()))


@shows("openai", "audio.speech.create")
async def test_speech_in_events(client: Any) -> None:
    asked = client.audio.speech.with_streaming_response.create(
        model=SPEAKER, input=SAID, voice="alloy", response_format="wav", stream_format="sse"
    )
    async with entered(asked) as reply:
        events = [json.loads(line[6:]) for line in await all_of(reply.iter_lines()) if line.startswith("data: {")]
    assert base64.b64decode(events[0]["audio"])[:4] == b"RIFF"
    assert events[-1]["type"] == "speech.audio.done"


@shows("openai", "audio.speech.create", refused=True)
async def test_a_speed_that_there_is_not(client: Any, record_property: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await got(client.audio.speech.create(model=SPEAKER, input=SAID, voice="alloy", speed=9))
    record_property("refusal", refused.value.response.json()["description"])


@shows("openai", "audio.transcriptions.create")
async def test_what_was_said_is_heard(client: Any) -> None:
    file = ("said.wav", await spoken(client))
    heard = await got(client.audio.transcriptions.create(model=HEARER, file=file))
    assert heard.text == HEARD
    assert heard.usage.type == "duration"
    verbose = await got(client.audio.transcriptions.create(model=HEARER, file=file, response_format="verbose_json"))
    assert (verbose.text, verbose.segments[0].id) == (HEARD, 0)
    for wanted in ("text", "srt", "vtt"):
        assert HEARD in await got(client.audio.transcriptions.create(model=HEARER, file=file, response_format=wanted))


@shows("openai", "audio.transcriptions.create")
async def test_a_transcript_as_it_is_heard(client: Any, acme: UpstreamThread) -> None:
    acme.script(transcript_events())
    *deltas, done = await all_of(
        client.audio.transcriptions.create(model="acme/listener-in-pieces:free", file=FILE, stream=True)
    )
    assert "".join(delta.delta for delta in deltas) == done.text
    assert done.usage.total_tokens


@shows("openai", "audio.transcriptions.create", refused=True)
async def test_a_file_that_is_no_sound(client: Any, record_property: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await got(client.audio.transcriptions.create(model=LISTENER, file=("a.mp3", b"%PDF-1.7 and more")))
    record_property("refusal", refused.value.response.json()["description"])


@shows("openai", "audio.translations.create")
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_a_translation(client: Any, acme: UpstreamThread) -> None:
    assert (await got(client.audio.translations.create(model=LISTENER, file=FILE))).text
    assert acme.requests[-1].path.endswith("/audio/translations")
