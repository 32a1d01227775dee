"""`make soak`: a gateway at 70 % of what it can do for half an hour, and what it held. Exit 1 on any violation."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import msgspec

from tests.chaos.run import Kind
from tests.fakes.hosting import CHOSEN
from tests.soak.run import Host, Options, run
from tests.soak.table import table

WARM_UP_SHARE = 1 / 6


def main() -> int:
    """Run it; the exit code."""
    told = _arguments()
    directory = Path(told.keep) if told.keep else Path(tempfile.mkdtemp(prefix="soak-"))
    if (directory / "gateway-0").exists():
        print(f"{directory} is in use: choose another directory for --keep", file=sys.stderr)
        return 2
    options = Options(
        directory=directory,
        host=told.host,
        database=told.database,
        minutes=told.minutes,
        warm_up_s=told.minutes * 60 * WARM_UP_SHARE if told.warm_up is None else told.warm_up,
        share=told.share / 100,
        rate=told.rate,
        seed=told.seed,
        workers=told.workers,
    )
    outcome = asyncio.run(run(options, _tell))
    print(f"\n{table(outcome)}", flush=True)
    samples = b"\n".join(map(msgspec.json.encode, [outcome.before, *outcome.samples, outcome.after]))
    (directory / "samples.jsonl").write_bytes(samples + b"\n")
    if outcome.is_clean and not told.keep:
        shutil.rmtree(directory)
    else:
        print(f"samples.jsonl, and the gateway's log and database, are in {directory}")
    return 0 if outcome.is_clean else 1


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='make soak ARGS="…"', description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of load (30)")
    parser.add_argument("--host", choices=get_args(Host), default=CHOSEN, help=f"what carries the servicers ({CHOSEN})")
    parser.add_argument("--database", choices=get_args(Kind), default="sqlite", help="(sqlite)")
    parser.add_argument("--share", type=float, default=70.0, help="per cent of what it can do (70)")
    parser.add_argument("--rate", type=float, help="requests a second instead")
    parser.add_argument("--warm-up", type=float, help="seconds of load that say nothing of growth (a sixth of all)")
    parser.add_argument("--workers", type=int, default=2, help="(2)")
    parser.add_argument("--seed", type=int, default=1, help="what the requests are derived from (1)")
    parser.add_argument("--keep", help="a directory to leave everything in")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
