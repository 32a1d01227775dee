"""Whatever events a stream holds, however it is written and cut: the reader gives the same events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.transport.sse import SseDecoder, SseEvent

NEWLINES = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINE = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20).map(str.encode)
NOISE = st.sampled_from([b": ping", b":", b"id: 1", b"retry: 5", b"unknown: field", b"nonsense"])
NAMES = st.none() | st.sampled_from(["message", "response.created", "été"])


@st.composite
def framed_streams(draw: st.DrawFn) -> tuple[bytes, list[SseEvent]]:
    """A stream, and the events in it."""
    wire, events = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])), []
    for _ in range(draw(st.integers(0, 5))):
        lines = draw(st.lists(LINE, min_size=1, max_size=3))
        name = draw(NAMES)
        fields = [
            b"data:" + draw(st.sampled_from([b" ", b""]) if line[:1] != b" " else st.just(b" ")) + line
            for line in lines
        ]
        if name is not None:
            fields.insert(draw(st.integers(0, len(fields))), b"event: " + name.encode())
        for noise in draw(st.lists(NOISE, max_size=2)):
            fields.insert(draw(st.integers(0, len(fields))), noise)
        newline = draw(NEWLINES)
        wire += b"".join(field + newline for field in fields) + newline
        events.append(SseEvent(name, b"\n".join(lines)))
    return wire, events


@given(framed_streams(), st.data())
def test_any_chunking_gives_the_same_events(stream: tuple[bytes, list[SseEvent]], data: st.DataObject) -> None:
    wire, expected = stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    chunks = [wire[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    decoder = SseDecoder()
    found = [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.finish()
    assert found == expected


def test_a_piece_of_nothing_between_cr_and_lf_is_nothing() -> None:
    decoder = SseDecoder()
    found = [event for piece in (b"data: 1\r", b"", b"\ndata: 2\r\n\r\n") for event in decoder.feed(piece)]
    assert found == [SseEvent(None, b"1\n2")]


@given(st.binary(max_size=200), st.integers(1, 20))
def test_bytes_that_nobody_framed_do_no_harm_and_do_not_depend_on_the_cuts(noise: bytes, step: int) -> None:
    def decode(size: int) -> list[SseEvent]:
        decoder = SseDecoder()
        pieces = (noise[at : at + size] for at in range(0, len(noise), size))
        return [event for piece in pieces for event in decoder.feed(piece)] + decoder.finish()

    assert decode(step) == decode(len(noise) or 1)


@given(st.lists(LINE.filter(bool), min_size=1, max_size=30))
def test_the_quick_path_gives_what_the_slow_one_gives(lines: list[bytes]) -> None:
    wire = b"".join(b"data: " + line + b"\n\n" for line in lines)
    quick, slow = SseDecoder(), SseDecoder()
    quick.feed(b"\n")  # past the start, where a mark may stand
    bytewise = [event for at in range(len(wire)) for event in slow.feed(wire[at : at + 1])]
    assert quick.feed(wire) == bytewise == [SseEvent(None, line) for line in lines]
