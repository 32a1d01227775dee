"""A body with one writer and many readers: all of it to each, nothing of what is held, and no more kept than stated."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_bridge.tape import Tape, TapeReader

LIMIT = 10


async def rest_of(reader: TapeReader) -> bytes:
    async with aclosing(reader) as pieces:
        return b"".join([piece async for piece in pieces])


async def settle_down() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@given(pieces=st.lists(st.binary(max_size=3), max_size=20), begin=st.lists(st.integers(0, 20), max_size=3))
async def test_every_reader_gets_every_byte_in_order(pieces: list[bytes], begin: list[int]) -> None:
    tape = Tape(1000)
    readers = []
    for index, piece in enumerate(pieces):
        readers += [asyncio.create_task(rest_of(tape.reader())) for number in begin if number == index]
        await tape.write(piece)
        await asyncio.sleep(0)
    tape.end()
    readers.append(asyncio.create_task(rest_of(tape.reader())))
    assert set(await asyncio.gather(*readers)) == {b"".join(pieces)}
    assert tape.content() == b"".join(pieces)


async def test_what_is_held_comes_with_the_end() -> None:
    tape = Tape(LIMIT)
    reader = tape.reader()
    await tape.write(b"ab")
    tape.hold()
    await tape.write(b"cd")
    assert await anext(reader) == b"ab"
    waiting = asyncio.create_task(anext(reader))
    await settle_down()
    assert not waiting.done()
    assert not reader.ended
    await tape.write(b"ef")
    tape.end()
    assert await waiting == b"cdef"
    assert reader.ended


async def test_a_reader_that_stops_waiting_leaves_the_others_waiting() -> None:
    tape = Tape(LIMIT)
    first, second = (asyncio.create_task(anext(tape.reader())) for _ in range(2))
    await settle_down()
    first.cancel()
    await settle_down()
    await tape.write(b"ab")
    assert await second == b"ab"


async def test_a_long_body_runs_through_as_fast_as_its_slowest_reader() -> None:
    tape = Tape(LIMIT)
    fast, slow = tape.reader(), tape.reader()
    await tape.write(b"0123456789")
    writing = asyncio.create_task(tape.write(b"x"))
    assert await anext(fast) == b"0123456789"
    await settle_down()
    assert not writing.done()
    assert not tape.is_whole
    assert tape.content() is None
    assert await anext(slow) == b"0123456789x"
    await writing
    assert await anext(fast) == b"x"


async def test_a_long_body_whose_readers_have_gone_runs_through_alone() -> None:
    tape = Tape(LIMIT)
    reader = tape.reader()
    await tape.write(b"0123456789")
    writing = asyncio.create_task(tape.write(b"x"))
    await settle_down()
    assert not writing.done()
    await reader.aclose()
    await writing
    for _ in range(100):
        await tape.write(b"0123456789")
    tape.end()


async def test_what_is_held_never_waits_for_room() -> None:
    tape = Tape(LIMIT)
    reader = tape.reader()
    tape.hold()
    for _ in range(3):
        await tape.write(b"0123456789")
    tape.end()
    assert await rest_of(reader) == b"0123456789" * 3


async def test_a_failure_reaches_every_reader_after_what_came_before() -> None:
    tape = Tape(LIMIT)
    reader = tape.reader()
    await tape.write(b"ab")
    tape.end(LookupError("gone"))
    assert await anext(reader) == b"ab"
    assert not reader.ended
    with pytest.raises(LookupError):
        await anext(reader)
