"""Speech and transcripts as their users have them: SDKs, typed clients, raw HTTP and hostile files, through Envoy."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import openai
import pytest
from phaseo import Phaseo

from aistats.gateway.v1 import audio_pb2, audio_pb2_grpc
from tests.e2e.gateway import Gateway
from tests.e2e.purse import Purse
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.audio_wire import sent_form, speech, transcript_events
from tests.fakes.bodies import LISTENER, SPEAKER, WAV
from tests.fakes.contract import check_error, told
from tests.fakes.openai_upstream import Call as Do
from tests.fakes.openai_upstream import Pause, Request, Reset, error

MIB = 1024 * 1024
IN_PIECES = "acme/listener-in-pieces:free"
SUBTITLES = re.compile(r"1\n00:00:00,\d{3} --> 00:\d\d:\d\d,\d{3}\n\S.*\n\n", re.DOTALL)


@pytest.fixture(scope="module")
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.base_url, headers=gateway.headers, timeout=60) as client:
        yield client


# Speech.


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [("mp3", "audio/mpeg"), ("opus", "audio/ogg"), ("flac", "audio/flac"), ("wav", "audio/wav"), ("pcm", "audio/pcm")],
)
def test_the_sdk_streams_speech(sdk: openai.OpenAI, acme: UpstreamThread, wanted: Any, kind: str) -> None:
    pieces = [bytes([number]) * 5000 for number in range(20)]
    acme.script(speech(*pieces, content_type=kind))
    with sdk.audio.speech.with_streaming_response.create(
        model=SPEAKER, input="Hi.", voice="alloy", response_format=wanted, speed=1.5, instructions="Softly."
    ) as reply:
        assert reply.headers["content-type"] == kind
        assert reply.headers["x-generation-id"].startswith("gen_")
        assert b"".join(reply.iter_bytes()) == b"".join(pieces)
    [asked] = acme.requests
    assert asked.json == {
        "model": "speak", "input": "Hi.", "voice": "alloy", "response_format": wanted, "speed": 1.5,
        "instructions": "Softly.",
    }  # fmt: skip


def test_speech_comes_as_it_is_made(client: httpx.Client, acme: UpstreamThread) -> None:
    """The second half is made only when the first has been heard."""
    heard = threading.Event()

    async def until_heard(_: Request) -> None:
        await asyncio.to_thread(heard.wait, 30)

    acme.script(speech(b"a" * 1000, Do(until_heard), b"b" * 1000))
    body = {"model": SPEAKER, "input": "Hi.", "voice": "alloy"}
    with client.stream("POST", "/audio/speech", json=body) as reply:
        pieces = reply.iter_raw()
        first = next(pieces)
        heard.set()
        assert first + b"".join(pieces) == b"a" * 1000 + b"b" * 1000


def test_a_long_speech_is_read_no_faster_than_it_is_heard(gateway: Gateway, acme: UpstreamThread) -> None:
    piece = bytes(range(256)) * 256
    acme.script(speech(*[piece] * 1600))
    body = {"model": SPEAKER, "input": "Hi.", "voice": "alloy", "response_format": "pcm"}
    with httpx.stream(
        "POST", f"{gateway.base_url}/audio/speech", json=body, headers=gateway.headers, timeout=60
    ) as reply:
        pieces = reply.iter_raw(len(piece))
        first, sent = next(pieces), -1
        while sent != (sent := acme.requests[-1].sent):
            time.sleep(1)
        assert sent < 48 * MIB
        size = len(first) + sum(map(len, pieces))
    assert size == 1600 * len(piece) == 100 * MIB


def test_what_comes_with_the_gateway_hears_what_it_says(sdk: openai.OpenAI) -> None:
    said = "The weather is very nice today."
    with sdk.audio.speech.with_streaming_response.create(
        model="local/espeak:free", input=said, voice="alloy", response_format="wav"
    ) as sound:
        file = ("said.wav", sound.read())
    model = "local/pocketsphinx:free"
    heard = sdk.audio.transcriptions.create(model=model, file=file, response_format="verbose_json")
    assert heard.text == "the weather is very nice today"
    assert 0.5 < heard.duration < 10
    subtitles = sdk.audio.transcriptions.create(model=model, file=file, response_format="srt")
    assert SUBTITLES.match(subtitles)


def test_speech_in_events(sdk: openai.OpenAI, acme: UpstreamThread) -> None:
    acme.script(speech(b"abc", b"defg"))
    with sdk.audio.speech.with_streaming_response.create(
        model=SPEAKER, input="Hi.", voice="alloy", stream_format="sse", extra_body={"meta": True}
    ) as reply:
        assert reply.headers["content-type"] == "text/event-stream"
        events = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
    *pieces, done = events
    assert {piece["type"] for piece in pieces} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(piece["audio"]) for piece in pieces) == b"abcdefg"
    assert (done["type"], done["meta"]["provider"]) == ("speech.audio.done", "acme")
    assert done["usage"]["pricing"]["total_nanos"] == 0


def test_an_error_before_the_sound_is_the_contracts(client: httpx.Client, acme: UpstreamThread) -> None:
    acme.script(*(error(500, "Down.") for _ in range(3)))
    reply = client.post("/audio/speech", json={"model": SPEAKER, "input": "Hi.", "voice": "alloy"})
    assert check_error(told(reply))["error"] == "provider_error"


def test_sound_that_breaks_off_does_not_look_whole(client: httpx.Client, acme: UpstreamThread) -> None:
    acme.script(speech(b"a" * 1000, Pause(0.2), end=Reset()))
    with client.stream("POST", "/audio/speech", json={"model": SPEAKER, "input": "Hi.", "voice": "alloy"}) as reply:
        assert reply.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            reply.read()


# Transcripts.


def test_every_format_of_a_transcript(sdk: openai.OpenAI, acme: UpstreamThread) -> None:
    def asked(wanted: Any, **more: Any) -> Any:
        return sdk.audio.transcriptions.create(model=LISTENER, file=("a.wav", WAV), response_format=wanted, **more)

    plain = asked("json", language="en", prompt="Names.", temperature=0.5)
    assert plain.text
    assert plain.usage.type == "duration"
    form = sent_form(acme.requests[-1])
    assert (form.file, form.filename) == (WAV, "a.wav")
    assert (form["language"], form["prompt"], form["temperature"]) == ("en", "Names.", "0.5")
    assert asked("text").strip() == plain.text.strip()
    assert SUBTITLES.match(asked("srt"))
    assert asked("vtt").startswith("WEBVTT\n\n00:00:00.")
    verbose = asked("verbose_json", timestamp_granularities=["word", "segment"])
    assert (verbose.segments[0].id, verbose.segments[0].start) == (0, 0.0)
    assert verbose.words
    assert verbose.duration > 0
    assert sorted(sent_form(acme.requests[-1]).all("timestamp_granularities[]")) == ["segment", "word"]


def test_a_transcript_as_it_is_heard(sdk: openai.OpenAI, acme: UpstreamThread) -> None:
    acme.script(transcript_events())
    events = list(
        sdk.audio.transcriptions.create(
            model=IN_PIECES, file=("a.wav", WAV), stream=True, include=["logprobs"], chunking_strategy="auto"
        )
    )
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text  # type: ignore[union-attr]
    assert done.usage is not None
    form = sent_form(acme.requests[-1])
    assert (form["stream"], form["chunking_strategy"], form.all("include[]")) == ("true", "auto", ["logprobs"])


def test_what_cannot_be_streamed_comes_as_one_event(sdk: openai.OpenAI) -> None:
    delta, done = sdk.audio.transcriptions.create(model=LISTENER, file=("a.wav", WAV), stream=True)
    assert delta.type == "transcript.text.delta"
    assert done.type == "transcript.text.done"
    assert delta.delta == done.text


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_translations(sdk: openai.OpenAI, acme: UpstreamThread) -> None:
    wishes = {"provider": {"only": ["acme"]}}
    made = sdk.audio.translations.create(model=LISTENER, file=("a.wav", WAV), extra_body=wishes)
    assert made.text
    assert acme.requests[-1].path.endswith("/audio/translations")
    subtitles = sdk.audio.translations.create(model=LISTENER, file=("a.wav", WAV), response_format="srt")
    assert SUBTITLES.match(subtitles)


def test_what_a_body_is_decides_at_the_one_address(client: httpx.Client, acme: UpstreamThread) -> None:
    file = {"file": ("a.wav", WAV)}
    sound = client.post("/audio", json={"model": SPEAKER, "input": "Hi.", "voice": "alloy"})
    written = client.post("/audio", data={"model": LISTENER}, files=file)
    english = client.post("/audio", data={"model": LISTENER, "task": "translate"}, files=file)
    assert sound.headers["content-type"] == "audio/mpeg"
    assert [request.path.rpartition("/")[2] for request in acme.requests] == [
        "speech", "transcriptions", "translations",
    ]  # fmt: skip
    assert written.json()["text"]
    assert english.json()["text"]
    for reply, param in (
        (client.post("/audio", json={"model": SPEAKER, "voice": "alloy"}), "input"),
        (client.post("/audio", data={"model": LISTENER, "task": "sing"}, files=file), "task"),
        (client.post("/audio", content=b"x", headers={"content-type": "audio/wav"}), "content-type"),
        (client.get("/audio"), None),
    ):
        assert check_error(told(reply))["param"] == param


def test_the_products_own_sdk(gateway: Gateway, acme: UpstreamThread) -> None:
    """It reads every reply as text, so that it can have the sound in events only."""
    client = Phaseo(api_key=gateway.key, base_url=gateway.base_url, timeout=60)
    body: Any = {"model": SPEAKER, "input": "Hi.", "voice": "alloy", "stream_format": "sse"}
    said: Any = client.generate_speech(body)
    assert said.startswith('data: {"type":"speech.audio.delta","audio":"')


def test_typed_clients(gateway: Gateway, channel: grpc.Channel, metadata: list[tuple[str, str]]) -> None:
    stub: Any = audio_pb2_grpc.AudioServiceStub(channel)
    asked = audio_pb2.CreateSpeechRequest(model=SPEAKER, input="Hi.", voice="alloy")
    *pieces, last = stub.CreateSpeech(asked, metadata=metadata, timeout=60)
    assert b"".join(piece.audio for piece in pieces)
    assert last.completed.meta.provider == "acme"
    file = (
        audio_pb2.CreateTranscriptionRequest(model=LISTENER, filename="a.wav"),
        audio_pb2.CreateTranscriptionRequest(chunk=WAV[:20]),
        audio_pb2.CreateTranscriptionRequest(chunk=WAV[20:]),
    )
    whole = stub.CreateTranscription(iter(file), metadata=metadata, timeout=60)
    *_, streamed = stub.StreamTranscription(iter(file), metadata=metadata, timeout=60)
    assert whole.transcript.text == streamed.completed.transcript.text != ""


# Money.


def test_speech_is_paid_by_its_characters(gateway: Gateway, acme: UpstreamThread) -> None:
    purse = Purse(gateway)
    body = {"model": "acme/speak-1", "input": "x" * 200, "voice": "alloy"}
    made = purse.post("/v1/audio/speech", body)
    assert made.is_success
    acme.script(error(400, "No."))
    assert purse.post("/v1/audio/speech", body).is_error
    assert 10_000_000_000 - purse.balance() == 200 * 15_000, "only what was made"
    record = purse.record(made.headers["x-generation-id"])
    assert (record["endpoint"], record["usage"]["pricing"]["total_nanos"]) == ("audio", 3_000_000)


def test_who_leaves_in_the_middle_of_a_speech_pays_for_it_once(gateway: Gateway, acme: UpstreamThread) -> None:
    purse = Purse(gateway)
    acme.script(speech(b"a" * 1000, Pause(1.0), b"b" * 1000))
    body = {"model": "acme/speak-1", "input": "x" * 200, "voice": "alloy"}
    with httpx.stream("POST", f"{gateway.url}/v1/audio/speech", json=body, headers=purse.headers, timeout=30) as reply:
        next(reply.iter_raw())
        generation = reply.headers["x-generation-id"]
    record = purse.record(generation)
    assert 10_000_000_000 - purse.balance() == record["usage"]["pricing"]["total_nanos"] == 3_000_000


def test_a_transcript_is_paid_by_its_seconds(gateway: Gateway, acme: UpstreamThread) -> None:
    purse = Purse(gateway)
    form = {"data": {"model": "acme/listen-1"}, "files": {"file": ("a.wav", WAV)}}
    made = purse.send("POST", "/v1/audio/transcriptions", **form)
    usage = made.json()["usage"]
    assert usage["type"] == "duration"
    assert usage["pricing"]["total_nanos"] == usage["seconds"] * 100_000
    acme.script(error(400, "No."))
    assert purse.send("POST", "/v1/audio/transcriptions", **form).is_error
    assert 10_000_000_000 - purse.balance() == usage["pricing"]["total_nanos"]


def test_what_has_a_key_is_made_once(client: httpx.Client, acme: UpstreamThread) -> None:
    form = {"data": {"model": LISTENER}, "files": {"file": ("a.wav", WAV)}}
    json_ = {"json": {"model": SPEAKER, "input": "Hi.", "voice": "alloy"}}
    for path, body in (("/audio/transcriptions", form), ("/audio/speech", json_)):
        headers = {"idempotency-key": f"once{path}"}
        first, again = (client.post(path, **body, headers=headers) for _ in range(2))
        assert first.is_success
        assert (first.content, again.headers["idempotent-replayed"]) == (again.content, "true")
        assert first.headers["content-type"] == again.headers["content-type"]
        assert again.headers["x-generation-id"] == first.headers["x-generation-id"]
    other = client.post("/audio/transcriptions", **form, headers={"idempotency-key": "once/audio/speech"})
    assert check_error(told(other))["reason"] == "idempotency_key_reused"
    assert len(acme.requests) == 2


# Files that are none.


@pytest.mark.parametrize(
    ("data", "error", "param"),
    [
        (b"", "validation_error", "file"),
        (b"%PDF-1.7" + bytes(100), "validation_error", "file"),
        (b"<svg onload=alert(1)>", "validation_error", "file"),
        (b"PK\x03\x04" + bytes(100), "validation_error", "file"),
        (WAV + bytes(25 * MIB), "request_too_large", "file"),
    ],
    ids=("empty", "PDF", "SVG", "archive", "too large"),
)
def test_what_is_no_sound_goes_nowhere(
    client: httpx.Client, acme: UpstreamThread, data: bytes, error: str, param: str
) -> None:
    for path in ("/audio", "/audio/transcriptions", "/audio/translations"):
        reply = client.post(path, data={"model": LISTENER}, files={"file": ("a.wav", data)})
        body = check_error(told(reply))
        assert (body["error"], body["param"]) == (error, param), path
    assert acme.requests == []


def test_forms_that_are_none(client: httpx.Client, acme: UpstreamThread) -> None:
    whole = httpx.Request("POST", "http://x", data={"model": LISTENER}, files={"file": ("a.wav", WAV)})
    kind, body = whole.headers["content-type"], whole.read()
    for declared, sent in (
        (kind, body[:-20]),
        (kind, body[: len(body) // 2]),
        ("multipart/form-data; boundary=another", body),
        ("multipart/form-data", body),
        ("application/json", body),
    ):
        reply = client.post("/audio/transcriptions", content=sent, headers={"content-type": declared})
        assert check_error(told(reply))["error"] == "validation_error"
    assert acme.requests == []


def test_a_file_of_25_mb_is_taken(client: httpx.Client, acme: UpstreamThread) -> None:
    data = WAV + bytes(25 * MIB - len(WAV))
    reply = client.post("/audio/transcriptions", data={"model": LISTENER}, files={"file": ("a.wav", data)})
    assert reply.is_success, reply.text
    assert sent_form(acme.requests[-1]).file == data
