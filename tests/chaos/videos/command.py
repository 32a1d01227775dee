"""`make chaos ARGS=--videos`: videos under `kill -9`, and a table of what came of it. Exit 1 on any violation.

python -m tests.chaos --videos [--jobs N] [--seed N] [--kill-every S] [--spread S] [--keep DIRECTORY]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.chaos.run import terminal
from tests.chaos.videos.run import Options, Outcome, run
from tests.chaos.videos.table import table


def main(arguments: list[str]) -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos --videos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200, help="how many videos")
    parser.add_argument("--seed", type=int, default=1, help="what the plans are derived from")
    parser.add_argument("--kill-every", type=float, default=2.0, help="seconds between two kills of a gateway")
    parser.add_argument("--spread", type=float, default=75.0, help="seconds over which the videos begin")
    parser.add_argument("--keep", help="a directory to leave everything in")
    told = parser.parse_args(arguments)
    directory = Path(told.keep) if told.keep else Path(tempfile.mkdtemp(prefix="chaos-"))
    if (directory / "videos").exists():
        print(f"{directory / 'videos'} exists: choose another directory for --keep", file=sys.stderr)
        return 2
    options = Options(
        directory=directory / "videos",
        videos=told.jobs,
        seed=told.seed,
        spread_s=told.spread,
        kill_every_s=told.kill_every,
    )
    outcome = asyncio.run(run(options, terminal()))
    print(f"\n{table(outcome)}", flush=True)
    _keep(outcome)
    if outcome.is_clean and not told.keep:
        shutil.rmtree(directory)
    else:
        print(f"plans, logs and books are in {directory}")
    return 0 if outcome.is_clean else 1


def _keep(outcome: Outcome) -> None:
    """The evidence as JSON lines, beside the gateways' own files."""
    evidence = outcome.evidence
    logs = {
        "plans": evidence.films.values(),
        "told": evidence.told,
        "begun": evidence.begun,
        "jobs": evidence.rows,
        "entries": evidence.books.entries,
        "records": evidence.books.records,
    }
    for name, lines in logs.items():
        text = b"\n".join(msgspec.json.encode(line, enc_hook=repr) for line in lines)
        (outcome.options.directory / f"{name}.jsonl").write_bytes(text + b"\n")
