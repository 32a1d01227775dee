"""The embedded server of pictures, speech and transcripts, as a process and asked by OpenAI's SDK."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import BadRequestError, OpenAI
from PIL import Image

from server.domain.audio import MEDIA_TYPES
from server.local_media import IMAGE_MODEL, SPEECH_MODEL, TRANSCRIPTION_MODEL
from tests.integration.local_media_stage import MediaServer, media_server, picture, seconds_of

SENTENCE = "The weather is very nice today."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaServer]:
    with media_server(tmp_path_factory.mktemp("media")) as found:
        yield found
        assert not list((found._directory / "spool").iterdir())
        assert found.ended() == 0


@pytest.fixture(scope="module")
def client(server: MediaServer) -> Iterator[OpenAI]:
    with server.sdk() as found:
        yield found


@pytest.fixture(scope="module")
def spoken(client: OpenAI) -> bytes:
    return client.audio.speech.create(model=SPEECH_MODEL, voice="alloy", input=SENTENCE).content


def image_of(data: str | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
def test_pictures_have_the_size_and_format_that_was_asked_for(client: OpenAI, format_: Any) -> None:
    made = client.images.generate(
        model=IMAGE_MODEL, prompt="A lighthouse in a storm", n=2, size="320x192", output_format=format_
    )
    assert (made.size, made.output_format, made.background) == ("320x192", format_, "opaque")
    first, second = (image_of(one.b64_json) for one in made.data or [])
    assert first.format == second.format == format_.upper()
    assert first.size == second.size == (320, 192)
    assert first.convert("RGB").getpixel((0, 30)) != second.convert("RGB").getpixel((0, 30))


def test_the_same_prompt_makes_the_same_picture(client: OpenAI) -> None:
    first, second = (
        client.images.generate(model=IMAGE_MODEL, prompt="Twice", size="256x256", extra_body={"seed": 7})
        for _ in range(2)
    )
    assert (first.data or [])[0].b64_json == (second.data or [])[0].b64_json


def test_unfinished_pictures_are_streamed_before_each_finished_one(client: OpenAI) -> None:
    with client.images.generate(
        model=IMAGE_MODEL, prompt="A lighthouse", n=2, size="256x256", stream=True, partial_images=2
    ) as stream:
        events = list(stream)
    kinds = ["image_generation.partial_image", "image_generation.partial_image", "image_generation.completed"]
    assert [event.type for event in events] == kinds * 2
    assert {image_of(event.b64_json).size for event in events} == {(256, 256)}


def test_an_edit_keeps_what_the_mask_does_not_name(client: OpenAI) -> None:
    mask = Image.new("RGBA", (64, 48), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 48))
    masked = io.BytesIO()
    mask.save(masked, "PNG")
    made = client.images.edit(
        model=IMAGE_MODEL,
        image=("photo.png", picture(), "image/png"),
        mask=("mask.png", masked.getvalue(), "image/png"),
        prompt="Put a hat on",
        size="640x480",
    )
    edited = image_of((made.data or [])[0].b64_json)
    assert edited.size == (640, 480)
    assert edited.getpixel((600, 240)) == (200, 30, 30)
    assert edited.getpixel((10, 240)) != (200, 30, 30)


def test_an_edit_has_the_size_of_its_first_picture_and_takes_several(client: OpenAI) -> None:
    images = [("a.png", picture((640, 480))), ("b.png", picture((50, 90), (0, 200, 0)))]
    made = client.images.edit(model=IMAGE_MODEL, image=images, prompt="Both of them")
    edited = image_of((made.data or [])[0].b64_json)
    assert edited.size == (640, 480)
    assert edited.getpixel((20, 20)) == (0, 200, 0)


@pytest.mark.parametrize("format_", list(MEDIA_TYPES))
def test_every_format_of_speech_is_as_long_as_what_is_said(client: OpenAI, format_: Any) -> None:
    with client.audio.speech.with_streaming_response.create(
        model=SPEECH_MODEL, voice="nova", input=SENTENCE, response_format=format_
    ) as reply:
        assert reply.headers["content-type"] == MEDIA_TYPES[format_]
        sound = b"".join(reply.iter_bytes())
    assert 1.4 < seconds_of(sound, format_) < 3.0


@pytest.mark.parametrize("speed", [0.25, 4.0])
def test_speech_takes_its_time_as_asked(client: OpenAI, spoken: bytes, speed: float) -> None:
    sound = client.audio.speech.create(model=SPEECH_MODEL, voice="alloy", input=SENTENCE, speed=speed).content
    assert seconds_of(sound, "mp3") == pytest.approx(seconds_of(spoken, "mp3") / speed, rel=0.35)


def test_speech_is_told_as_events_too(server: MediaServer) -> None:
    body = b'{"model": "espeak", "voice": {"id": "de"}, "input": "Guten Tag", "stream_format": "sse"}'
    status, headers, told = server.ask("POST", "/v1/audio/speech", body, {"content-type": "application/json"})
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert told.count(b"event: speech.audio.delta\n") >= 1
    assert told.rstrip().splitlines()[-2] == b"event: speech.audio.done"


def test_what_is_said_is_heard(client: OpenAI) -> None:
    sound = client.audio.speech.create(
        model=SPEECH_MODEL, voice="alloy", input=SENTENCE, response_format="opus"
    ).content
    heard = client.audio.transcriptions.create(model=TRANSCRIPTION_MODEL, file=("said.ogg", sound))
    assert heard.text == "the weather is very nice today"
    assert heard.usage is not None
    assert heard.usage.type == "duration"
    assert heard.usage.seconds == 2


def test_times_of_segments_and_words(client: OpenAI, spoken: bytes) -> None:
    heard = client.audio.transcriptions.create(
        model=TRANSCRIPTION_MODEL,
        file=("said.mp3", spoken),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="en",
    )
    assert (heard.language, heard.duration) == ("english", pytest.approx(seconds_of(spoken, "mp3"), abs=0.1))
    assert [word.word for word in heard.words or []] == heard.text.split() == SENTENCE.lower().rstrip(".").split()
    times = [time for word in heard.words or [] for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[-1] <= round(heard.duration, 2)
    [segment] = heard.segments or []
    assert (segment.id, segment.text) == (0, heard.text)
    assert segment.start <= times[0] <= times[-1] <= segment.end <= round(heard.duration, 2)


def test_a_transcript_is_streamed(client: OpenAI, spoken: bytes) -> None:
    with client.audio.transcriptions.create(
        model=TRANSCRIPTION_MODEL, file=("said.mp3", spoken), stream=True
    ) as stream:
        events = list(stream)
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == "".join(event.delta for event in events if event.type == "transcript.text.delta")


def test_a_translation_of_english_is_what_was_said(client: OpenAI, spoken: bytes) -> None:
    with pytest.deprecated_call():
        heard = client.audio.translations.create(model=TRANSCRIPTION_MODEL, file=("said.mp3", spoken))
    assert heard.text == "the weather is very nice today"


def bomb() -> bytes:
    """A picture of 40,000 by 40,000 pixels in some bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


PICTURES = {
    "a bomb": (bomb(), "image_too_large"),
    "cut off": (picture((640, 480))[:200], "invalid_image"),
    "text": (b"hello", "invalid_image"),
    "nothing": (b"", "invalid_image"),
    "a vector": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "invalid_image"),
}


@pytest.mark.parametrize("case", list(PICTURES))
def test_a_hostile_picture_is_refused(client: OpenAI, case: str) -> None:
    data, code = PICTURES[case]
    with pytest.raises(BadRequestError) as refused:
        client.images.edit(model=IMAGE_MODEL, image=("x.png", data, "image/png"), prompt="x")
    assert (refused.value.code, refused.value.param) == (code, "image")


SOUNDS = {
    "a list of addresses": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n#EXT-X-ENDLIST\n",
    "a list of files": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "a picture": picture(),
    "half a wave": b"RIFF\x00\x00\x00\x00WAVE",
    "nothing": b"",
}


@pytest.mark.parametrize("case", list(SOUNDS))
def test_a_hostile_sound_is_refused(client: OpenAI, case: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.audio.transcriptions.create(model=TRANSCRIPTION_MODEL, file=("x.mp3", SOUNDS[case]))
    assert (refused.value.code, refused.value.param) == ("invalid_file", "file")


def test_a_sound_that_is_too_long_is_refused(client: OpenAI) -> None:
    size = 181 * 2 * 8000
    wave = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    with pytest.raises(BadRequestError, match="180 seconds"):
        client.audio.transcriptions.create(
            model=TRANSCRIPTION_MODEL, file=("x.wav", wave + b"data" + struct.pack("<I", size) + bytes(size))
        )


SPEECH = {"model": SPEECH_MODEL, "voice": "alloy", "input": "x"}
REFUSED: dict[str, tuple[str, Any, tuple[int, str, str | None]]] = {
    "no JSON": ("/v1/images/generations", b"{", (400, "invalid_json", None)),
    "no UTF-8": ("/v1/images/generations", b'{"prompt": "\xff"}', (400, "invalid_json", None)),
    "no prompt": ("/v1/images/generations", {}, (400, "missing_required_parameter", "prompt")),
    "another model": ("/v1/images/generations", {"prompt": "x", "model": "y"}, (404, "model_not_found", "model")),
    "a misspelling": ("/v1/images/generations", {"prompt": "x", "sise": "1x1"}, (400, "unknown_parameter", "sise")),
    "a size": ("/v1/images/generations", {"prompt": "x", "size": "9000x9000"}, (400, "invalid_size", "size")),
    "too many": ("/v1/images/generations", {"prompt": "x", "n": 11}, (400, "invalid_value", "n")),
    "too much": (
        "/v1/images/generations",
        {"prompt": "x", "n": 10, "size": "2048x2048"},
        (400, "invalid_size", "n"),
    ),
    "a long prompt": ("/v1/images/generations", {"prompt": "x" * 32_001}, (400, "invalid_value", "prompt")),
    "no picture": ("/v1/images/edits", {"prompt": "x"}, (400, "invalid_content_type", None)),
    "a long text": ("/v1/audio/speech", {**SPEECH, "input": "x" * 4097}, (400, "invalid_value", "input")),
    "a voice": ("/v1/audio/speech", {**SPEECH, "voice": "../../etc/passwd"}, (400, "invalid_voice", "voice")),
    "an unknown voice": ("/v1/audio/speech", {**SPEECH, "voice": "xx"}, (400, "invalid_voice", "voice")),
    "instructions": (
        "/v1/audio/speech",
        {**SPEECH, "instructions": "sing"},
        (400, "unknown_parameter", "instructions"),
    ),
    "no file": ("/v1/audio/transcriptions", {}, (400, "invalid_content_type", "file")),
    "another route": ("/v1/embeddings", {}, (404, "unknown_url", None)),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_it_cannot_do_it_refuses_by_name(server: MediaServer, case: str) -> None:
    path, body, told = REFUSED[case]
    assert server.refusal(path, body) == told


FORMS = {
    "cut off": (b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\nabc', "invalid_body"),
    "another boundary": (b'--y\r\ncontent-disposition: form-data; name="file"\r\n\r\nabc\r\n--y--\r\n', "invalid_body"),
    "no name": (b"--x\r\ncontent-disposition: form-data\r\n\r\nabc\r\n--x--\r\n", "invalid_form"),
    "many parts": (
        b"".join(b'--x\r\ncontent-disposition: form-data; name="a%d"\r\n\r\n1\r\n' % n for n in range(70))
        + b"--x--\r\n",
        "invalid_form",
    ),
}


@pytest.mark.parametrize("case", list(FORMS))
def test_a_broken_form_is_refused(server: MediaServer, case: str) -> None:
    body, code = FORMS[case]
    headers = {"content-type": "multipart/form-data; boundary=x"}
    status, _, told = server.ask("POST", "/v1/audio/transcriptions", body, headers)
    assert status == 400
    assert f'"code": "{code}"'.encode() in told


def test_work_ends_when_nobody_waits_for_it_any_more(server: MediaServer, client: OpenAI) -> None:
    assert server.process is not None
    parent = psutil.Process(server.process.pid)
    with client.audio.speech.with_streaming_response.create(
        model=SPEECH_MODEL, voice="alloy", input="All work and no play. " * 180, response_format="wav", speed=0.25
    ) as reply:
        pieces = reply.iter_bytes(1000)
        next(pieces)
        working = parent.children()
    assert working
    gone, alive = psutil.wait_procs(working, timeout=20)
    assert gone
    assert not alive


def test_what_reads_files_of_strangers_has_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    with media_server(tmp_path) as server, server.sdk() as client:
        assert server.process is not None
        with client.audio.speech.with_streaming_response.create(
            model=SPEECH_MODEL, voice="alloy", input="All work and no play. " * 180, response_format="wav", speed=0.25
        ) as reply:
            pieces = reply.iter_bytes(1000)
            next(pieces)
            parent = psutil.Process(server.process.pid)
            assert "OPENAI_API_KEY" in parent.environ()
            [working] = parent.children()
            assert "OPENAI_API_KEY" not in working.environ()


@pytest.mark.parametrize("headers", [{"origin": "http://elsewhere.test"}, {"host": "elsewhere.test"}])
def test_no_page_in_a_browser_may_ask(server: MediaServer, headers: dict[str, str]) -> None:
    assert server.ask("GET", "/v1/videos", headers=headers)[0] == 403


def test_voices_are_different(client: OpenAI) -> None:
    said = {
        client.audio.speech.create(model=SPEECH_MODEL, voice=voice, input="One", response_format="pcm").content
        for voice in ("alloy", "onyx", "coral", "fr")
    }
    assert len(said) == 4
