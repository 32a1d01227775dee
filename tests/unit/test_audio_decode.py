"""What requests for speech and transcripts may hold, and how what they may not is named."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest

from rest_bridge.audio_decode import decode_speech, decode_transcription, decode_translation, task_of
from rest_bridge.uploads import Form
from server.domain.audio import MAX_FILE_BYTES
from server.domain.audio_limits import is_sound
from server.domain.errors import GatewayError, Reason
from tests.fakes.uploads import BytesUpload

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(32)
Fields = Sequence[tuple[str, str]]


def spoken(**body: Any) -> Any:
    return decode_speech(json.dumps({"model": "a/b", "input": "Hi.", "voice": "alloy", **body}).encode())


def form(*fields: tuple[str, str], data: bytes = WAV, model: str = "a/b") -> Form:
    return Form((("model", model), *fields), (("file", BytesUpload(data, filename="a.wav")),))


def test_speech() -> None:
    plain = spoken()
    assert (plain.request.text, plain.request.voice, plain.request.format) == ("Hi.", "alloy", "mp3")
    assert (plain.in_events, plain.wants_meta, plain.request.parameters) == (False, False, {})
    full = spoken(
        voice={"id": "voice_1"}, response_format="pcm", speed=0.25, instructions="Softly.", stream_format="sse",
        meta=True, provider={"only": ["p"]}, provider_options={"p": {"k": 1}}, models=["c/d"], debug={"trace": True},
    )  # fmt: skip
    request = full.request
    assert (request.voice, request.format, request.speed, request.instructions) == ("voice_1", "pcm", 0.25, "Softly.")
    assert (full.in_events, full.wants_meta, request.trace) == (True, True, True)
    assert request.parameters == {"speed": "speed", "instructions": "instructions"}
    assert (request.routing.only, request.routing.fallback_models) == (("p",), ("c/d",))


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": ""}, "input", "required"),
        ({"input": " \n"}, "input", "must not be empty"),
        ({"input": "x" * 4097}, "input", "at most 4096"),
        ({"input": ["x"]}, "input", "must be a string"),
        ({"model": ""}, "model", "required"),
        ({"voice": None}, "voice", "required"),
        ({"voice": ""}, "voice", "required"),
        ({"voice": 7}, "voice", "must be an object"),
        ({"voice": {}}, "voice.id", "required"),
        ({"voice": {"id": ""}}, "voice.id", "required"),
        ({"voice": {"id": "v", "name": "w"}}, "voice.name", "not a known parameter"),
        ({"voice": "v" * 129}, "voice", "at most 128"),
        ({"speed": 0.2}, "speed", "from 0.25 to 4"),
        ({"speed": 4.1}, "speed", "from 0.25 to 4"),
        ({"speed": "fast"}, "speed", "must be a number"),
        ({"response_format": "ogg"}, "response_format", '"wav"'),
        ({"stream_format": "raw"}, "stream_format", '"sse"'),
        ({"instructions": "x" * 16_385}, "instructions", "at most 16384"),
        ({"stream": True}, "stream", "not a known parameter"),
        ({"provider_options": {"p": {"base_url": "x"}}}, "provider_options.p.base_url", "cannot be set"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_read_aloud_is_named(body: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(GatewayError) as caught:
        spoken(**body)
    assert caught.value.param == param
    assert says in caught.value.description


def test_a_transcription() -> None:
    plain = decode_transcription(form())
    request = plain.request
    assert (plain.format, plain.wants_meta, request.stream, request.into_english) == ("json", False, False, False)
    assert (request.granularities, request.parameters, request.passthrough) == (frozenset(), {}, {})
    assert request.file.filename == "a.wav"
    full = decode_transcription(
        form(
            ("response_format", "verbose_json"), ("language", "en"), ("prompt", "Names."), ("temperature", "0.5"),
            ("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment"), ("meta", "true"),
            ("provider", '{"only": ["p"]}'), ("models[]", "c/d"), ("provider_options", '{"p": {"k": 1}}'),
        )
    )  # fmt: skip
    request = full.request
    assert (full.format, full.wants_meta) == ("verbose_json", True)
    assert request.granularities == {"word", "segment"}
    assert (request.language, request.prompt, request.temperature) == ("en", "Names.", 0.5)
    assert set(request.parameters) == {"language", "prompt", "temperature", "timestamp_granularities"}
    assert (request.routing.only, request.routing.fallback_models) == (("p",), ("c/d",))
    assert bytes(request.provider_options["p"]["k"]) == b"1"
    streamed = decode_transcription(form(("stream", "true"), ("include[]", "logprobs"), ("chunking_strategy", "auto")))
    request = streamed.request
    assert (request.stream, request.logprobs) == (True, True)
    assert request.parameters == {"logprobs": "include", "chunking_strategy": "chunking_strategy"}
    assert bytes(request.passthrough["chunking_strategy"]) == b'"auto"'


@pytest.mark.parametrize(
    "fields",
    [
        [("chunking_strategy", '{"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 3}')],
        [
            ("chunking_strategy[type]", "server_vad"),
            ("chunking_strategy[threshold]", "0.5"),
            ("chunking_strategy[prefix_padding_ms]", "3"),
        ],
    ],
    ids=("JSON", "brackets"),
)
def test_how_a_file_is_cut(fields: Fields) -> None:
    passed = decode_transcription(form(*fields)).request.passthrough["chunking_strategy"]
    assert json.loads(bytes(passed)) == {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 3}


@pytest.mark.parametrize("wanted", ["srt", "vtt", "verbose_json"])
def test_what_tells_times_asks_for_them(wanted: str) -> None:
    for decode in (decode_transcription, decode_translation):
        request = decode(form(("response_format", wanted))).request
        assert request.granularities == {"segment"}
        assert request.parameters == {"timestamp_granularities": "response_format"}


def test_a_translation() -> None:
    order = decode_translation(form(("response_format", "text"), ("prompt", "p"), ("temperature", "0")))
    request = order.request
    assert (order.format, request.into_english, request.prompt, request.temperature) == ("text", True, "p", 0.0)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ([("model", "c/d")], "model", "twice"),
        ([("temperature", "1.1")], "temperature", "from 0 to 1"),
        ([("temperature", "nan")], "temperature", "from 0 to 1"),
        ([("temperature", "warm")], "temperature", "must be a number"),
        ([("language", "English")], "language", "ISO 639"),
        ([("language", "")], "language", "ISO 639"),
        ([("response_format", "xml")], "response_format", '"verbose_json"'),
        ([("timestamp_granularities[]", "word")], "timestamp_granularities", "verbose_json"),
        ([("timestamp_granularities[]", "letter"), ("response_format", "verbose_json")], "timestamp_granularities", ""),
        ([("include[]", "logprobs"), ("response_format", "text")], "include", "json"),
        ([("include[]", "usage")], "include", "logprobs"),
        ([("stream", "true"), ("response_format", "srt")], "stream", "json or text"),
        ([("stream", "maybe")], "stream", "must be a boolean"),
        ([("chunking_strategy", "manual")], "chunking_strategy", "JSON"),
        ([("chunking_strategy[type]", "client")], "chunking_strategy", ""),
        ([("prompt", "x" * 16_385)], "prompt", "at most 16384"),
        ([("provider", "acme")], "provider", "JSON"),
        ([("file", "text")], "file", "not a known parameter"),
        ([("task", "translate")], "task", "not a known parameter"),
        ([("input", "x")], "input", "not a known parameter"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_written_down_is_named(fields: Fields, param: str, says: str) -> None:
    with pytest.raises(GatewayError) as caught:
        decode_transcription(form(*fields))
    assert (caught.value.param or "").startswith(param)
    assert says in caught.value.description


@pytest.mark.parametrize("name", ["language", "stream", "timestamp_granularities[]", "include[]"])
def test_a_translation_has_fewer_fields(name: str) -> None:
    with pytest.raises(GatewayError) as caught:
        decode_translation(form((name, "en")))
    assert caught.value.reason is Reason.UNKNOWN_PARAMETER


@pytest.mark.parametrize(
    ("files", "reason", "param"),
    [
        ((), Reason.MISSING_FIELD, "file"),
        ((("file", BytesUpload(b"")),), Reason.INVALID_VALUE, "file"),
        ((("file", BytesUpload(b"\x89PNG\r\n\x1a\n" + bytes(64))),), Reason.INVALID_VALUE, "file"),
        ((("file", BytesUpload(b"R")),), Reason.INVALID_VALUE, "file"),
        ((("file", BytesUpload(WAV)), ("file", BytesUpload(WAV))), Reason.INVALID_VALUE, "file"),
        ((("sound", BytesUpload(WAV)),), Reason.INVALID_VALUE, "sound"),
        ((("file", BytesUpload(WAV + bytes(MAX_FILE_BYTES))),), Reason.REQUEST_TOO_LARGE, "file"),
    ],
    ids=("none", "empty", "picture", "one byte", "two", "another name", "large"),
)
def test_files(files: Any, reason: Reason, param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        decode_transcription(Form((("model", "a/b"),), files))
    assert (caught.value.reason, caught.value.param) == (reason, param)


def test_a_file_may_be_in_a_body_of_json() -> None:
    inline = base64.b64encode(WAV).decode()
    body = {"model": "a/b", "audio_b64": inline, "response_format": "srt", "language": "en"}
    request = decode_transcription(json.dumps(body).encode()).request
    assert (request.file.head, request.file.size, request.language) == (WAV, len(WAV), "en")
    english = decode_translation(json.dumps({"model": "a/b", "audio_b64": inline}).encode()).request
    assert english.into_english


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "audio_b64"),
        ({"audio_b64": "????"}, "audio_b64"),
        ({"audio_b64": "data:audio/wav;base64,UklGRg=="}, "audio_b64"),
        ({"audio_b64": ""}, "audio_b64"),
        ({"audio_b64": base64.b64encode(b"%PDF-1.7").decode()}, "audio_b64"),
        ({"audio_b64": base64.b64encode(WAV).decode(), "temperature": 2}, "temperature"),
        ({"audio_b64": base64.b64encode(WAV).decode(), "file": "x"}, "file"),
    ],
    ids=("none", "no base64", "an address", "empty", "a PDF", "temperature", "file"),
)
def test_what_is_wrong_with_a_file_in_json_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        decode_transcription(json.dumps({"model": "a/b", **body}).encode())
    assert caught.value.param == param


def test_tasks() -> None:
    assert task_of(form())[0] == "transcribe"
    assert task_of(form(("task", "transcribe")))[0] == "transcribe"
    task, rest = task_of(form(("task", "translate"), ("prompt", "p")))
    assert (task, decode_translation(rest).request.prompt) == ("translate", "p")
    for fields in ([("task", "sing")], [("task", "translate"), ("task", "transcribe")]):
        with pytest.raises(GatewayError) as caught:
            task_of(form(*fields))
        assert caught.value.param == "task"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"fLaC\x00\x00\x00\x22", True),
        (b"ID3\x04\x00", True),
        (b"\xff\xfb\x90\x64", True),
        (b"\xff\xf3\x44\xc4", True),
        (b"\x00\x00\x00\x20ftypM4A ", True),
        (b"\x00\x00\x00\x18ftypmp42", True),
        (b"\x00\x00\x01\xba\x44", True),
        (b"OggS\x00\x02", True),
        (b"RIFF\x24\x00\x00\x00WAVE", True),
        (b"RF64\xff\xff\xff\xffWAVE", True),
        (b"\x1a\x45\xdf\xa3\x9f", True),
        (b"RIFF\x24\x00\x00\x00WEBP", False),
        (b"\xff\xf1\x50\x80", False),
        (b"\xff\xfb\xf0\x00", False),
        (b"\xff\xd8\xff\xe0", False),
        (b"%PDF-1.7", False),
        (b"<html>", False),
        (b"PK\x03\x04", False),
        (b"", False),
    ],
    ids=repr,
)
def test_containers_are_known_by_their_beginning(head: bytes, expected: bool) -> None:
    assert is_sound(head) is expected
