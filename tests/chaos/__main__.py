"""`make chaos`: a storm over each kind of database, and a table of what came of it. Exit 1 on any violation.

python -m tests.chaos [--database sqlite|postgres|both] [--requests N] [--clients N] [--seed N]
                      [--kill-every S] [--gateway-kills N] [--keep DIRECTORY]
python -m tests.chaos --videos [--jobs N] [--seed N] [--kill-every S] [--spread S] [--keep DIRECTORY]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import get_args

import msgspec

from tests.chaos.run import Kind, Options, Outcome, logged, run, terminal
from tests.chaos.table import table
from tests.chaos.videos import command as videos


def main() -> int:
    """Run it; the exit code."""
    if "--videos" in sys.argv[1:]:
        return videos.main([argument for argument in sys.argv[1:] if argument != "--videos"])
    told = _arguments()
    kinds = get_args(Kind) if told.database == "both" else (told.database,)
    directory = Path(told.keep) if told.keep else Path(tempfile.mkdtemp(prefix="chaos-"))
    outcomes = []
    for kind in kinds:
        under = directory / kind
        if under.exists():
            print(f"{under} exists: choose another directory for --keep", file=sys.stderr)
            return 2
        options = Options(
            database=kind,
            directory=under,
            requests=told.requests,
            clients=told.clients,
            seed=told.seed,
            kill_every_s=told.kill_every,
            gateway_kills=told.gateway_kills,
        )
        outcomes.append(outcome := asyncio.run(run(options, terminal())))
        print(f"\n{table(outcome)}", flush=True)
        _keep(outcome)
    is_clean = all(outcome.is_clean for outcome in outcomes)
    if is_clean and not told.keep:
        shutil.rmtree(directory)
    else:
        print(f"plans, logs and books are in {directory}")
    return 0 if is_clean else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--database", choices=[*get_args(Kind), "both"], default="both")
    parser.add_argument("--requests", type=int, default=2000, help="for each database")
    parser.add_argument("--clients", type=int, default=64, help="at the same time")
    parser.add_argument("--seed", type=int, default=1, help="what the plans are derived from")
    parser.add_argument("--kill-every", type=float, default=3.0, help="seconds between two kills of a worker")
    parser.add_argument("--gateway-kills", type=int, default=2, help="how often a whole gateway is killed")
    parser.add_argument("--keep", help="a directory to leave everything in")
    return parser.parse_args()


def _keep(outcome: Outcome) -> None:
    """The evidence as JSON lines, beside the gateway's own files."""
    for name, lines in logged(outcome.evidence):
        text = b"\n".join(msgspec.json.encode(line, enc_hook=repr) for line in lines)
        (outcome.options.directory / f"{name}.jsonl").write_bytes(text + b"\n")


if __name__ == "__main__":
    sys.exit(main())
