"""Transcripts as subtitles: SubRip (`srt`) and WebVTT (`vtt`), to the letter as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from server.domain.audio import LONGEST_S, Segment

__all__ = ["srt", "vtt"]


def srt(segments: Sequence[Segment]) -> str:
    """A number, the times and the text of each; empty where nothing was said."""
    cues = enumerate(_cues(segments, ","), 1)
    return "".join(f"{number}\n{times}\n{text}\n\n" for number, (times, text) in cues)


def vtt(segments: Sequence[Segment]) -> str:
    """The times and the text of each, below the format's name."""
    return "WEBVTT\n\n" + "".join(f"{times}\n{text}\n\n" for times, text in _cues(segments, "."))


def _cues(segments: Sequence[Segment], mark: str) -> Iterable[tuple[str, str]]:
    """Of segments with a text. No cue holds an empty line, which would end it, or an arrow, which would begin one."""
    for segment in segments:
        lines = (line.strip() for line in segment.text.splitlines())
        text = "\n".join(filter(None, lines)).replace("-->", "->")
        if text:
            start_ms, end_ms = map(_milliseconds, (segment.start_s, segment.end_s))
            yield f"{_time(start_ms, mark)} --> {_time(max(start_ms, end_ms), mark)}", text


def _milliseconds(time_s: float) -> int:
    """Not every float has them."""
    return round(min(max(0.0, time_s), LONGEST_S) * 1000)


def _time(ms: int, mark: str) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{ms:03d}"
