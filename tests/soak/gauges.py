"""What each process of a gateway holds at a moment: memory, descriptors, threads; and what a worker says of itself."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import httpx
import msgspec
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.gateway import Gateway

TASKS = "aistats_loop_tasks"
BLOCKS = "aistats_python_blocks"


class Reading(msgspec.Struct, frozen=True):
    """One process at one moment. `tasks` are those of its event loop and `blocks` those of memory that Python's objects
    occupy, 0 in what is no worker.
    """

    rss: int
    fds: int
    threads: int
    tasks: int = 0
    blocks: int = 0


class Gauges:
    """Reads the processes of a gateway that has started. Raises psutil.NoSuchProcess once one of them has ended."""

    def __init__(self, gateway: Gateway) -> None:
        assert gateway.process is not None
        self._gateway = gateway
        workers = {f"worker-{number}": process for number, process in enumerate(gateway.workers())}
        envoy = {} if gateway.is_in_envoy else {"envoy": gateway.envoy()}
        self._processes = {"supervisor": psutil.Process(gateway.process.pid), **envoy, **workers}

    def read(self) -> dict[str, Reading]:
        """By name of the process."""
        told = self._told()
        return {name: _reading(process, told.get(name, {})) for name, process in self._processes.items()}

    def stored(self) -> dict[str, int]:
        """Bytes of each file of the data directory that grows, by name; none of SQLite's on PostgreSQL."""
        data = Path(self._gateway.environ["AISTATS_DATA_DIR"])
        return {path.name: path.stat().st_size for path in sorted(data.glob("gateway.db*"))}

    def _told(self) -> dict[str, dict[str, float]]:
        """By worker, what it tells of itself."""
        port = self._gateway.environ["AISTATS_METRICS_PORT"]
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        told: dict[str, dict[str, float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            if family.name in (TASKS, BLOCKS):
                for sample in family.samples:
                    told[_process(sample.labels["worker"])][sample.name] = sample.value
        return told


def _process(worker: str) -> str:
    return f"worker-{worker}"


def _reading(process: psutil.Process, told: dict[str, float]) -> Reading:
    with process.oneshot():
        return Reading(
            rss=process.memory_info().rss,
            fds=process.num_fds(),
            threads=process.num_threads(),
            tasks=int(told.get(TASKS, 0)),
            blocks=int(told.get(BLOCKS, 0)),
        )
