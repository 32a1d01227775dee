"""Bounds of requests for speech and transcripts, the same on every surface. What breaks one raises GatewayError."""

from __future__ import annotations

import re
from typing import Final

from server.domain.audio import MAX_FILE_BYTES, MAX_INPUT_CHARS
from server.domain.errors import GatewayError, Reason
from server.domain.limits import MAX_SHOWN_CHARS, Range, check_length, invalid_value, missing_field
from server.domain.upload import Upload

__all__ = [
    "FILE",
    "MAX_HINT_CHARS",
    "MAX_INSTRUCTIONS_CHARS",
    "MAX_VOICE_CHARS",
    "SPEED",
    "TEMPERATURE",
    "check_file",
    "check_hint",
    "check_instructions",
    "check_language",
    "check_speed",
    "check_temperature",
    "check_text",
    "check_voice",
    "is_sound",
]

FILE: Final = "file"
SPEED: Final = Range(0.25, 4)
TEMPERATURE: Final = Range(0, 1)
MAX_VOICE_CHARS: Final = 128
MAX_INSTRUCTIONS_CHARS: Final = 16_384
MAX_HINT_CHARS: Final = 16_384
CONTAINERS: Final = "flac, mp3, mp4, mpeg, mpga, m4a, ogg, wav or webm"

_LANGUAGE: Final = re.compile(r"[a-z]{2,3}")
_SIGNATURES: Final = (b"fLaC", b"ID3", b"OggS", b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
"""How files begin: FLAC, tags before MP3, Ogg, Matroska and WebM, MPEG of two kinds."""


def check_text(text: str, param: str) -> None:
    """What is to be read aloud."""
    if not text.strip():
        raise invalid_value(param, "must not be empty") if text else missing_field(param)
    check_length(text, MAX_INPUT_CHARS, param)


def check_voice(voice: str, param: str) -> None:
    if not voice:
        raise missing_field(param)
    check_length(voice, MAX_VOICE_CHARS, param)


def check_speed(speed: float) -> None:
    if not SPEED.holds(speed):
        raise invalid_value("speed", f"must be {SPEED}, not {speed:g}")


def check_instructions(instructions: str) -> None:
    check_length(instructions, MAX_INSTRUCTIONS_CHARS, "instructions")


def check_temperature(temperature: float) -> None:
    if not TEMPERATURE.holds(temperature):
        raise invalid_value("temperature", f"must be {TEMPERATURE}, not {temperature:g}")


def check_language(language: str) -> None:
    if not _LANGUAGE.fullmatch(language):
        shown = language[:MAX_SHOWN_CHARS]
        raise invalid_value("language", f'must be the code of a language in ISO 639, such as en, not "{shown}"')


def check_hint(prompt: str) -> None:
    check_length(prompt, MAX_HINT_CHARS, "prompt")


def check_file(file: Upload, param: str = FILE) -> None:
    """That it is there, no larger than providers take, and looks like sound at its beginning."""
    if not file.size:
        raise invalid_value(param, "must not be empty")
    if file.size > MAX_FILE_BYTES:
        text = f"{param} must be at most {MAX_FILE_BYTES // 2**20} MiB, not {file.size:,} bytes."
        raise GatewayError(Reason.REQUEST_TOO_LARGE, text, param=param)
    if not is_sound(file.head):
        raise invalid_value(param, f"must be {CONTAINERS}, and its first bytes are those of none")


def is_sound(head: bytes) -> bool:
    """Whether a file that begins so may be one of CONTAINERS. `head`: 12 bytes at least, where there are as many."""
    return (
        head.startswith(_SIGNATURES)
        or head[4:8] == b"ftyp"
        or (head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE")
        or _is_mpeg_frame(head)
    )


def _is_mpeg_frame(head: bytes) -> bool:
    """MPEG audio without anything before it: eleven bits set, then a version, a layer and rates that there are."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer, bit_rate, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and bit_rate != 15 and rate != 3
