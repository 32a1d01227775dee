"""What a worker does to its own process."""

from __future__ import annotations

import resource
import subprocess
import sys

PROGRAM = """
import resource
from server.tuning import raise_file_limit
raise_file_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_worker_may_open_as_many_files_as_the_machine_lets_it() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))

    told = subprocess.run((sys.executable, "-c", PROGRAM), capture_output=True, text=True, check=True, preexec_fn=lower)
    assert told.stdout.split() == [str(most), str(most)]
