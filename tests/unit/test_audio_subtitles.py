"""Subtitles as OpenAI writes them, and as readers of the formats read them back."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from rest_bridge.audio_subtitles import srt, vtt
from server.domain.audio import Segment

SEGMENTS = (
    Segment(0.0, 4.24, " The quick brown fox"),
    Segment(4.24, 59.9996, "jumps over\n\n  the lazy dog. "),
    Segment(3599.5, 3661.001, "One hour --> later."),
    Segment(3700.0, 3701.0, "  "),
    Segment(360_000.0, 360_001.5, "Long."),
)
_TIME = r"(\d{2,}):([0-5]\d):([0-5]\d)[.,](\d{3})"
_CUE = re.compile(rf"(?:(?P<number>\d+)\n)?{_TIME} --> {_TIME}\n(?P<text>.+)", re.DOTALL)


def test_srt() -> None:
    assert srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:04,240\nThe quick brown fox\n\n"
        "2\n00:00:04,240 --> 00:01:00,000\njumps over\nthe lazy dog.\n\n"
        "3\n00:59:59,500 --> 01:01:01,001\nOne hour -> later.\n\n"
        "4\n100:00:00,000 --> 100:00:01,500\nLong.\n\n"
    )


def test_vtt() -> None:
    assert vtt(SEGMENTS[:2]) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:04.240\nThe quick brown fox\n\n"
        "00:00:04.240 --> 00:01:00.000\njumps over\nthe lazy dog.\n\n"
    )


def test_silence() -> None:
    assert (srt(()), vtt(())) == ("", "WEBVTT\n\n")


def test_a_time_that_no_sound_has_is_the_longest() -> None:
    assert srt([Segment(0.0, 1e306, "Hi.")]) == "1\n00:00:00,000 --> 2777:46:40,000\nHi.\n\n"


def read(text: str) -> list[tuple[int, int, str]]:
    """The cues of a file: times in milliseconds, and the text."""
    cues: list[tuple[int, int, str]] = []
    for block in filter(None, text.removeprefix("WEBVTT\n\n").split("\n\n")):
        cue = _CUE.fullmatch(block)
        assert cue is not None, block
        assert cue["number"] in (None, str(len(cues) + 1))
        times = [int(part) for part in cue.groups()[1:9]]
        start, end = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (times[:4], times[4:]))
        cues.append((start, end, cue["text"]))
    return cues


SECONDS = st.floats(min_value=-5, max_value=1e6, allow_nan=False)


@given(st.lists(st.builds(Segment, SECONDS, SECONDS, st.text(st.characters(codec="utf-8")))))
def test_what_is_written_is_read_back(segments: list[Segment]) -> None:
    told = [one for one in segments if one.text.strip() and any(line.strip() for line in one.text.splitlines())]
    expected = []
    for one in told:
        lines = [line.strip() for line in one.text.splitlines()]
        start_ms = max(0, round(one.start_s * 1000))
        text = "\n".join(line for line in lines if line).replace("-->", "->")
        expected.append((start_ms, max(start_ms, round(one.end_s * 1000)), text))
    assert read(srt(segments)) == expected
    assert read(vtt(segments)) == expected
