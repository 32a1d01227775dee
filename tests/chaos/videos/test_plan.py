"""The plans of videos: the same wherever and whenever they are made, and of every kind."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from tests.chaos.videos.plan import FATES, Fate, index_in, plan_of, plans_of


def test_the_same_seed_makes_the_same_plans() -> None:
    assert plans_of(7, 50, 10.0, hang_until_s=5.0) == plans_of(7, 50, 10.0, hang_until_s=5.0)
    assert plans_of(7, 50, 10.0, hang_until_s=5.0) != plans_of(8, 50, 10.0, hang_until_s=5.0)


def test_every_fate_comes_about_as_often_as_it_should() -> None:
    plans = plans_of(1, 2000, 100.0, hang_until_s=100.0).values()
    found = Counter(plan.fate for plan in plans)
    assert found.keys() == set(get_args(Fate))
    assert all(abs(found[fate] / 2000 - share) < 0.03 for fate, share in FATES.items())
    assert {plan.provider for plan in plans if plan.fate == "lost"} == {"keyed", "plain"}
    assert any(plan.is_deleted for plan in plans)


def test_none_hangs_that_has_no_time_for_it() -> None:
    plans = plans_of(1, 500, 100.0, hang_until_s=40.0).values()
    assert {plan.begins_at_s < 40.0 for plan in plans if plan.fate == "hangs"} == {True}
    assert not [plan for plan in plans_of(1, 500, 100.0, hang_until_s=0.0).values() if plan.fate == "hangs"]


def test_no_two_videos_are_alike_and_a_prompt_leads_to_its_plan() -> None:
    one, two = (plan_of(1, index, begins_at_s=0.0, may_hang=True) for index in (1, 2))
    assert one.content != two.content
    assert (len(one.content), one.content) == (one.size, one.content)
    assert index_in(two.prompt) == 2
