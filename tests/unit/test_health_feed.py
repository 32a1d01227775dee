"""Who watches health is told the newest, and nobody works for those who do not."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from server.clock import SystemClock
from server.domain.errors import GatewayError, Reason
from server.domain.health import ProviderHealth, ProviderStatus
from server.pipeline.health import feed
from server.pipeline.health.feed import Feed
from server.pipeline.shutdown import Shutdown

SOON_S = 30.0


class View:
    """One provider, as the test says that it is; `looks` counts how often it was asked for."""

    def __init__(self) -> None:
        self.status: ProviderStatus = "ok"
        self.requests = 0
        self.looks = 0
        self.is_broken = False

    def providers(self) -> tuple[ProviderHealth, ...]:
        self.looks += 1
        if self.is_broken:
            raise ValueError
        return (ProviderHealth("x", self.status, requests_1m=self.requests),)

    async def looked(self, times: int = 2) -> None:
        """Return when it was asked for so often again."""
        until = self.looks + times
        async with asyncio.timeout(SOON_S):
            while self.looks < until:  # noqa: ASYNC110 - it is asked on a timer
                await asyncio.sleep(0.005)


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LOOK_S", 0.02)
    monkeypatch.setattr(feed, "FIGURES_S", 0.2)


async def test_who_reads_slowly_is_told_the_newest_and_once(view: View) -> None:
    async with aclosing(Feed(view, SystemClock(), Shutdown()).watch()) as told:
        assert (await anext(told))[0].status == "ok"
        statuses: tuple[ProviderStatus, ...] = ("degraded", "down", "drained")
        for status in statuses:
            view.status = status
            await view.looked()
        assert (await anext(told))[0].status == "drained"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(told), 0.3)


async def test_what_changes_before_it_is_noticed_is_not_lost(view: View) -> None:
    watching = Feed(view, SystemClock(), Shutdown())
    async with aclosing(watching.watch()) as one, aclosing(watching.watch()) as other:
        view.status = "down"
        assert (await anext(one))[0].status == "down"
        view.status = "ok"
        assert (await anext(other))[0].status == "ok"
        async with asyncio.timeout(SOON_S):
            while (await anext(one))[0].status != "ok":
                pass


async def test_figures_alone_wait_and_come_together(view: View) -> None:
    async with aclosing(Feed(view, SystemClock(), Shutdown()).watch()) as told:
        await anext(told)
        for _ in range(3):
            view.requests += 1
            await view.looked()
        assert (await asyncio.wait_for(anext(told), SOON_S))[0].requests_1m == 3


async def test_nobody_looks_for_those_who_have_left(view: View) -> None:
    watching = Feed(view, SystemClock(), Shutdown())
    tasks = len(asyncio.all_tasks())
    for _ in range(3):
        async with aclosing(watching.watch()) as one, aclosing(watching.watch()) as other:
            await anext(one)
            await anext(other)
            assert len(asyncio.all_tasks()) == tasks + 1
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == tasks


async def test_a_look_that_fails_is_not_the_last(view: View) -> None:
    async with aclosing(Feed(view, SystemClock(), Shutdown()).watch()) as told:
        await anext(told)
        view.is_broken = True
        await view.looked()
        view.is_broken, view.status = False, "down"
        assert (await asyncio.wait_for(anext(told), SOON_S))[0].status == "down"


async def test_it_ends_when_the_worker_leaves(view: View) -> None:
    shutdown = Shutdown()
    async with aclosing(Feed(view, SystemClock(), shutdown).watch()) as told:
        await anext(told)
        waiting = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0)
        shutdown.leaving.set()
        with pytest.raises(GatewayError) as ended:
            await asyncio.wait_for(waiting, SOON_S)
        assert ended.value.reason is Reason.SHUTTING_DOWN
