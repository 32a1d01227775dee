"""The gRPC host over time, each in a process of its own: what thousands of calls and twenty restarts leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest


async def run(program: str, directory: Path) -> dict[str, Any]:
    """What the program saw; nothing may be logged, on any of its loggers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tests.integration.grpc_host_process"),
        *(program, str(directory)),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), 90)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert stderr.decode() == ""
    assert process.returncode == 0
    seen: dict[str, Any] = json.loads(stdout)
    return seen


@pytest.mark.slow
async def test_cancelled_streams_leave_nothing_behind(tmp_path: Path) -> None:
    seen = await run("leak", tmp_path)
    assert seen["calls"] == 4500
    assert seen["open"] == 0
    assert seen["tasks"] < 20
    # A call that is leaked leaves several KB: 3,000 of them would show as 20 MB and more.
    assert seen["grown"] < 8_000_000


async def test_twenty_starts_and_stops_on_one_socket(tmp_path: Path) -> None:
    seen = await run("restart", tmp_path)
    assert seen["left"] == 0
    assert seen["slowest_s"] < 10


async def test_a_drain_lets_streams_end_and_takes_no_more(tmp_path: Path) -> None:
    seen = await run("drain", tmp_path)
    assert seen["kinds"] == ["part_started", "text_delta", "part_ended", "choice_ended", "completed"]
    assert (seen["status"], seen["second"], seen["open"]) == ("OK", "UNAVAILABLE", 0)
