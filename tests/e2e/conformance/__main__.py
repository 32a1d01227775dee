"""`make conformance`: the SDKs that people have, against a whole gateway, and a table of what works.

Exit 1 where anything fails, and where a method of an SDK leads to a route here and no test shows it.

python -m tests.e2e.conformance [--sdk NAME] [--json | --write]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import pytest

from tests.e2e.conformance import node
from tests.e2e.conformance.cases import ELSEWHERE, SDKS, Row
from tests.e2e.conformance.table import Collector, markdown, summary, text

HERE = Path(__file__).parent
PAGE = Path("docs/conformance.md")
MARK = "<!-- Written by `make conformance ARGS=--write`. -->"


def main() -> int:
    """Run it; the exit code."""
    told = _arguments()
    chosen = [told.sdk] if told.sdk else list(SDKS)
    rows, code, log = _run([str(path) for sdk in chosen for path in sorted(HERE.glob(f"test_{sdk}*.py"))], sys.stderr)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        print(log, file=sys.stderr)
        return 1
    _print(sorted(rows, key=_place), told)
    return 0 if code == pytest.ExitCode.OK and all(row.result != "failed" for row in rows) else 1


def _place(row: Row) -> tuple[int, bool]:
    """By SDK, and within it what leads nowhere last; a test of none of them stands before them all."""
    name = row.sdk.partition(" ")[0]
    return SDKS.index(name) if name in SDKS else -1, row.result in ELSEWHERE


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sdk", choices=SDKS, help="only this one")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON instead of a table")
    how.add_argument("--write", action="store_true", help=f"also put the table into {PAGE}")
    return parser.parse_args()


def _run(files: Sequence[str], progress: TextIO) -> tuple[list[Row], int, str]:
    """What the tests in these files came to, pytest's exit code, and what it printed."""
    collector, said = Collector(progress), io.StringIO()
    with contextlib.redirect_stdout(said):
        code = pytest.main(["--quiet", "--no-header", "--tb=short", *files], plugins=[collector])
    progress.write("\n")
    return collector.rows, code, said.getvalue()


def _print(rows: Sequence[Row], told: argparse.Namespace) -> None:
    sdks = versions()
    if told.json:
        print(json.dumps({"sdks": sdks, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    print("\n".join([*text(rows), "", *summary(rows, sdks)]))
    if told.write:
        page = PAGE.read_text().partition(MARK)[0]
        PAGE.write_text("\n".join([page + MARK, *markdown(rows, sdks), ""]))


def versions() -> dict[str, str]:
    """Each SDK's own name and version, by the name that `--sdk` takes."""
    ours = {"openai": "openai", "anthropic": "anthropic", "phaseo": "phaseo", "langchain": "langchain-openai"}
    found = {name: f"{package} {version(package)}" for name, package in ours.items()}
    found["vercel"] = ", ".join(f"{package} {at}" for package, at in node.packages().items())
    return {name: found[name] for name in SDKS}


if __name__ == "__main__":
    sys.exit(main())
