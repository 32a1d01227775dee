"""One timer for many waits: each lasts as long as it may, and no cancellation is lost or taken for a timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from server.domain.errors import GatewayError
from server.pipeline.patience import Patience
from server.pipeline.shutdown import Shutdown

SOON_S = 0.02
LATE_S = 30.0
LIMIT_S = 30.0


@pytest.fixture
async def patience() -> Patience:
    return Patience()


@pytest.fixture(autouse=True)
async def all_timers_are_closed(patience: Patience) -> Iterator[None]:  # type: ignore[misc]  # pytest awaits it
    yield
    patience.close()


async def for_ever(patience: Patience, timeout_s: float) -> None:
    with patience.lasting(timeout_s):
        await asyncio.Event().wait()


async def test_a_wait_ends_when_it_is_due(patience: Patience) -> None:
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(for_ever(patience, SOON_S), LIMIT_S)
    assert asyncio.get_running_loop().time() - began_s >= SOON_S * 0.9
    assert current().cancelling() == 0


async def test_each_wait_has_the_whole_of_its_time(patience: Patience) -> None:
    for _ in range(8):
        with patience.lasting(3.0):
            await asyncio.sleep(0.4)


async def test_a_wait_after_a_longer_one_ends_in_its_own_time(patience: Patience) -> None:
    with patience.lasting(LATE_S):
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(for_ever(patience, SOON_S), LIMIT_S)


async def test_a_wait_begun_after_the_timer_rang_in_vain_ends_too(patience: Patience) -> None:
    with patience.lasting(SOON_S):
        pass
    await asyncio.sleep(SOON_S * 3)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(for_ever(patience, SOON_S), LIMIT_S)


async def test_a_timer_that_rings_before_it_is_due_ends_nothing() -> None:
    patience = Patience(looks_every_s=SOON_S / 4)
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(for_ever(patience, SOON_S * 3), LIMIT_S)
    assert asyncio.get_running_loop().time() - began_s >= SOON_S * 2.9


async def test_time_that_is_over_still_leaves_what_is_there(patience: Patience) -> None:
    with patience.lasting(0.0):
        value = await asyncio.sleep(0, "there")
    assert value == "there"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(for_ever(patience, 0.0), LIMIT_S)


async def test_waits_may_be_of_different_tasks(patience: Patience) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.create_task(for_ever(patience, SOON_S))
        assert current().cancelling() == 0


async def test_a_cancellation_from_outside_is_none_of_ours(patience: Patience) -> None:
    task = asyncio.create_task(for_ever(patience, LATE_S))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.parametrize("ours_first", [True, False])
async def test_of_two_cancellations_the_one_from_outside_stays(patience: Patience, *, ours_first: bool) -> None:
    task = asyncio.create_task(for_ever(patience, LATE_S))
    await asyncio.sleep(0)
    for cancel in (patience.end, task.cancel) if ours_first else (task.cancel, patience.end):
        cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_an_error_that_comes_with_the_end_is_not_hidden(patience: Patience) -> None:
    async def breaking() -> None:
        with patience.lasting(LATE_S):
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("on the way out")

    task = asyncio.create_task(breaking())
    await asyncio.sleep(0)
    patience.end()
    with pytest.raises(ValueError, match="on the way out"):
        await task
    assert task.cancelling() == 0


async def test_nothing_ends_where_nobody_waits(patience: Patience) -> None:
    patience.end()
    with patience.lasting(LATE_S):
        await asyncio.sleep(0)
    patience.end()
    await asyncio.sleep(0)
    assert current().cancelling() == 0


async def test_a_shutdown_ends_the_waits_that_it_watches() -> None:
    shutdown = Shutdown()

    async def watched() -> None:
        shutdown.watch(patience := Patience())
        try:
            await for_ever(patience, LATE_S)
        finally:
            shutdown.drop(patience)

    tasks = [asyncio.create_task(watched()) for _ in range(3)]
    await asyncio.sleep(0)
    shutdown.check()
    shutdown.begin()
    for task in tasks:
        with pytest.raises(TimeoutError):
            await task
    with pytest.raises(GatewayError):
        shutdown.check()
    shutdown.begin()


def current() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task
