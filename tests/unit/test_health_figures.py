"""Time-decayed figures: what they forget, what they add up to, how little they keep."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.pipeline.health.figures import LONG, MINUTE, SHORT, WINDOWS_S, Figures, Reading, Sums

Observations = list[tuple[float, float | None]]
"""After how many seconds, and the latency of a success, or None for a failure."""
_observations = st.lists(st.tuples(st.floats(0, 30), st.none() | st.floats(0.1, 1e6)), max_size=40)


def observed(observations: Observations) -> tuple[Figures, float]:
    figures, now_s = Figures(0.0), 0.0
    for wait_s, latency_ms in observations:
        now_s += wait_s
        if latency_ms is None:
            figures.failed(now_s)
        else:
            figures.succeeded(now_s, streamed=True, latency_ms=latency_ms, tokens=10, took_s=0.5)
    return figures, now_s


def test_each_window_forgets_at_its_own_pace() -> None:
    figures = Figures(0.0)
    figures.succeeded(0.0, streamed=True, latency_ms=120.0, tokens=30, took_s=2.0)
    figures.failed(0.0)
    figures.failed(0.0, limited=True)
    reading = figures.reading(60.0)
    for window, window_s in zip(reading.windows, WINDOWS_S, strict=True):
        left = math.exp(-60.0 / window_s)
        assert (window.ok, window.failed, window.limited) == pytest.approx((left, left, left))
    minute = reading.windows[MINUTE]
    assert minute.first_token_ms == pytest.approx(120.0)
    assert minute.throughput_tps == pytest.approx(15.0)
    assert minute.answer_ms is None


def test_a_stream_and_a_whole_answer_are_not_mixed() -> None:
    figures = Figures(0.0)
    figures.succeeded(0.0, streamed=True, latency_ms=100.0, tokens=0, took_s=1.0)
    figures.succeeded(0.0, streamed=False, latency_ms=3000.0, tokens=0, took_s=3.0)
    window = figures.reading(0.0).windows[LONG]
    assert (window.first_token_ms, window.answer_ms, window.throughput_tps) == (100.0, 3000.0, None)


def test_nothing_known_is_a_full_success_rate() -> None:
    assert (Sums().success_rate(), Sums().limited_share(), Reading().percentile_ms(0.95)) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(("share", "latency_ms"), [(0.5, 50.0), (0.95, 95.0)])
def test_percentiles_are_upper_bounds_within_a_bucket(share: float, latency_ms: float) -> None:
    figures = Figures(0.0)
    for ms in range(1, 101):
        figures.succeeded(0.0, streamed=True, latency_ms=float(ms), tokens=0, took_s=1.0)
    assert latency_ms <= figures.reading(0.0).percentile_ms(share) <= latency_ms * 1.4


def test_the_short_window_can_begin_anew() -> None:
    figures, now_s = observed([(0.0, None), (0.0, 5.0)])
    figures.forget_short()
    reading = figures.reading(now_s)
    assert reading.windows[SHORT] == Sums()
    assert reading.windows[MINUTE].attempts == 2


@given(_observations, st.floats(0, 600))
def test_a_reading_ages_as_the_figures_do(observations: Observations, later_s: float) -> None:
    figures, now_s = observed(observations)
    early = figures.reading(now_s).aged(later_s)
    late = figures.reading(now_s + later_s)
    for one, two in zip(early.windows, late.windows, strict=True):
        assert msgspec.structs.astuple(one) == pytest.approx(msgspec.structs.astuple(two), rel=1e-6, abs=1e-6)


@given(_observations, _observations)
def test_readings_of_two_workers_add_up(mine: Observations, others: Observations) -> None:
    one, one_s = observed(mine)
    two, two_s = observed(others)
    total = one.reading(one_s).plus(two.reading(two_s))
    assert total.windows[LONG].attempts == pytest.approx(
        one.reading(one_s).windows[LONG].attempts + two.reading(two_s).windows[LONG].attempts
    )
    assert 0.0 <= total.windows[SHORT].success_rate(1.0) <= 1.0


@given(_observations)
def test_a_reading_survives_the_wire_and_stays_small(observations: Observations) -> None:
    figures, now_s = observed(observations)
    encoded = msgspec.json.encode(figures.reading(now_s))
    assert len(encoded) < 2048
    assert msgspec.json.decode(encoded, type=Reading) == figures.reading(now_s)
