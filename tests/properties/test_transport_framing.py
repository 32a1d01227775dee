"""However the network cuts a reply: the same head, the same body, and the same end of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import ProviderFailure
from server.transport.faults import Fault, failure
from server.transport.framing import MAX_HEAD_BYTES, Head, Replies

PAYLOADS = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
EXTENSIONS = st.sampled_from([b"", b";a=b", b" ;x", b';q="1"', b"  "])
TRAILERS = st.sampled_from([b"", b"x: 1\r\n", b"a: b\r\nc: d\r\n"])
CUTS = st.lists(st.integers(0, 1000), max_size=8)
INFORMATIONAL = st.lists(st.sampled_from([b"100 Continue\r\n", b"103 Early Hints\r\nlink: <x>\r\n"]), max_size=2)


def feed(wire: bytes, cuts: list[int], replies: Replies | None = None) -> tuple[Replies, bytes]:
    """The reply, and its body. Raises ProviderFailure."""
    replies, body = replies or Replies(), b""
    replies.begin()
    for begin, end in pairwise([0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]):
        replies.feed(memoryview(wire)[begin:end])
        body += replies.take()
    return replies, body


def fails(wire: bytes, cuts: list[int] | None = None) -> bool:
    with pytest.raises(ProviderFailure) as caught:
        feed(wire, cuts or [])
    return caught.value.upstream == failure(Fault.MALFORMED).upstream


def head(*lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""])


def chunks(payloads: list[bytes], extension: bytes = b"", trailers: bytes = b"") -> bytes:
    return b"".join(b"%X%b\r\n%b\r\n" % (len(one), extension, one) for one in payloads) + b"0\r\n" + trailers + b"\r\n"


CHUNKED = head(b"Transfer-Encoding: chunked")


@given(INFORMATIONAL, PAYLOADS, EXTENSIONS, TRAILERS, CUTS)
def test_a_chunked_body_is_found_however_it_is_cut(
    before: list[bytes], payloads: list[bytes], extension: bytes, trailers: bytes, cuts: list[int]
) -> None:
    wire = b"".join(b"HTTP/1.1 %b\r\n" % one for one in before) + CHUNKED + chunks(payloads, extension, trailers)
    replies = Replies()
    for _ in range(2):  # one after the other on the same connection
        _, body = feed(wire, cuts, replies)
        assert body == b"".join(payloads)
        assert replies.complete
        assert replies.head == Head(200, {"transfer-encoding": "chunked"}, persistent=True, keep_alive_s=None)


@given(PAYLOADS, st.integers(1, 5), CUTS)
def test_a_chunked_body_without_its_end_has_not_ended(payloads: list[bytes], missing: int, cuts: list[int]) -> None:
    replies, body = feed((CHUNKED + chunks(payloads))[:-missing], cuts)
    assert not replies.complete
    assert b"".join(payloads).startswith(body)
    assert replies.head is None or not replies.head.ends_with_connection


@given(st.binary(max_size=60), CUTS)
def test_a_sized_body_ends_where_it_said(payload: bytes, cuts: list[int]) -> None:
    wire = head(b"content-length: %d" % len(payload)) + payload
    replies, body = feed(wire, cuts)
    assert (body, replies.complete) == (payload, True)
    if payload:
        assert not feed(wire[:-1], cuts)[0].complete


@given(st.binary(min_size=1, max_size=10).filter(lambda rest: rest.strip(b"\r\n") != b""), CUTS)
def test_what_follows_a_reply_is_a_failure_after_the_reply(rest: bytes, cuts: list[int]) -> None:
    for framed in (head(b"content-length: 2") + b"ab", CHUNKED + chunks([b"ab"])):
        replies = Replies()
        with pytest.raises(ProviderFailure):
            feed(framed + rest, [], replies)
        assert (replies.complete, replies.take()) == (True, b"ab")
        assert fails(framed + rest, cuts)


@given(st.binary(max_size=60), CUTS)
def test_a_body_without_a_length_goes_on(payload: bytes, cuts: list[int]) -> None:
    replies, body = feed(head(b"x: y") + payload, cuts)
    assert (body, replies.complete) == (payload, False)
    assert replies.head is not None
    assert replies.head.ends_with_connection
    assert not replies.head.persistent


@given(st.binary(max_size=80), CUTS)
def test_noise_is_a_failure_or_a_reply_and_nothing_else(noise: bytes, cuts: list[int]) -> None:
    failures: list[ProviderFailure] = []
    for wire in (noise, CHUNKED + noise, head(noise)):
        try:
            feed(wire, cuts)
        except ProviderFailure as error:
            failures.append(error)
    assert all(error.upstream == failure(Fault.MALFORMED).upstream for error in failures)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_some_replies_have_no_body_whatever_they_say(status: bytes) -> None:
    replies, body = feed(head(b"content-length: 5", status=status), [])
    assert (body, replies.complete) == (b"", True)
    assert feed(head(status=status), [])[0].complete


@pytest.mark.parametrize(
    ("version", "lines", "persistent"),
    [
        (b"1.1", [b"content-length: 0"], True),
        (b"1.1", [b"content-length: 0", b"Connection: Close"], False),
        (b"1.1", [b"content-length: 0", b"connection: x, close"], False),
        (b"1.0", [b"content-length: 0"], False),
        (b"1.0", [b"content-length: 0", b"connection: keep-alive"], True),
    ],
)
def test_the_connection_is_kept_as_the_reply_says(version: bytes, lines: list[bytes], persistent: bool) -> None:
    replies, _ = feed(head(*lines).replace(b"1.1", version, 1), [])
    assert replies.head is not None
    assert replies.head.persistent is persistent


@pytest.mark.parametrize("order", [1, -1])
def test_chunks_win_over_a_length_and_cost_the_connection(order: int) -> None:
    replies, body = feed(head(*[b"content-length: 2", b"transfer-encoding: chunked"][::order]) + chunks([b"abc"]), [])
    assert (body, replies.complete) == (b"abc", True)
    assert replies.head is not None
    assert not replies.head.persistent


@pytest.mark.parametrize(
    "wire",
    [
        head(b"content-length: 2", b"content-length: 2"),
        head(b"content-length: 1, 1"),
        head(b"content-length: +1"),
        head(b"content-length: 99999999999999999999999"),
        head(b"content-length : 1"),
        head(b"transfer-encoding: gzip, chunked"),
        head(b"transfer-encoding: identity"),
        head(b"transfer-encoding: gzip", b"transfer-encoding: chunked"),
        head(b"a: b", b" folded"),
        head(b"a: b\0"),
        head(b"a: b\nc: d"),
        head(b"a b: c"),
        head(b": c"),
        head(status=b"101 Switching Protocols"),
        head(b"connection: upgrade", b"upgrade: h2c", status=b"101 Switching Protocols"),
        head(status=b"099 Early"),
        head(status=b"2000 Late"),
        head(b"content-length: 2", status=b"104 With a body") + b"ab",
        b"HTTP/1.1 200 OK\na: b\n\n",
        CHUNKED + b"fffffffffffffffff\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"1\nab\r\n",
        CHUNKED + b"1\r\nab",
    ],
)
def test_what_two_readers_could_read_in_two_ways_is_refused(wire: bytes) -> None:
    assert fails(wire)
    assert fails(wire, list(range(len(wire))))


def test_a_head_is_as_long_as_the_limit_and_no_longer() -> None:
    fill = MAX_HEAD_BYTES - len(head(b"a: ", b"content-length: 0"))
    replies, _ = feed(head(b"a: " + b"x" * fill, b"content-length: 0"), [])
    assert replies.complete
    assert fails(head(b"a: " + b"x" * (fill + 1), b"content-length: 0"))


@pytest.mark.parametrize("reads", [1, 1000])
@pytest.mark.parametrize(
    ("begin", "endless"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        (b"HTTP/1.1 200 OK\r\na: ", b"bbbbb"),
        (b"", head(status=b"100 Continue")),
        (CHUNKED + b"1;", b"extension"),
        (CHUNKED + b"0\r\n", b"trailer: x\r\n"),
        (CHUNKED + b"0\r\ntrailer: ", b"xxxxx"),
    ],
)
def test_what_has_no_end_and_no_content_is_refused(begin: bytes, endless: bytes, reads: int) -> None:
    wire = begin + endless * (2 * MAX_HEAD_BYTES // len(endless) + 1)
    assert fails(wire, [len(wire) * read // reads for read in range(reads)])
    feed(wire[: MAX_HEAD_BYTES // 2], [])  # half the limit is fine


def test_of_a_repeated_header_the_first_counts_and_trailers_are_no_headers() -> None:
    wire = head(b"A: 1 \t", b"a: 2", b"keep-alive: timeout=7, max=9", b"transfer-encoding: chunked")
    replies, _ = feed(wire + chunks([], trailers=b"b: 3\r\n"), [])
    assert replies.head is not None
    assert replies.head.headers == {"a": "1", "keep-alive": "timeout=7, max=9", "transfer-encoding": "chunked"}
    assert replies.head.keep_alive_s == 7.0
