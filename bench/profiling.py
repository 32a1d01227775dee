"""Where a worker's processor time goes: a py-spy sample under load, folded by part of the code."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

RATE_HZ = 250
GRACE_S = 15.0

PARTS: tuple[tuple[str, str], ...] = (
    # Native code shows as the Python frame that called it.
    ("asyncio/runners.py", "the loop itself: uvloop, and grpc's core in it"),
    (".<locals>.entry (", "the guard, and grpc's core sending below it"),
    ("rest_bridge/", "rest_bridge: JSON, SSE, HttpBody"),
    ("server/rpc/", "server.rpc: guard, typed servicers"),
    ("server/hosts/", "server.hosts"),
    ("server/pipeline/", "server.pipeline"),
    ("server/providers/", "server.providers: encode, decode"),
    ("server/transport", "server.transport"),
    ("server/storage/", "server.storage"),
    ("server/domain/", "server.domain"),
    ("server/catalogue/", "server.catalogue"),
    ("server/", "server: the rest"),
    ("pyreqwest", "pyreqwest (HTTP client)"),
    ("structlog", "structlog (access log)"),
    ("logging/", "structlog (access log)"),
    ("sqlalchemy", "sqlalchemy, aiosqlite"),
    ("aiosqlite", "sqlalchemy, aiosqlite"),
    ("sqlite3", "sqlalchemy, aiosqlite"),
    ("aistats/", "protobuf"),
    ("google/", "protobuf"),
    ("grpc/", "grpc.aio (Python and Cython)"),
    ("uvloop/", "event loop: uvloop"),
    ("asyncio/", "asyncio"),
)


def folded(pid: int, duration_s: float) -> list[tuple[str, int]]:
    """Stacks of a running process (`frame;frame;leaf`) and how often each was seen. Needs the right to trace it."""
    py_spy = Path(sys.executable).with_name("py-spy")
    with tempfile.NamedTemporaryFile(suffix=".folded") as file:
        argv = (
            *(str(py_spy), "record", "--pid", str(pid), "--duration", str(max(1, round(duration_s)))),
            *("--rate", str(RATE_HZ), "--format", "raw", "--full-filenames", "--gil", "--output", file.name),
        )
        done = subprocess.run(argv, capture_output=True, timeout=duration_s + GRACE_S, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace")[-500:])
        lines = Path(file.name).read_text(errors="replace").splitlines()
    stacks = (line.rpartition(" ") for line in lines)
    return [(stack, int(count)) for stack, _, count in stacks]


def by_part(stacks: list[tuple[str, int]]) -> list[tuple[str, float]]:
    """Each part's share of all samples, by the innermost frame, largest first."""
    counts: Counter[str] = Counter()
    for stack, count in stacks:
        counts[_part(stack.rpartition(";")[2])] += count
    total = sum(counts.values()) or 1
    return [(part, count / total) for part, count in counts.most_common()]


_ROOT = re.compile(r"\(/.*?/(?:site-packages|python3\.\d+|src)/")
"""What comes before a module's own path, which is this machine's business only."""


def by_function(stacks: list[tuple[str, int]], limit: int) -> list[tuple[str, float]]:
    """The innermost frames that were seen most, as `function (file:line)`."""
    counts: Counter[str] = Counter()
    for stack, count in stacks:
        counts[stack.rpartition(";")[2]] += count
    total = sum(counts.values()) or 1
    return [(_ROOT.sub("(", frame), count / total) for frame, count in counts.most_common(limit)]


def _part(frame: str) -> str:
    for piece, part in PARTS:
        if piece in frame:
            return part
    return "Python's library and the rest"
