"""What the world goes through. Each scenario is played once; who asks for it again gets the same."""

from __future__ import annotations

from functools import cache
from typing import Final

from server.domain.errors import FailureCategory
from tests.simulator.world import Mood, World, always, during

WELL: Final = always(Mood())
DOWN: Final = Mood(errors=1.0)
FROM_S, TO_S, END_S = 300.0, 900.0, 1500.0
"""When trouble begins and ends, and the end of a scenario."""


@cache
def outage(per_second: float = 20.0) -> World:
    world = World({"x": during(FROM_S, TO_S, DOWN), "y": WELL, "z": WELL})
    world.run(END_S, per_second)
    return world


@cache
def brown_out() -> World:
    world = World({"x": during(FROM_S, TO_S, Mood(errors=0.6), Mood(errors=0.02)), "y": WELL, "z": WELL})
    world.run(END_S, 20.0)
    return world


@cache
def latency_creep() -> World:
    def slower(now_s: float) -> Mood:
        creep = max(0.0, now_s - FROM_S) / 60.0
        return Mood(first_token_s=0.3 + creep, took_s=1.0 + creep)

    world = World({"x": slower, "y": WELL, "z": WELL})
    world.run(END_S, 10.0)
    return world


@cache
def flapping() -> World:
    def flaps(now_s: float) -> Mood:
        return DOWN if int(now_s / 40.0) % 2 else Mood()

    world = World({"x": flaps, "y": WELL, "z": WELL})
    world.run(2 * 3600.0, 4.0)
    return world


@cache
def rate_limit_storm() -> World:
    tight = Mood(per_second=4.0, retry_after_s=2.0)
    world = World({"x": during(FROM_S, TO_S, tight), "y": WELL, "z": WELL})
    world.run(END_S, 30.0)
    return world


@cache
def cold_start() -> World:
    world = World({"x": always(DOWN), "y": WELL, "z": WELL})
    world.run(300.0, 50.0)
    return world


@cache
def all_down() -> World:
    down = during(FROM_S, TO_S, DOWN)
    world = World({"x": down, "y": down, "z": down})
    world.run(END_S, 10.0)
    return world


@cache
def no_money() -> World:
    broke = Mood(errors=1.0, category=FailureCategory.QUOTA_EXHAUSTED)
    world = World({"x": during(FROM_S, TO_S, broke), "y": WELL, "z": WELL})
    world.run(END_S, 10.0)
    return world


@cache
def equals() -> World:
    world = World({"x": WELL, "y": WELL, "z": WELL}, seed=5)
    world.run(1200.0, 10.0)
    return world


ALL: Final = (
    outage,
    brown_out,
    latency_creep,
    flapping,
    rate_limit_storm,
    cold_start,
    all_down,
    no_money,
    equals,
)
