"""What the world goes through. Each scenario is played once; who asks for it again gets the same.

Three providers offer one model; `x` is the one in trouble, its trouble what the first line of each says.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple

from server.domain.catalog import Routing
from server.domain.errors import FailureCategory
from tests.simulator.providers import Mood, Script, always, during
from tests.simulator.world import World

WELL: Final = always(Mood())
DOWN: Final = Mood(errors=1.0)
FROM_S, TO_S, END_S = 300.0, 900.0, 1500.0
"""When most trouble begins and ends, and the end."""
FLAP_S: Final = 40.0
BACK_S: Final = 180.0
RETRY_AFTER_S: Final = 5.0
HEDGE_S: Final = 1.0
KILLED_S: Final = (200.0, 201.0, 202.0)
ALL_KILLED_S: Final = 300.0


def with_x(script: Script, *, workers: int = 1, seed: int = 1, routing: Routing | None = None) -> World:
    return World({"x": script, "y": WELL, "z": WELL}, workers=workers, seed=seed, routing=routing)


@cache
def outage() -> World:
    """x fails every call"""
    world = with_x(during(FROM_S, TO_S, DOWN))
    world.run(END_S, 6.0)
    return world


@cache
def brown_out() -> World:
    """x fails 60 % of its calls, before and after 2 %"""
    world = with_x(during(FROM_S, TO_S, Mood(errors=0.6), Mood(errors=0.02)))
    world.run(END_S, 6.0)
    return world


@cache
def latency_creep() -> World:
    """x gets slower by a second a minute"""

    def slower(now_s: float) -> Mood:
        creep = max(0.0, now_s - FROM_S) / 60.0
        return Mood(first_token_s=0.3 + creep, took_s=1.0 + creep)

    world = with_x(slower)
    world.run(END_S, 3.0)
    return world


@cache
def hanging() -> World:
    """x takes calls and never answers"""
    world = with_x(during(FROM_S, TO_S, Mood(hangs=True)))
    world.run(END_S, 3.0)
    return world


@cache
def hedging() -> World:
    """x never answers; after a second another is asked as well"""
    world = with_x(during(FROM_S, TO_S, Mood(hangs=True)), routing=Routing(hedge_after_s=HEDGE_S))
    world.run(END_S, 3.0)
    return world


@cache
def flapping() -> World:
    """x is down 40 s, up 40 s, and so on"""
    world = with_x(lambda now_s: DOWN if int(now_s / FLAP_S) % 2 else Mood())
    world.run(2 * 3600.0, 1.2)
    return world


@cache
def rate_limit_storm() -> World:
    """x takes a call a second, else says retry-after 2"""
    world = with_x(during(FROM_S, TO_S, Mood(per_second=1.0, retry_after_s=2.0)))
    world.run(END_S, 6.0)
    return world


@cache
def cold_start() -> World:
    """nothing is known, and x fails every call"""
    world = with_x(always(DOWN))
    world.run(60.0, 50.0)
    return world


@cache
def recovery() -> World:
    """x was down, and can carry little at first"""

    def weak(now_s: float) -> Mood:
        if 60.0 <= now_s < BACK_S:
            return DOWN
        if now_s < 60.0:
            return Mood()
        carries = 2.0 + 8.0 * (now_s - BACK_S) / 60.0
        return Mood(per_second=carries, crowded=FailureCategory.SERVER_ERROR, retry_after_s=None)

    world = with_x(weak)
    world.run(480.0, 12.0)
    return world


@cache
def all_down() -> World:
    """all three fail every call"""
    down = during(FROM_S, TO_S, DOWN)
    world = World({"x": down, "y": down, "z": down})
    world.run(END_S, 3.0)
    return world


@cache
def no_money() -> World:
    """our account with x is empty"""
    world = with_x(during(FROM_S, TO_S, Mood(errors=1.0, category=FailureCategory.QUOTA_EXHAUSTED)))
    world.run(END_S, 3.0)
    return world


@cache
def equals() -> World:
    """all is well"""
    world = with_x(WELL, seed=5)
    world.run(600.0, 8.0)
    return world


@cache
def workers_equal() -> World:
    """all is well; 4 workers"""
    world = with_x(WELL, workers=4)
    world.run(300.0, 12.0)
    return world


@cache
def workers_outage() -> World:
    """x fails every call; 4 workers tell each other"""
    world = with_x(during(60.0, 150.0, DOWN), workers=4)
    world.run(360.0, 12.0)
    return world


@cache
def workers_storm() -> World:
    """x takes 3 calls a second, else says retry-after 5; 4 workers"""
    world = with_x(during(60.0, 240.0, Mood(per_second=3.0, retry_after_s=RETRY_AFTER_S)), workers=4)
    world.run(360.0, 12.0)
    return world


@cache
def workers_restart() -> World:
    """x fails every call; 3 workers are killed in turn, then all"""
    world = with_x(during(120.0, 500.0, DOWN), workers=3)
    for index, at_s in enumerate(KILLED_S):
        world.at(at_s, lambda index=index: world.restart(index))  # type: ignore[misc]
    for index in range(3):
        world.at(ALL_KILLED_S, lambda index=index: world.restart(index))  # type: ignore[misc]
    world.run(800.0, 7.0)
    return world


@cache
def workers_alone() -> World:
    """x fails every call; 4 workers have no database"""
    world = with_x(during(60.0, 150.0, DOWN), workers=4)
    world.board.is_away = True
    world.run(360.0, 12.0)
    return world


class Scenario(NamedTuple):
    """`spans` are the times in which x is in trouble."""

    play: Callable[[], World]
    spans: tuple[tuple[float, float], ...] = ((FROM_S, TO_S),)

    @property
    def name(self) -> str:
        return self.play.__name__.replace("_", " ")

    @property
    def told(self) -> str:
        return (self.play.__doc__ or "").strip()

    @property
    def trouble(self) -> tuple[float, float]:
        """From its first beginning to its last end."""
        return (self.spans[0][0], self.spans[-1][1]) if self.spans else (0.0, float("inf"))


_FLAPS: Final = tuple(
    (at_s, at_s + FLAP_S) for at_s in itertools.takewhile((7200.0).__gt__, itertools.count(40.0, 80.0))
)
_WORKERS: Final = ((60.0, 150.0),)
ALL: Final = (
    Scenario(outage),
    Scenario(brown_out),
    Scenario(latency_creep, ((FROM_S, END_S),)),
    Scenario(hanging),
    Scenario(hedging),
    Scenario(flapping, _FLAPS),
    Scenario(rate_limit_storm),
    Scenario(cold_start, ((0.0, 60.0),)),
    Scenario(recovery, ((60.0, BACK_S),)),
    Scenario(all_down),
    Scenario(no_money),
    Scenario(equals, ()),
    Scenario(workers_outage, _WORKERS),
    Scenario(workers_storm, ((60.0, 240.0),)),
    Scenario(workers_restart, ((120.0, 500.0),)),
    Scenario(workers_alone, _WORKERS),
)
