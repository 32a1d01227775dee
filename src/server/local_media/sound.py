"""Reads a text aloud, in a process of work: eSpeak NG speaks, FFmpeg encodes, and what is ready is told at once.

A task has `text`, `voice`, `format` and `speed`. eSpeak NG is under the GPL, version 3 or later: nothing but this
short-lived process loads it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import av
import espeakng_loader
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.filter import Graph

from server.local_media.messages import tell
from server.local_media.refusal import bad_request
from server.local_media.voices import USUAL_WORDS_PER_MINUTE

__all__ = ["CODECS", "RATE", "Encoder", "speak"]

RATE: Final = 24_000
"""Samples a second of all that is made."""
CODECS: Final = {
    "mp3": ("mp3", "libmp3lame", {"write_xing": "0"}),
    "opus": ("ogg", "libopus", {"page_duration": "200000"}),
    "aac": ("adts", "aac", {}),
    "flac": ("flac", "flac", {}),
    "wav": ("wav", "pcm_s16le", {}),
    "pcm": ("s16le", "pcm_s16le", {}),
}
"""By format: FFmpeg's container, its codec, and options of the container. Nothing can be written twice in a stream."""
COMPRESSED: Final = ("mp3", "opus", "aac")
BIT_RATE: Final = 64_000
_PIECE_BYTES: Final = 4096
_SLOWEST, _FASTEST = 80, 450
"""Words a minute that eSpeak NG can be asked for; FFmpeg stretches the rest."""
_SILENCE_S: Final = 0.1
_RETRIEVAL: Final = 1
_UTF8: Final = 1
_RATE_PARAMETER: Final = 1
_DONT_EXIT: Final = 0x8000
_CALLBACK: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def speak(task: dict[str, Any]) -> None:
    """Tell `sound` messages. Raises Refused for a voice that there is not."""
    pace = USUAL_WORDS_PER_MINUTE * task["speed"]
    words_per_minute = round(min(_FASTEST, max(_SLOWEST, pace)))
    library, rate = _loaded(task["voice"], words_per_minute)
    encoder = Encoder(task["format"], rate, pace / words_per_minute, lambda piece: tell("sound", piece))
    heard = 0

    def take(samples: int | None, count: int, _events: int | None) -> int:
        nonlocal heard
        try:
            if samples and count:
                heard += count
                encoder.feed(ctypes.string_at(samples, 2 * count))
        except BaseException:
            os._exit(1)  # nothing can be raised through a library; most likely nobody listens any more
        return 0

    callback = _CALLBACK(take)
    library.espeak_SetSynthCallback(callback)
    text = "".join(letter if letter >= " " else " " for letter in task["text"]).encode("utf-8", "replace")
    library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    if not heard:
        encoder.feed(bytes(2 * int(rate * _SILENCE_S)))
    encoder.close()


def _loaded(voice: str, words_per_minute: int) -> tuple[ctypes.CDLL, int]:
    """The library, ready to speak, and its samples a second."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Synth.argtypes = (
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
        *(ctypes.c_void_p, ctypes.c_void_p),
    )
    os.chdir(Path(espeakng_loader.get_data_path()).parent)  # it cuts the path of its data off after 160 letters
    rate = library.espeak_Initialize(_RETRIEVAL, 0, b".", _DONT_EXIT)
    if rate <= 0:
        raise RuntimeError("eSpeak NG finds none of its data")
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise bad_request("invalid_voice", "There is no such voice.", "voice")
    library.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0)
    return library, rate


class _Pieces:
    """What FFmpeg writes to; it has no way to seek, so that nothing is ever taken back."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._kept = bytearray()

    def write(self, data: bytes) -> int:
        self._kept += data
        if len(self._kept) >= _PIECE_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if self._kept:
            self._put(bytes(self._kept))
            self._kept.clear()


class Encoder:
    """Takes samples of 16 bits and one channel, and puts out a file in a format, piece by piece."""

    def __init__(self, format_: str, rate: int, tempo: float, put: Callable[[bytes], None]) -> None:
        container, codec, options = CODECS[format_]
        self._rate, self._taken = rate, 0
        self._pieces = _Pieces(put)
        self._container = av.open(self._pieces, "w", format=container, options={**options, "flush_packets": "1"})
        stream = self._container.add_stream(codec, rate=RATE, layout="mono")
        assert isinstance(stream, AudioStream)
        self._stream = stream
        if format_ in COMPRESSED:
            stream.bit_rate = BIT_RATE
        context: AudioCodecContext = stream.codec_context
        self._resampler = av.AudioResampler(context.format, "mono", RATE, context.frame_size or None)
        self._tempo = _tempo(rate, tempo) if tempo != 1.0 else None

    def feed(self, samples: bytes) -> None:
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(samples) // 2)
        frame.planes[0].update(samples)
        frame.sample_rate = self._rate
        frame.pts = self._taken
        self._taken += frame.samples
        self._encode(frame)

    def close(self) -> None:
        """Write the rest."""
        if self._tempo is not None:
            self._tempo.push(None)
            self._resample(_pulled(self._tempo))
        self._write(self._resampler.resample(None))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._pieces.flush()

    def _encode(self, frame: av.AudioFrame) -> None:
        if self._tempo is None:
            self._resample([frame])
        else:
            self._tempo.push(frame)
            self._resample(_pulled(self._tempo))

    def _resample(self, frames: Iterable[av.AudioFrame]) -> None:
        for frame in frames:
            frame.pts = None
            self._write(self._resampler.resample(frame))

    def _write(self, frames: Iterable[av.AudioFrame]) -> None:
        for frame in frames:
            frame.pts = None
            self._container.mux(self._stream.encode(frame))


def _tempo(rate: int, tempo: float) -> Graph:
    graph = Graph()
    graph.link_nodes(
        graph.add_abuffer(sample_rate=rate, format="s16", layout="mono"),
        graph.add("atempo", f"{tempo:.4f}"),
        graph.add("abuffersink"),
    ).configure()
    return graph


def _pulled(graph: Graph) -> Iterable[av.AudioFrame]:
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(frame, av.AudioFrame)
        yield frame
