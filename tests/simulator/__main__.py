"""Print what every scenario came to: `python -m tests.simulator`, and draw it with `--plot FILE.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.simulator.scenarios import ALL, Scenario

HEAD = (
    "scenario",
    "hours",
    "requests",
    "calls",
    "failed",
    "in trouble",
    "x opened after",
    "calls till then",
    "opened",
    "share of x in trouble",
    "at the end",
)


def row(scenario: Scenario) -> tuple[str, ...]:
    world, (from_s, to_s) = scenario.play(), scenario.trouble
    after_s, calls = world.time_to_stop("x", from_s)
    has_opened = after_s != float("inf")
    return (
        scenario.name,
        f"{world.ends_s / 3600:.2f}",
        f"{len(world.outcomes)}",
        f"{len(world.attempts)}",
        f"{world.failed_share():.3%}",
        f"{world.failed_share(from_s, to_s):.3%}" if scenario.spans else "-",
        f"{after_s:.2f} s" if has_opened else "-",
        f"{calls}" if has_opened else "-",
        f"{len(world.changes('x', 'open'))}",
        f"{world.share('x', from_s, to_s):.1%}" if scenario.spans else "-",
        f"{world.share('x', world.ends_s - 60.0, world.ends_s):.1%}",
    )


def table() -> str:
    lines = [HEAD, *map(row, ALL)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw each provider's share of the calls")
    arguments = parser.parse_args()
    print(table())
    if arguments.plot is not None:
        from tests.simulator.plot import draw

        draw(arguments.plot)


if __name__ == "__main__":
    main()
