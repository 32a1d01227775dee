"""What the benchmarks replace in a gateway that is measured without keys, ledger and record still goes by its name."""

from __future__ import annotations

import subprocess
import sys


def test_what_is_replaced_is_there() -> None:
    program = "from bench.unmetered import replace_all; replace_all()"
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
