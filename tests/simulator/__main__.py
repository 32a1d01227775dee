"""Print what every scenario came to: `python -m tests.simulator`."""

from __future__ import annotations

from tests.simulator.scenarios import ALL, FROM_S, TO_S

HEAD = ("scenario", "requests", "attempts", "failed", "in trouble", "x opened after", "calls till then", "x changes")


def rows() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for scenario in ALL:
        world = scenario()
        after_s, calls = world.time_to_stop("x", 0.0 if scenario.__name__ in ("cold_start", "flapping") else FROM_S)
        found.append(
            (
                scenario.__name__,
                f"{len(world.outcomes)}",
                f"{len(world.attempts)}",
                f"{world.failed_share():.3%}",
                f"{world.failed_share(FROM_S, TO_S):.3%}",
                "-" if after_s == float("inf") else f"{after_s:.2f} s",
                "-" if after_s == float("inf") else f"{calls}",
                f"{len(world.changes('x'))}",
            )
        )
    return found


def table() -> str:
    lines = [HEAD, *rows()]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


if __name__ == "__main__":
    print(table())
