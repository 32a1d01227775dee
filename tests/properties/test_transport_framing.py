"""However the network cuts a reply: the same body, and the same end of it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import ProviderFailure
from server.transport.framing import Body, ChunkedBody, SizedBody, parse_head

PAYLOADS = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
EXTENSIONS = st.sampled_from([b"", b";a=b", b" ;x", b';q="1"'])
TRAILERS = st.sampled_from([b"", b"x: 1\r\n", b"a: b\r\nc: d\r\n"])


def feed(body: Body, wire: bytes, cuts: list[int]) -> tuple[bytes, int | None]:
    """The body, and how many bytes of `wire` belong to it (None where it has not ended)."""
    out: list[bytes] = []
    edges = [0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]
    for begin, end in pairwise(edges):
        used = body.feed(wire[begin:end], out)
        if used is not None:
            return b"".join(out), begin + used
    return b"".join(out), None


@given(PAYLOADS, EXTENSIONS, TRAILERS, st.binary(max_size=10), st.lists(st.integers(0, 1000), max_size=8))
def test_a_chunked_body_is_found_however_it_is_cut(
    payloads: list[bytes], extension: bytes, trailers: bytes, rest: bytes, cuts: list[int]
) -> None:
    chunks = b"".join(b"%X%b\r\n%b\r\n" % (len(one), extension, one) for one in payloads)
    wire = chunks + b"0\r\n" + trailers + b"\r\n"
    assert feed(ChunkedBody(), wire + rest, cuts) == (b"".join(payloads), len(wire))


@given(PAYLOADS, st.integers(1, 5), st.lists(st.integers(0, 1000), max_size=8))
def test_a_chunked_body_without_its_end_has_not_ended(payloads: list[bytes], missing: int, cuts: list[int]) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in payloads) + b"0\r\n\r\n"
    body, end = feed(ChunkedBody(), wire[:-missing], cuts)
    assert end is None
    assert b"".join(payloads).startswith(body)


@given(st.binary(max_size=60), st.binary(max_size=10), st.lists(st.integers(0, 100), max_size=8))
def test_a_sized_body_ends_where_it_said(payload: bytes, rest: bytes, cuts: list[int]) -> None:
    assert feed(SizedBody(len(payload)), payload + rest, cuts) == (payload, len(payload))


@given(st.binary(max_size=80), st.lists(st.integers(0, 100), max_size=4))
def test_noise_is_a_failure_or_a_body_and_nothing_else(noise: bytes, cuts: list[int]) -> None:
    failures: list[ProviderFailure] = []
    for attempt in (lambda: feed(ChunkedBody(), noise, cuts), lambda: parse_head(noise)):
        try:
            attempt()
        except ProviderFailure as error:
            failures.append(error)
    assert all(error.upstream.code == "malformed_reply" for error in failures)
