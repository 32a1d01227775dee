"""What routing by health promises, in a world where every failure is scripted and hours pass in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulator import __main__ as report
from tests.simulator import scenarios
from tests.simulator.plot import draw
from tests.simulator.providers import Mood, during
from tests.simulator.scenarios import BACK_S, END_S, FROM_S, HEDGE_S, TO_S
from tests.simulator.world import World

STOP_S, STOP_CALLS = 2.0, 20
FAILED_SHARE = 0.005
CHI_SQUARED = 13.8
"""Of two degrees of freedom: exceeded by chance once in a thousand."""


def assert_noticed(world: World, from_s: float) -> None:
    """Whoever is the first to notice does so at once."""
    after_s, calls = world.time_to_stop("x", from_s, workers=1)
    assert after_s < STOP_S or calls <= STOP_CALLS


def test_an_outage_of_one_of_three_is_noticed_at_once_and_hardly_felt() -> None:
    world = scenarios.outage()
    assert_noticed(world, FROM_S)
    assert world.failed_share(FROM_S, TO_S) < FAILED_SHARE
    assert world.sent("x", FROM_S + 2 * STOP_S, TO_S) <= STOP_CALLS, "probes only"
    assert 1 <= len(world.changes("x", "open")) <= 8


@pytest.mark.parametrize("per_second", [1.0, 60.0])
def test_an_outage_is_noticed_in_slow_and_fast_traffic(per_second: float) -> None:
    world = scenarios.with_x(lambda now_s: Mood(errors=float(now_s >= 30.0)))
    world.run(60.0, per_second)
    assert_noticed(world, 30.0)
    assert world.failed_share() < FAILED_SHARE


def test_recovery_is_a_ramp_and_no_stampede() -> None:
    world = scenarios.recovery()
    closed_s = world.changes("x", "closed")[-1]
    assert BACK_S <= closed_s <= BACK_S + 2 * (BACK_S - 60.0), "found again within the last back-off"
    shares = [world.share("x", closed_s + at_s, closed_s + at_s + 10.0) for at_s in (0.0, 20.0, 40.0, 70.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.15
    assert shares[-1] > 0.25
    assert world.busiest_second("x", closed_s, world.ends_s) <= 1.5 * world.busiest_second("x", 0.0, 60.0)
    assert not [at_s for at_s in world.changes("x", "open") if at_s > closed_s], "it was not knocked over again"
    assert sum(one.provider == "x" and not one.is_ok for one in world.attempts if one.at_s > closed_s) <= 3
    assert world.failed_share() < FAILED_SHARE


def test_after_a_long_outage_all_is_as_before() -> None:
    world = scenarios.outage()
    closed_s = world.changes("x", "closed")[-1]
    assert TO_S <= closed_s <= TO_S + 2 * (TO_S - FROM_S), "found again within the last back-off"
    if closed_s < END_S - 160.0:
        assert world.share("x", END_S - 100.0, END_S) == pytest.approx(1 / 3, abs=0.06)


def test_a_brown_out_is_left_although_some_of_it_works() -> None:
    world = scenarios.brown_out()
    after_s, calls = world.time_to_stop("x", FROM_S)
    assert after_s < 20.0
    assert calls < 60
    assert world.failed_share(FROM_S, TO_S) < FAILED_SHARE
    assert not [at for at in world.changes("x", "open") if at < FROM_S], "two per cent is no reason"


def test_who_gets_slower_gets_less() -> None:
    world = scenarios.latency_creep()
    assert world.share("x", 0.0, FROM_S) == pytest.approx(1 / 3, abs=0.06)
    assert 0.0 < world.share("x", END_S - 300.0, END_S) < 0.2
    assert world.changes("x") == []


def test_who_hangs_is_left_when_the_first_have_waited_in_vain() -> None:
    world = scenarios.hanging()
    assert_noticed(world, FROM_S)
    assert world.failed_share() < FAILED_SHARE
    noticed_s = FROM_S + world.time_to_stop("x", FROM_S)[0]
    assert world.sent("x", noticed_s, TO_S) <= STOP_CALLS, "probes only"


def test_whole_answers_of_who_hangs_are_lost_but_they_are_few() -> None:
    """Whether a whole answer will come shows only when its time is up, and then none is left for another provider."""
    world = World({"x": during(100.0, 700.0, Mood(hangs=True)), "y": scenarios.WELL, "z": scenarios.WELL}, stream=False)
    world.run(700.0, 3.0)
    _, calls = world.time_to_stop("x", 100.0)
    assert calls <= STOP_CALLS
    assert sum(not one.is_ok for one in world.outcomes) <= STOP_CALLS


def test_with_hedging_nobody_waits_for_who_hangs() -> None:
    world = scenarios.hedging()
    assert world.failed_share() == 0.0
    assert max(one.waited_s for one in world.outcomes) < HEDGE_S + 0.5
    assert max(one.waited_s for one in scenarios.hanging().outcomes) > 30.0, "as without"
    assert sum(one.attempts for one in world.outcomes) == len(world.attempts), "both are on the record"
    assert world.share("x", FROM_S, TO_S) < 0.25
    assert world.share("x", END_S - 300.0, END_S) == pytest.approx(1 / 3, abs=0.06)


def test_flapping_makes_few_transitions_and_fewer_in_time() -> None:
    world = scenarios.flapping()
    opened = world.changes("x", "open")
    assert 2 <= len(opened) <= 30
    assert len([at for at in opened if at >= 3600.0]) <= len([at for at in opened if at < 3600.0])
    assert world.failed_share() < FAILED_SHARE


def test_a_rate_limit_is_obeyed() -> None:
    world = scenarios.rate_limit_storm()
    assert world.failed_share() < FAILED_SHARE
    opened = [at for at in world.changes("x", "open") if at < TO_S]
    assert 1 <= len(opened) <= 60
    for at_s in opened:
        assert world.sent("x", at_s + 1e-6, at_s + 2.0) == 0, "it had said when to come back"
    assert world.share("x", END_S - 100.0, END_S) == pytest.approx(1 / 3, abs=0.06)


def test_nothing_is_known_at_first_and_the_dead_one_is_found() -> None:
    world = scenarios.cold_start()
    assert_noticed(world, 0.0)
    assert world.failed_share() < FAILED_SHARE


def test_an_account_without_money_is_called_once() -> None:
    _, calls = scenarios.no_money().time_to_stop("x", FROM_S)
    assert calls <= 3, "those that were on their way"


def test_with_all_down_the_way_back_is_found_at_once() -> None:
    world = scenarios.all_down()
    assert world.failed_share(FROM_S, TO_S) == 1.0
    asked = sum(FROM_S + 30.0 <= one.at_s < TO_S for one in world.outcomes)
    calls = sum(FROM_S + 30.0 <= one.at_s < TO_S for one in world.attempts)
    assert calls < 1.2 * asked, "one try a request, not three"
    first_s = next(one.at_s for one in world.outcomes if one.is_ok and one.at_s >= TO_S)
    assert first_s - TO_S < 5.0
    assert world.failed_share(TO_S + 60.0, END_S) < FAILED_SHARE


@pytest.mark.parametrize("world", [scenarios.equals, scenarios.workers_equal], ids=["one", "workers"])
def test_equals_share_fairly(world: Callable[[], World]) -> None:
    counts = [world().sent(name) for name in ("x", "y", "z")]
    expected = sum(counts) / 3
    assert sum((count - expected) ** 2 / expected for count in counts) < CHI_SQUARED


def test_who_is_well_is_never_suspected() -> None:
    for scenario in scenarios.ALL:
        if scenario.play is not scenarios.all_down:
            world = scenario.play()
            assert world.changes("y") == world.changes("z") == [], scenario.name


def test_one_seed_is_one_history() -> None:
    def played() -> World:
        world = scenarios.with_x(lambda _: Mood(errors=0.3), workers=2, seed=9)
        world.run(30.0, 20.0)
        return world

    one, other = played(), played()
    assert (one.attempts, one.transitions) == (other.attempts, other.transitions)


def test_the_report_has_a_row_a_scenario_and_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = report.table().splitlines()
    assert len(lines) == 1 + len(scenarios.ALL)
    assert sum(scenario.play().ends_s for scenario in scenarios.ALL) > 4 * 3600.0
    draw(tmp_path / "one.png")
    draw(tmp_path / "other.png")
    picture = (tmp_path / "one.png").read_bytes()
    assert len(picture) < 300_000
    assert picture == (tmp_path / "other.png").read_bytes()
    with capsys.disabled():
        print("", *lines, sep="\n")
