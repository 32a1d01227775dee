"""Names that clients choose: a server of names that does not answer holds up nobody but who asks it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter

import pytest

from server.domain.errors import ProviderFailure
from server.transport import OwnLookups
from server.transport.resolve import callable_addresses

PATIENCE_S = 20.0


class Names:
    """Those that begin with `slow` are answered when they are let go."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.let_go = threading.Event()

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked[host] += 1
        if host.startswith("slow"):
            self.let_go.wait(PATIENCE_S)
        if host == "none":
            raise socket.gaierror
        return ["127.0.0.1", "93.184.215.14", "127.0.0.1"]


async def test_a_name_is_looked_up_once_at_a_time_and_delays_no_other() -> None:
    names = Names()
    lookups = OwnLookups(look_up=names)
    waiting = [asyncio.create_task(lookups("slow", 443)) for _ in range(20)]
    async with asyncio.timeout(PATIENCE_S):
        assert await lookups("quick", 443)
        waiting[0].cancel()
        assert not any(one.done() for one in waiting[1:])
        names.let_go.set()
        answers = await asyncio.gather(*waiting[1:])
    assert len({tuple(one) for one in answers}) == 1
    assert names.asked == {"slow": 1, "quick": 1}
    await lookups("slow", 443)
    assert names.asked["slow"] == 2


async def test_so_many_at_once_and_no_more() -> None:
    names = Names()
    lookups = OwnLookups(look_up=names, max_lookups=2)
    slow = [asyncio.create_task(lookups(f"slow-{number}", 443)) for number in range(2)]
    next_ = asyncio.create_task(lookups("quick", 443))
    async with asyncio.timeout(PATIENCE_S):
        while len(names.asked) < 2:  # noqa: ASYNC110 - threads come to it
            await asyncio.sleep(0.01)
        assert not next_.done()
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert not next_.done()  # their threads are still there
        names.let_go.set()
        assert await next_
    assert names.asked["quick"] == 1


async def test_who_is_not_there_is_told_to_everybody() -> None:
    lookups = OwnLookups(look_up=Names())
    said = await asyncio.gather(*(lookups("none", 443) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in said] == [socket.gaierror] * 3


async def test_what_is_found_is_judged() -> None:
    lookups = OwnLookups(look_up=Names())
    options = {"allow_link_local": False, "lookup": lookups}
    assert await callable_addresses("a.example", 443, allow_near=False, **options) == ["93.184.215.14"]  # type: ignore[arg-type]
    assert await callable_addresses("a.example", 443, **options) == ["127.0.0.1", "93.184.215.14"]  # type: ignore[arg-type]
    with pytest.raises(ProviderFailure):
        await callable_addresses("127.0.0.1", 443, allow_near=False, **options)  # type: ignore[arg-type]


async def test_names_of_this_machine() -> None:
    assert await OwnLookups()("localhost", 80)
