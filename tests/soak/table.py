"""What a soak came to, as a table for people."""

from __future__ import annotations

from tests.chaos.table import accounts, rows, verdicts
from tests.soak.run import MIB, Outcome

_HEAD = (
    f"  {'':<12}{'MiB':>7}{'MiB/h':>9}{'noise':>7}{'fds':>12}{'fds/h':>8}{'threads':>9}{'tasks':>11}{'k blocks':>14}"
)


def table(outcome: Outcome) -> str:
    """All of it."""
    options, load = outcome.options, outcome.load
    title = (
        f"{options.host}, {options.database}, seed {options.seed}: {outcome.rate:.0f} requests/s of"
        f" {outcome.maximum:.0f} at most for {options.minutes:g} min; {load.offered} offered, {load.shed} not sent;"
        f" at rest after {outcome.rest_s:.0f} s"
    )
    mistakes = [(f"{kind}", count) for kind, count in sorted(load.mistakes.items())]
    parts = [title, "", *accounts(outcome.evidence), *rows("mistakes", mistakes), "", _HEAD, *_processes(outcome)]
    first, last = outcome.before.stored, outcome.after.stored
    files = [(name, f"{first.get(name, 0) / MIB:.1f} to {size / MIB:.1f} MiB") for name, size in last.items()]
    parts += ["", *(rows("files", files) if files else []), "", *verdicts(outcome.violations)]
    return "\n".join(parts).rstrip() + "\n"


def _processes(outcome: Outcome) -> list[str]:
    """Of each process: its memory under load and how it grows; what it held at rest before and after."""
    lines = []
    for name, rss in outcome.rss.items():
        was, now = outcome.before.processes[name], outcome.after.processes[name]
        tasks = f"{was.tasks} to {now.tasks}" if was.tasks else ""
        blocks = f"{was.blocks // 1000} to {now.blocks // 1000}" if was.blocks else ""
        lines.append(
            f"  {name:<12}{rss.level / MIB:>7.1f}{rss.an_hour / MIB:>+9.1f}{rss.noise / MIB:>7.2f}"
            f"{f'{was.fds} to {now.fds}':>12}{outcome.fds[name].an_hour:>+8.1f}{now.threads:>9}{tasks:>11}{blocks:>14}"
        )
    return lines
