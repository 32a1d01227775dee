"""Each provider's share of the calls over time, one small picture a scenario."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tests.simulator.scenarios import ALL, Scenario

COLUMNS: Final = 3
STEPS: Final = 75
"""Into so many the time of each scenario is divided."""
COLOURS: Final = {"x": "#d1495b", "y": "#4f7cac", "z": "#9fc2cc"}
TROUBLE: Final = "#f2d388"
OPEN: Final = "#3b3b3b"
BAR: Final = (-0.075, 0.045)
"""Where the bar of the breaker is, below the shares, and how thick."""


def draw(file: Path) -> None:
    """Write the picture; the same scenarios give the same picture."""
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 10, "font.family": "DejaVu Sans"}):
        rows = math.ceil(len(ALL) / COLUMNS)
        figure = Figure(figsize=(12, 2.5 * rows + 0.6), dpi=100, layout="constrained")
        axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        for scenario, ax in zip(ALL, axes, strict=False):
            _panel(ax, scenario)
        for ax in axes[len(ALL) :]:
            ax.set_axis_off()
        names = {"x": "x, the one in trouble", "y": "y", "z": "z"}
        figure.legend(
            handles=[
                *(Patch(color=colour, label=names[name]) for name, colour in COLOURS.items()),
                Patch(color=TROUBLE, label="trouble lasts"),
                Patch(color=OPEN, label="x's breaker is open or half-open"),
            ],
            loc="outside lower center",
            ncols=5,
            frameon=False,
            fontsize=10,
        )
        figure.savefig(file, metadata={"Software": None})


def _panel(ax: Axes, scenario: Scenario) -> None:
    world = scenario.play()
    step_s = world.ends_s / STEPS
    minutes = [index * step_s / 60 for index in range(STEPS + 1)]
    below = [0.0] * (STEPS + 1)
    for name, colour in COLOURS.items():
        shares = [share or 0.0 for share in world.shares(name, step_s)]
        above = [low + share for low, share in zip(below, [*shares, shares[-1]], strict=True)]
        ax.fill_between(minutes, below, above, step="post", color=colour, linewidth=0)
        below = above
    bottom, height = BAR
    ax.broken_barh([(a / 60, (b - a) / 60) for a, b in world.open_spans("x")], (bottom, height), color=OPEN)
    top = 1.03
    ax.broken_barh([(a / 60, (b - a) / 60) for a, b in scenario.spans], (top, 0.07), color=TROUBLE)
    ax.set_title(scenario.name, loc="left", fontweight="bold", pad=17)
    told = ax.text(0, 1.04, scenario.told, transform=ax.transAxes, color="#444444", fontsize=8.5)
    told.set_in_layout(False)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlim(0, world.ends_s / 60)
    ax.set_ylim(bottom - 0.02, top + 0.08)
    ax.set_yticks([0, 1 / 3, 2 / 3, 1], ["0", "⅓", "⅔", "1"])
    ax.set_ylabel("share of calls")
    ax.set_xlabel("minutes")
