"""A slope is seen through noise and outliers, and noise is not taken for a slope."""

from __future__ import annotations

import random

import pytest

from tests.soak.trend import MAX_POINTS, trend


def points(count: int, slope: float, noise: float) -> list[tuple[float, float]]:
    rng = random.Random(5)
    return [(5.0 * n, 100.0 + slope * 5.0 * n + rng.gauss(0, noise)) for n in range(count)]


@pytest.mark.parametrize("count", [40, MAX_POINTS, 3 * MAX_POINTS])
def test_the_slope_and_the_noise_of_a_line_are_found(count: int) -> None:
    line = trend(points(count, 0.01, 1.0))
    assert line.slope == pytest.approx(0.01, abs=0.01)
    assert line.noise == pytest.approx(1.0, rel=0.4)
    assert line.an_hour == line.slope * 3600


def test_outliers_move_nothing() -> None:
    line = trend([(at, value + 1000 * (n % 5 == 0)) for n, (at, value) in enumerate(points(200, 0.0, 0.1))])
    assert abs(line.growth) < 1.0
    assert line.is_flat(1.0)


def test_what_grows_less_than_its_noise_is_flat_and_what_grows_more_is_not() -> None:
    assert trend(points(300, 0.0, 5.0)).is_flat(0.0)
    assert not trend(points(300, 0.02, 1.0)).is_flat(4.0)
    assert trend(points(300, 0.02, 1.0)).is_flat(40.0)
    assert trend(points(300, -0.5, 0.0)).is_flat(0.0)


def test_two_points_make_a_line() -> None:
    assert trend([(0.0, 1.0), (2.0, 5.0)]).slope == 2.0
