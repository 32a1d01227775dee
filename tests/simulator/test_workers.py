"""What workers promise together: the same worlds, with several of them that tell each other what they see."""

from __future__ import annotations

import pytest

from tests.simulator import scenarios
from tests.simulator.providers import Mood, during
from tests.simulator.scenarios import ALL_KILLED_S, KILLED_S, RETRY_AFTER_S
from tests.simulator.test_scenarios import FAILED_SHARE, STOP_CALLS, assert_noticed

WORKERS = 4
KNOWN_S = 2.0
"""What one worker has found out, all know so much later."""


def test_an_outage_that_one_worker_sees_is_known_to_all() -> None:
    world = scenarios.workers_outage()
    assert_noticed(world, 60.0)
    (first_s, _), (all_s, calls) = world.time_to_stop("x", 60.0, workers=1), world.time_to_stop("x", 60.0)
    assert all_s - first_s < KNOWN_S
    assert calls < 30
    assert world.failed_share() < FAILED_SHARE
    assert world.sent("x", 60.0 + 2 * KNOWN_S, 150.0) <= 20, "the probes of all of them"
    assert len([one for one in world.transitions if one.provider == "x" and not one.adopted]) <= 16


@pytest.mark.parametrize(("workers", "per_second"), [(2, 10.0), (8, 10.0)])
def test_failures_are_added_up_however_many_workers_share_the_traffic(workers: int, per_second: float) -> None:
    world = scenarios.with_x(during(40.0, 60.0, scenarios.DOWN), workers=workers)
    world.run(55.0, per_second)
    assert_noticed(world, 40.0)
    assert world.time_to_stop("x", 40.0)[1] <= STOP_CALLS


def test_a_recovery_that_one_worker_sees_is_a_ramp_at_all() -> None:
    world = scenarios.workers_outage()
    closed = [one for one in world.transitions if one.provider == "x" and one.to == "closed"]
    closed_s = closed[-WORKERS].at_s
    assert {one.worker for one in closed if closed_s <= one.at_s <= closed_s + KNOWN_S} == {
        worker.name for worker in world.workers
    }
    assert world.share("x", closed_s, closed_s + 10.0) < 0.15
    assert world.share("x", closed_s + 70.0, closed_s + 100.0) > 0.25
    assert world.busiest_second("x", closed_s, world.ends_s) <= 1.5 * world.busiest_second("x", 0.0, 60.0)


def test_what_one_worker_was_told_to_wait_all_wait() -> None:
    world = scenarios.workers_storm()
    assert world.failed_share() < FAILED_SHARE
    assert world.share("x", world.ends_s - 60.0, world.ends_s) > 0.25
    openings = [at_s for at_s in world.changes("x", "open") if at_s < 240.0]
    closings = world.changes("x", "closed")
    assert 1 <= len(openings) <= 60
    standing = [at_s for at_s in openings if not any(at_s < closed_s < at_s + KNOWN_S for closed_s in closings)]
    assert len(standing) > len(openings) / 2, "the others were contradicted by a call that was on its way"
    for at_s in standing:
        assert world.sent("x", at_s + KNOWN_S, at_s + RETRY_AFTER_S) == 0
    refused = sum(one.provider == "x" and not one.is_ok for one in world.attempts)
    assert refused <= WORKERS * len(openings), "each worker at most once before it knew"


@pytest.mark.parametrize("seed", [0, 1])
def test_who_was_told_to_wait_waits_whatever_others_hear_meanwhile(seed: int) -> None:
    storm = during(20.0, 100.0, Mood(per_second=3.0, retry_after_s=RETRY_AFTER_S))
    world = scenarios.with_x(storm, workers=WORKERS, seed=seed)
    world.run(110.0, 20.0)
    told = [one for one in world.transitions if one.to == "open" and not one.adopted and one.at_s < 100.0]
    assert told
    for one in told:
        sent = [call for call in world.attempts if (call.provider, call.worker) == ("x", one.worker)]
        assert not [call for call in sent if one.at_s < call.at_s < one.at_s + RETRY_AFTER_S]


def test_restarted_workers_do_not_forget_an_open_breaker() -> None:
    world = scenarios.workers_restart()
    assert_noticed(world, 120.0)
    noticed_s = 120.0 + world.time_to_stop("x", 120.0)[0]
    assert world.failed_share() < FAILED_SHARE
    assert len(world.killed_s) == 6
    for at_s in (*KILLED_S, ALL_KILLED_S):
        born = [one for one in world.transitions if one.at_s == at_s and one.adopted and one.to == "open"]
        assert len(born) == (1 if at_s in KILLED_S else 3), "each knows at once"
    assert world.sent("x", noticed_s, 500.0) <= 20, "probes only"
    assert world.share("x", world.ends_s - 60.0, world.ends_s) > 0.25


def test_without_their_database_each_worker_finds_out_itself() -> None:
    world = scenarios.workers_alone()
    _, calls = world.time_to_stop("x", 60.0)
    assert calls <= WORKERS * 10
    assert world.failed_share() < FAILED_SHARE
    assert not [one for one in world.transitions if one.adopted]
    assert world.share("x", world.ends_s - 60.0, world.ends_s) > 0.25
