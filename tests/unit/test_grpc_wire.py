"""gRPC's own wire format, as the host inside Envoy reads and writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import GatewayError, Reason
from server.hosts.host import MAX_MESSAGE_BYTES
from server.hosts.wire import Inbox, NoMessage, framed, headers_of, metadata_of, percent_encoded, timeout_s


class Body:
    """A request's body in pieces; `receive` is what an ASGI server offers."""

    def __init__(self, *pieces: bytes, leaves: bool = False) -> None:
        self._pieces = list(pieces)
        self._leaves = leaves
        self.asked = 0

    async def receive(self) -> Mapping[str, Any]:
        self.asked += 1
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces) or self._leaves}
        return {"type": "http.disconnect"} if self._leaves else {"type": "http.request"}

    @property
    def inbox(self) -> Inbox:
        return Inbox(self.receive, left)


async def left() -> None:
    raise asyncio.CancelledError


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(0, 2000), max_size=8))
def test_messages_are_the_same_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(map(framed, messages))
    edges = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    pieces = [whole[start:end] for start, end in pairwise(edges)]

    async def read() -> list[bytes]:
        return [message async for message in Body(*pieces).inbox]

    assert asyncio.run(read()) == messages


async def test_a_piece_is_fetched_when_it_is_asked_for() -> None:
    body = Body(framed(b"one"), framed(b"two") + framed(b"three"))
    inbox = body.inbox
    assert (await anext(inbox), body.asked) == (b"one", 1)
    assert (await anext(inbox), body.asked) == (b"two", 2)
    assert (await anext(inbox), body.asked) == (b"three", 2)


@pytest.mark.parametrize("pieces", [(framed(b"abc"),), (framed(b"abc")[:3], framed(b"abc")[3:]), (framed(b"abc"), b"")])
async def test_the_only_message(pieces: tuple[bytes, ...]) -> None:
    assert await Body(*pieces).inbox.only() == b"abc"


async def test_no_message_is_none() -> None:
    with pytest.raises(NoMessage):
        await Body(b"").inbox.only()


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        (b"\1" + framed(b"abc")[1:], Reason.MALFORMED_REQUEST),
        (framed(b"abc")[:-1], Reason.MALFORMED_REQUEST),
        (framed(b"abc")[:2], Reason.MALFORMED_REQUEST),
        (b"\0" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"), Reason.REQUEST_TOO_LARGE),
        (b"\0\xff\xff\xff\xff", Reason.REQUEST_TOO_LARGE),
    ],
)
async def test_what_is_no_message_is_refused(piece: bytes, reason: Reason) -> None:
    for read in (Body(piece).inbox.only, Body(piece).inbox.__anext__):
        with pytest.raises(GatewayError) as refused:
            await read()
        assert refused.value.reason is reason


async def test_who_leaves_within_a_message_has_not_ended_it() -> None:
    with pytest.raises(asyncio.CancelledError):
        await anext(Body(framed(b"abc")[:6], leaves=True).inbox)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1H", 3600.0),
        ("2M", 120.0),
        ("3S", 3.0),
        ("1500m", 1.5),
        ("5u", 5e-6),
        ("7n", 7e-9),
        ("0S", 0.0),
        ("99999999H", None),
        ("", None),
        (None, None),
        ("5", None),
        ("S", None),
        ("-1S", None),
        ("1.5S", None),
        ("123456789S", None),
        ("1S ", None),
        ("٣S", None),
    ],
)
def test_timeouts(text: str | None, seconds: float | None) -> None:
    assert timeout_s(text) == (seconds if seconds is None else pytest.approx(seconds))


@given(st.text())
def test_a_status_message_comes_back_as_it_was(text: str) -> None:
    text = text.encode(errors="replace").decode()
    sent = percent_encoded(text)
    assert all(0x20 <= byte < 0x7F for byte in sent)
    assert unquote(sent.decode()) == text


def test_metadata_both_ways() -> None:
    sent = [(b"a", b"1"), (b"a", b"2"), (b"b-bin", b"AAEC"), (b"c", "ü".encode()), (b"d", b"\xff")]
    assert metadata_of(sent) == {"a": "1", "c": "ü", "d": "ÿ"}
    assert headers_of([("x", "1"), ("details-bin", b"\0\1\2\3")]) == [(b"x", b"1"), (b"details-bin", b"AAECAw")]
