"""The event-stream reader against every way that a stream may be written and cut."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable

import pytest

from server.domain.errors import FailureCategory, ProviderFailure
from server.transport.sse import MAX_EVENT_BYTES, SseDecoder, SseEvent

GREETING = "你好🙂".encode()


def decode(*chunks: bytes) -> list[SseEvent]:
    decoder = SseDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.finish()


def data(*chunks: bytes) -> list[bytes]:
    return [event.data for event in decode(*chunks)]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_a_stream_cut_at_any_byte_gives_the_same_events(newline: bytes) -> None:
    stream = newline.join([b": hi", b"event: greeting", b"data: " + GREETING, b"", b"data: [DONE]", b"", b""])
    expected = [SseEvent("greeting", GREETING), SseEvent(None, b"[DONE]")]
    for cut in range(len(stream) + 1):
        assert decode(stream[:cut], stream[cut:]) == expected, cut


def test_an_event_is_given_out_by_the_chunk_that_ends_it() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: 1\n") == []
    assert decoder.feed(b"\ndata: 2") == [SseEvent(None, b"1")]
    assert decoder.feed(b"\n\n") == [SseEvent(None, b"2")]
    assert decoder.finish() == []


def test_data_lines_are_joined_by_a_line_feed() -> None:
    assert data(b"data: {\ndata:  1\ndata: }\n\n") == [b"{\n 1\n}"]


def test_one_space_after_the_colon_is_optional_and_only_one_is_taken() -> None:
    assert data(b"data:a\n\ndata: b\n\ndata:  c\n\n") == [b"a", b"b", b" c"]


def test_a_byte_order_mark_at_the_start_is_no_content() -> None:
    assert data(b"\xef\xbb\xbfdata: a\n\ndata: \xef\xbb\xbfb\n\n") == [b"a", b"\xef\xbb\xbfb"]
    assert data(b"\xef", b"\xbb\xbfdata: a\n\n") == [b"a"]


def test_comments_are_counted_and_make_no_event() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b": OPENROUTER PROCESSING\n\n: keep-alive\n\n") == []
    assert decoder.comments == 2
    assert decoder.feed(b":\n") == []
    assert decoder.comments == 3


def test_other_fields_and_empty_events_are_read_over() -> None:
    assert decode(b"id: 7\nretry: 10\n\nevent: ping\n\nnonsense\n\n\n\ndata: x\n\n") == [SseEvent(None, b"x")]


def test_a_name_belongs_to_its_event_alone() -> None:
    events = decode(b"event: a\ndata: 1\n\ndata: 2\n\nevent:b\ndata: 3\n\n")
    assert events == [SseEvent("a", b"1"), SseEvent(None, b"2"), SseEvent("b", b"3")]


def test_data_without_a_value_is_an_empty_event() -> None:
    assert data(b"data:\n\ndata\n\ndata: \n\n") == [b"", b"", b""]


def test_the_last_event_needs_no_empty_line() -> None:
    assert data(b"data: 1\n\ndata: 2") == [b"1", b"2"]
    assert data(b"data: 1\n\ndata: 2\n") == [b"1", b"2"]
    assert data(b"data: 1\r\n\r\ndata: 2\r") == [b"1", b"2"]


def test_a_carriage_return_at_the_end_of_a_chunk_is_one_line_end_with_the_next_line_feed() -> None:
    assert data(b"data: 1\r", b"\ndata: 2\r", b"\n\r", b"\n") == [b"1\n2"]
    assert data(b"data: 1\r", b"\rdata: 2\r", b"\r") == [b"1", b"2"]


def test_a_line_of_eight_mebibytes_comes_through_whole_and_in_linear_time() -> None:
    image = b"A" * (8 * 1024 * 1024)
    stream = b'data: {"b64_json":"' + image + b'"}\n\n'

    def seconds(piece: int) -> float:
        began = time.thread_time()
        assert data(*(stream[at : at + piece] for at in range(0, len(stream), piece))) == [stream[6:-2]]
        return time.thread_time() - began

    assert seconds(16 * 1024) < 20 * seconds(1024 * 1024) + 0.5


def feed_all(chunks: Iterable[bytes]) -> None:
    decoder = SseDecoder()
    for chunk in chunks:
        decoder.feed(chunk)


def test_an_event_past_the_limit_fails_before_it_is_held_twice() -> None:
    piece = 256 * 1024
    endless = (b"data: " if number == 0 else b"A" * piece for number in range(2 * MAX_EVENT_BYTES // piece))
    tracemalloc.start()
    try:
        with pytest.raises(ProviderFailure) as caught:
            feed_all(endless)
        assert tracemalloc.get_traced_memory()[1] < 2 * MAX_EVENT_BYTES
    finally:
        tracemalloc.stop()
    assert caught.value.category is FailureCategory.PROTOCOL
    assert caught.value.upstream.code == "reply_too_large"


def test_the_limit_counts_all_lines_of_an_event() -> None:
    with pytest.raises(ProviderFailure):
        feed_all(b"data: " + b"A" * (1024 * 1024) + b"\n" for _ in range(40))


def test_the_limit_is_of_one_event_not_of_the_stream() -> None:
    decoder = SseDecoder()
    event = b"data: " + b"A" * (4 * 1024 * 1024) + b"\n\n"
    assert sum(len(decoder.feed(event)) for _ in range(10)) == 10
