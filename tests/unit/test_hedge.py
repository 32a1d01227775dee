"""Two runners at once: who wins, who is told of it, and that nobody is left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from server.domain.audio import TranscriptionRequest
from server.domain.catalog import Routing
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import Completed, ProviderEvent
from server.domain.images import ImageRequest
from server.domain.request import Endpoint, GenerationRequest, Request, RoutingPreferences
from server.domain.routing import Route
from server.pipeline.health.breaker import PROBES
from server.pipeline.hedge import Finish, may_hedge, race
from tests.fakes.health import KEY, HandClock, fail, offers, steady
from tests.fakes.uploads import BytesUpload

SHOWN = (Completed(),)
FAILED = ProviderFailure(FailureCategory.SERVER_ERROR)
REFUSED = ProviderFailure(FailureCategory.CALLER_ERROR)


@dataclass(eq=False)
class Runner:
    """Shows something, or fails, once `go` is set."""

    failure: Exception | None = None
    go: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    def __post_init__(self) -> None:
        self.batches = self._batches()

    async def _batches(self) -> AsyncGenerator[Sequence[ProviderEvent], None]:
        try:
            await self.go.wait()
            if self.failure is not None:
                raise self.failure
            yield SHOWN
        finally:
            self.ended = True


def ready(failure: Exception | None = None) -> Runner:
    runner = Runner(failure)
    runner.go.set()
    return runner


async def run(slow: Runner, other: Runner | None, after_s: float = 0.01) -> tuple[Finish[Runner], list[Runner]]:
    outrun: list[Runner] = []
    finish = await asyncio.wait_for(race(slow, after_s, lambda: other, outrun.append), 30)
    return finish, outrun


async def test_who_is_fast_runs_alone() -> None:
    slow, other = ready(), ready()
    finish, outrun = await run(slow, other, after_s=5.0)
    assert (finish, outrun) == (Finish(slow, SHOWN), [])
    assert not other.ended, "it was never begun"


async def test_who_shows_first_wins_and_the_other_has_ended() -> None:
    slow, other = Runner(), ready()
    finish, outrun = await run(slow, other)
    assert (finish, outrun) == (Finish(other, SHOWN), [slow])
    assert (slow.ended, other.ended) == (True, False)


async def test_with_nobody_to_call_beside_it_the_slow_one_is_waited_for() -> None:
    slow = Runner()
    asyncio.get_running_loop().call_later(0.05, slow.go.set)
    assert await run(slow, None) == (Finish(slow, SHOWN), [])


async def test_both_at_the_same_time_is_the_first_ones_win() -> None:
    slow, other = Runner(), Runner()
    for runner in (other, slow):
        asyncio.get_running_loop().call_later(0.05, runner.go.set)
    finish, outrun = await run(slow, other)
    assert (finish.first, outrun) == (slow, [other])
    assert other.ended


async def test_a_failure_is_no_win() -> None:
    slow, other = Runner(FAILED), Runner()
    asyncio.get_running_loop().call_later(0.03, slow.go.set)
    asyncio.get_running_loop().call_later(0.06, other.go.set)
    assert await run(slow, other) == (Finish(other, SHOWN), [])


@pytest.mark.parametrize(
    ("first", "second", "decides"), [(FAILED, FAILED, 1), (REFUSED, FAILED, 0), (FAILED, REFUSED, 1)]
)
async def test_of_two_failures_the_final_one_decides_or_else_the_last(
    first: ProviderFailure, second: ProviderFailure, decides: int
) -> None:
    runners = [Runner(first), Runner(second)]
    for number, runner in enumerate(runners):
        asyncio.get_running_loop().call_later(0.03 * (number + 1), runner.go.set)
    finish, outrun = await run(runners[0], runners[1])
    assert (finish.first, finish.failure, outrun) == (runners[decides], (first, second)[decides], [])


async def test_what_is_no_failure_of_a_provider_ends_both() -> None:
    slow, other = Runner(), ready(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        await run(slow, other)
    assert (slow.ended, other.ended) == (True, True)


@pytest.mark.parametrize("is_begun", [False, True])
async def test_who_is_cancelled_leaves_nobody_running(is_begun: bool) -> None:
    slow, other = Runner(), Runner()
    before = asyncio.all_tasks()
    racing = asyncio.create_task(race(slow, 0.0 if is_begun else 5.0, lambda: other, lambda _: None))
    await asyncio.sleep(0.02)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert (slow.ended, other.ended) == (True, is_begun)
    assert asyncio.all_tasks() == before


def test_a_probe_that_is_outrun_makes_room_for_the_next() -> None:
    clock = HandClock()
    health = steady(clock)
    fail(health, 5)
    clock.now_s = health.entry(KEY).breaker.retry_s
    for _ in range(PROBES):
        watch = health.start(KEY)
        assert watch is not None
        assert health.start(KEY) is None
        watch.outrun(500.0)
        watch.dropped()
    assert health.entry(KEY).in_flight == 0
    assert health.entry(KEY).standing(clock.now_s).breaker == "half_open", "it has shown nothing"


@pytest.mark.parametrize(
    ("routing", "stream", "wishes", "count", "expected"),
    [
        (Routing(hedge_after_s=1.0), True, {}, 2, True),
        (Routing(), True, {}, 2, False),
        (Routing(hedge_after_s=1.0), False, {}, 2, False),
        (Routing(hedge_after_s=1.0), True, {"allow_fallbacks": False}, 2, False),
        (Routing(hedge_after_s=1.0), True, {}, 1, False),
        (Routing(hedge_after_s=1.0, max_attempts=1), True, {}, 2, False),
    ],
)
def test_when_two_may_be_called(
    routing: Routing, stream: bool, wishes: dict[str, Any], count: int, expected: bool
) -> None:
    request = GenerationRequest(
        endpoint=Endpoint.CHAT, model="a/b", turns=(), stream=stream, routing=RoutingPreferences(**wishes)
    )
    assert may_hedge(Route(tuple(offers(count))), request, routing) is expected
    assert not may_hedge(Route(tuple(offers(count)), resorts_from=1), request, routing), "the rest is a last resort"


@pytest.mark.parametrize(
    "late",
    [
        ImageRequest(endpoint=Endpoint.IMAGES, model="a/b", prompt="A dot.", stream=True),
        TranscriptionRequest(endpoint=Endpoint.AUDIO, model="a/b", file=BytesUpload(b""), stream=True),
    ],
    ids=["picture", "transcript"],
)
def test_what_shows_itself_late_is_not_made_twice(late: Request) -> None:
    assert not may_hedge(Route(tuple(offers(2))), late, Routing(hedge_after_s=1.0))
