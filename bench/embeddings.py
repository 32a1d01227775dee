"""What embeddings cost: 2,048 vectors of 576 dimensions, in each encoding to each encoding, REST and typed.

    python -m bench.embeddings [--rounds 5]

Prints the section of bench/RESULTS.md. One client, one request after another: the gateway has its core to itself.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import msgspec

from aistats.gateway.v1 import embeddings_pb2, embeddings_pb2_grpc
from bench.machine import Cores, rss_bytes
from bench.stack import DIMENSIONS, Failed, Target, gateway, upstream
from server.tuning import prefer_grpc_polling, raise_file_limit

INPUTS = 2048
MB = 1_000_000
TICKS = 8
"""Processor time is told in steps of 10 ms: so many requests make one reading."""
LIMITS = [("grpc.max_receive_message_length", 256 * MB), ("grpc.max_send_message_length", 256 * MB)]

Ask = Callable[[], int]
"""Makes one request; how many bytes its answer had."""


class Cost(msgspec.Struct, frozen=True):
    """Of one way: the size of an answer, and by round what it took. `peak_bytes`: above what an idle worker has."""

    name: str
    answer_bytes: int
    seconds: list[float]
    worker_cpu_s: list[float]
    envoy_cpu_s: list[float]
    peak_bytes: int


def measure(target: Target, rounds: int) -> list[Cost]:
    costs, idle = [], rss_bytes(target.pid("worker"))
    for name, ask in _ways(target).items():
        ask()  # warm
        peak, size = _peak(target, ask) - idle, 0
        taken: dict[str, list[float]] = {"s": [], "worker": [], "envoy": []}
        for _ in range(rounds):
            began, before = time.perf_counter(), target.cpu_s()
            for _ in range(TICKS):
                size = ask()
            after = target.cpu_s()
            taken["s"].append((time.perf_counter() - began) / TICKS)
            for part in ("worker", "envoy"):
                taken[part].append((after[part] - before[part]) / TICKS)
        costs.append(Cost(name, size, taken["s"], taken["worker"], taken["envoy"], peak))
    return costs


def _ways(target: Target) -> dict[str, Ask]:
    ways: dict[str, Ask] = {}
    for upstream_form in ("base64", "float"):
        for form in ("base64", "float"):
            ways[f"provider {upstream_form}, client {form}"] = _rest(target, upstream_form, form)
        ways[f"provider {upstream_form}, typed"] = _typed(target, upstream_form)
    return ways


def _rest(target: Target, upstream_form: str, form: str) -> Ask:
    body = msgspec.json.encode(
        {"model": f"bench/embed-{upstream_form}:free", "input": ["x"] * INPUTS, "encoding_format": form}
    )

    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)
        try:
            headers = {**target.headers, "content-type": "application/json"}
            connection.request("POST", "/v1/embeddings", body, headers)
            answer = connection.getresponse()
            size = 0
            while piece := answer.read(1 << 20):
                size += len(piece)
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise Failed(f"embeddings: {answer.status}")
        return size

    return ask


def _typed(target: Target, upstream_form: str) -> Ask:
    channel = grpc.insecure_channel(f"127.0.0.1:{target.port}", options=LIMITS)
    stub: Any = embeddings_pb2_grpc.EmbeddingsServiceStub(channel)
    request = embeddings_pb2.CreateEmbeddingsRequest(model=f"bench/embed-{upstream_form}:free", texts=["x"] * INPUTS)

    def ask() -> int:
        reply = stub.CreateEmbeddings(request, metadata=tuple(target.headers.items()), timeout=60)
        return int(reply.ByteSize())

    return ask


def _peak(target: Target, ask: Ask) -> int:
    """The most memory that the worker had at a time during a request."""
    process = Path(f"/proc/{target.pid('worker')}")
    (process / "clear_refs").write_text("5")
    ask()
    status = (process / "status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def rows(costs: list[Cost]) -> list[tuple[str, ...]]:
    return [
        (
            cost.name,
            f"{cost.answer_bytes / MB:.1f}",
            f"{median(cost.seconds) * 1000:.0f}",
            f"{cost.answer_bytes / MB / median(cost.seconds):.0f}",
            f"{median(cost.worker_cpu_s) * 1000 / (cost.answer_bytes / MB):.1f}",
            f"{median(cost.envoy_cpu_s) * 1000 / (cost.answer_bytes / MB):.1f}",
            f"{median(cost.worker_cpu_s) * 1e9 / INPUTS / DIMENSIONS:.0f}",
            f"{cost.peak_bytes / cost.answer_bytes:.1f}",
        )
        for cost in costs
    ]


HEADER = ("", "MB", "ms", "MB/s", "worker ms/MB", "Envoy ms/MB", "worker ns a number", "peak bytes a byte")
TITLE = f"## Embeddings, {INPUTS:,} vectors of {DIMENSIONS} dimensions\n\n"
NOTE = (
    "\n\nOne request at a time. MB are of the answer. *provider*: what the stand-in is asked for; *client*: what the"
    " gateway is. *peak*: the most memory that the worker had during a request above that of one that has just started,"
    " over the answer's size.\n"
)


def main() -> int:
    from bench.report import table

    parser = argparse.ArgumentParser(prog="python -m bench.embeddings", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    raise_file_limit()
    prefer_grpc_polling()
    cores = Cores.choose()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="aistats-bench-") as path,
            upstream(cores) as stand_in,
            gateway(cores, Path(path) / "gateway", stand_in.port) as target,
        ):
            print(TITLE + table(HEADER, rows(measure(target, options.rounds))) + NOTE)
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
