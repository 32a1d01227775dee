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


GARBAGE = """
import gc
from collections import deque
from server.tuning import collect_only_new

loaded = [[] for _ in range(800_000)]
gc.collect()
if {frozen}:
    collect_only_new()
before, under_way, most = len(gc.get_objects()), deque(maxlen=5000), 0
for number in range(400_000):
    cycle = []
    cycle.append(cycle)
    under_way.append(cycle)  # so that it is old before it is garbage
    if number % 20_000 == 0:
        most = max(most, len(gc.get_objects()) - before)
print(most)
"""


def test_a_worker_may_open_as_many_files_as_the_machine_lets_it() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))

    told = subprocess.run((sys.executable, "-c", PROGRAM), capture_output=True, text=True, check=True, preexec_fn=lower)
    assert told.stdout.split() == [str(most), str(most)]


def most_garbage(*, frozen: bool) -> int:
    """Objects, at any of a few moments, of a process that has loaded much."""
    command = [sys.executable, "-c", GARBAGE.format(frozen=frozen)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_garbage_that_grew_old_is_found_however_much_is_loaded() -> None:
    assert most_garbage(frozen=True) < 100_000 < most_garbage(frozen=False)
