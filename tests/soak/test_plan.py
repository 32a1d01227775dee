"""The plans of a soak hold all that it is to hold, in its share; typed clients see and leave as the others do."""

from __future__ import annotations

import pytest

from tests.chaos.plan import Plan
from tests.soak.plan import MISTAKES, Typed, plan_of

COUNT = 4000


def test_every_kind_of_request_and_misfortune_has_its_share() -> None:
    everything = [plan_of(1, number) for number in range(COUNT)]
    plans = [plan for plan in everything if isinstance(plan, Plan)]
    mistakes = {plan for plan in everything if not isinstance(plan, Plan)}
    assert mistakes == set(MISTAKES)

    def share(chosen: list[bool]) -> float:
        return sum(chosen) / COUNT

    first = [plan.scripts[plan.asks_first] for plan in plans]
    faults = [one.status != 200 or one.garbage or one.cut_after is not None or one.first_s > 2.0 for one in first]
    uploads = share([plan == "half an upload" for plan in everything])
    left = share([plan.leave is not None for plan in plans])
    assert uploads == pytest.approx(0.024, abs=0.01)
    assert left == pytest.approx(0.08, abs=0.02)
    assert share(faults) == pytest.approx(0.094, abs=0.02)
    assert uploads + left + share(faults) == pytest.approx(0.20, abs=0.04)
    assert {(plan.surface, plan.stream) for plan in plans if not isinstance(plan, Typed)} == {
        ("chat", True), ("chat", False), ("responses", True), ("responses", False),
        ("messages", True), ("messages", False), ("embeddings", False),
    }  # fmt: skip
    assert {(plan.surface, plan.stream) for plan in plans if isinstance(plan, Typed)} == {
        ("chat", True), ("chat", False), ("embeddings", False),
    }  # fmt: skip


def test_another_seed_makes_other_plans() -> None:
    assert [plan_of(1, number) for number in range(9)] == [plan_of(1, number) for number in range(9)]
    assert [plan_of(1, number) for number in range(9)] != [plan_of(2, number) for number in range(9)]
