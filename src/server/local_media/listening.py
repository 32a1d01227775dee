"""Writes down what is said in a file, in a process of work: FFmpeg decodes, PocketSphinx listens. English only.

A task has the `path` of the file. Its text comes without capitals or marks, a stretch between two pauses at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import av
from pocketsphinx import Decoder, Endpointer, get_model_path

from server.local_media.messages import tell
from server.local_media.refusal import bad_request

__all__ = ["MAX_SECONDS", "transcribe"]

MAX_SECONDS: Final = 180
"""It takes 0.4 seconds to hear one, and a whole answer has two minutes at the most."""
RATE: Final = 16_000
_BYTES_A_SECOND: Final = 2 * RATE
_FORMATS: Final = "wav,w64,mp3,flac,ogg,matroska,webm,mov,mp4,m4a,3gp,aac,mpeg,aiff,caf,amr"
"""Containers of sound. FFmpeg also knows lists of addresses and of files, which must never be followed."""
_MAX_STRETCH_S: Final = 20.0
_SILENCE_S: Final = 0.5
"""Comes after the sound: a last word that nothing follows is not made out."""
_FRAMES_A_SECOND: Final = 100


def transcribe(task: dict[str, Any]) -> None:
    """Tell `sound` with its `seconds`, and `segment` messages as they are heard. Raises Refused."""
    with Path(task["path"]).open("rb") as file:
        sound = _decoded(file)
    seconds = len(sound) / _BYTES_A_SECOND
    tell("sound", seconds=seconds)
    model = Path(get_model_path())
    decoder = Decoder(
        hmm=str(model / "en-us" / "en-us"),
        lm=str(model / "en-us" / "en-us.lm.bin"),
        dict=str(model / "en-us" / "cmudict-en-us.dict"),
        loglevel="FATAL",
    )
    for start_s, stretch in _stretches(sound + bytes(int(_SILENCE_S * _BYTES_A_SECOND))):
        _listen(decoder, start_s, stretch, seconds)


def _decoded(file: BinaryIO) -> bytes:
    """The first sound in the file, 16,000 samples a second."""
    out = bytearray()
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
    try:
        with av.open(file, "r", options=options, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise bad_request("invalid_file", "There is no sound in the file.", "file")
            resampler = av.AudioResampler("s16", "mono", RATE)
            for frame in container.decode(audio=0):
                frame.pts = None
                for part in resampler.resample(frame):
                    out += bytes(part.planes[0])[: 2 * part.samples]
                if len(out) > MAX_SECONDS * _BYTES_A_SECOND:
                    raise bad_request("audio_too_long", f"At most {MAX_SECONDS} seconds of sound are heard.", "file")
            for part in resampler.resample(None):
                out += bytes(part.planes[0])[: 2 * part.samples]
    except (av.FFmpegError, ValueError, OSError):
        raise bad_request("invalid_file", "The file is no sound that can be read, or a broken one.", "file") from None
    return bytes(out)


def _stretches(sound: bytes) -> Iterator[tuple[float, bytes]]:
    """What is said between two pauses, with the second that it begins at."""
    ears = Endpointer(sample_rate=RATE)
    size, start_s, kept = ears.frame_bytes, 0.0, bytearray()
    for place in range(0, len(sound), size):
        frame = sound[place : place + size]
        heard = ears.process(frame) if len(frame) == size else ears.end_stream(frame)
        if heard is not None:
            if not kept:
                start_s = ears.speech_start if ears.in_speech else max(0.0, place / _BYTES_A_SECOND)
            kept += heard
        if kept and (not ears.in_speech or len(kept) > _MAX_STRETCH_S * _BYTES_A_SECOND):
            yield start_s, bytes(kept)
            start_s += len(kept) / _BYTES_A_SECOND
            kept.clear()
    if kept:
        yield start_s, bytes(kept)


def _listen(decoder: Decoder, start_s: float, stretch: bytes, end_s: float) -> None:
    """Tell what is said in a stretch, if anything is; no time is after `end_s`."""
    decoder.start_utt()
    decoder.process_raw(stretch, False, True)
    decoder.end_utt()
    words = []
    for heard in decoder.seg() or ():
        if heard.word[0] not in "<[+":
            frames = (heard.start_frame, heard.end_frame + 1)
            begin, end = (min(end_s, start_s + frame / _FRAMES_A_SECOND) for frame in frames)
            sure = math.log(max(heard.prob, 1e-10))
            words.append({"word": heard.word.partition("(")[0], "start": begin, "end": end, "logprob": sure})
    if words:
        tell("segment", words=words, start=start_s, end=min(end_s, start_s + len(stretch) / _BYTES_A_SECOND))
