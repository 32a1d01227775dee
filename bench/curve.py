"""The picture of added latency over load: a panel a host, a line a percentile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

LINES: Final = {"p50": ("#2a9d8f", "o"), "p90": ("#4f7cac", "s"), "p99": ("#e08e1b", "^"), "p99.9": ("#c1374a", "D")}
"""Colour and marker: neither alone tells two lines apart to everybody."""
LEAST_MS: Final = 0.1
"""What is below, for the difference of two percentiles can be, is drawn here."""

Curve = Sequence[tuple[int, float, float]]
"""Share of the most in per cent, requests a second, milliseconds added."""


def draw(file: Path, hosts: Mapping[str, Mapping[str, Curve]], target_at: int, targets_ms: Mapping[str, float]) -> None:
    with mpl.rc_context({"font.size": 10, "axes.titlesize": 11, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(10, 4.6), dpi=120, layout="constrained", facecolor="white")
        panels = list(figure.subplots(1, len(hosts), sharey=True, squeeze=False).flat)
        for ax, (host, curves) in zip(panels, hosts.items(), strict=True):
            _panel(ax, host, curves, target_at, targets_ms)
        figure.suptitle("Added latency at constant arrival: keys, ledger and record on, one core", fontsize=12)
        panels[0].set_ylabel("latency added by the gateway, ms")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.savefig(file, metadata={"Software": None})


def _panel(ax: Axes, host: str, curves: Mapping[str, Curve], target_at: int, targets_ms: Mapping[str, float]) -> None:
    for percentile, curve in curves.items():
        colour, marker = LINES[percentile]
        shares, _, added_ms = zip(*curve, strict=True)
        drawn = [max(LEAST_MS, value) for value in added_ms]
        ax.plot(shares, drawn, color=colour, marker=marker, markersize=5, linewidth=1.8, label=percentile)
    for percentile, target_ms in targets_ms.items():
        ax.plot(
            [target_at],
            [target_ms],
            linestyle="none",
            marker="_",
            markersize=26,
            markeredgewidth=3,
            color=LINES[percentile][0],
            label=f"target, {percentile} at {target_at} %",
        )
    points = next(iter(curves.values()))
    ax.set_title(f"AISTATS_HOST={host}")
    ax.set_yscale("log")
    ax.set_xlabel("requests, % of the most that the host does\n(requests/s)")
    ax.set_xticks([share for share, _, _ in points], [f"{share}\n({rate:,.0f})" for share, rate, _ in points])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(visible=True, which="major", color="#d0d0d0", linewidth=0.8)
    ax.grid(visible=True, which="minor", axis="y", color="#ececec", linewidth=0.5)
    ax.set_axisbelow(True)
