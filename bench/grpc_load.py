"""The load generator for native gRPC: `grpc.aio` and the generated stubs, as an internal client would use them.

    python -m bench.grpc_load <<< '<GrpcLoadSpec as JSON>'

This client costs more than the gateway's own share of a call, so that it, and not the gateway, may set the pace: read
the processor time per call that comes with its figures, not the calls per second. Prints a `LoadResult` as JSON.
"""

from __future__ import annotations

import asyncio
import sys
import time

import grpc.aio
import msgspec
import uvloop

from aistats.gateway.v1 import chat_pb2, chat_pb2_grpc, content_pb2
from bench.load import LoadResult, Spread


class GrpcLoadSpec(msgspec.Struct, frozen=True):
    """`connections` calls are under way at a time, on one channel each four."""

    port: int
    model: str
    authorization: str
    stream: bool = False
    connections: int = 32
    duration_s: float = 2.0


CALLS_A_CHANNEL = 4


class Totals:
    """What all callers add up to."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.first_events: list[float] = []
        self.events = 0
        self.failed = 0


async def call(stub: chat_pb2_grpc.ChatServiceAsyncStub, spec: GrpcLoadSpec, totals: Totals, ends_at_s: float) -> None:
    """One caller: a call after the other until the time is over."""
    request = chat_pb2.CreateChatCompletionRequest(
        model=spec.model,
        messages=[
            content_pb2.Message(
                role=content_pb2.ROLE_USER,
                parts=[content_pb2.ContentPart(text=content_pb2.TextPart(text="Say hello."))],
            )
        ],
    )
    metadata = (("authorization", spec.authorization),)
    while time.monotonic() < ends_at_s:
        sent_s = time.monotonic()
        try:
            if spec.stream:
                first = True
                async for _ in stub.StreamChatCompletion(request, metadata=metadata):
                    if first:
                        totals.first_events.append(time.monotonic() - sent_s)
                        first = False
                    totals.events += 1
            else:
                await stub.CreateChatCompletion(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if not totals.failed:
                print(error, file=sys.stderr)
            totals.failed += 1
            return
        totals.latencies.append(time.monotonic() - sent_s)


async def run(spec: GrpcLoadSpec) -> LoadResult:
    totals = Totals()
    # Without a pool of its own each channel would share one connection with the others.
    options = [("grpc.use_local_subchannel_pool", 1)]
    count = max(1, spec.connections // CALLS_A_CHANNEL)
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{spec.port}", options=options) for _ in range(count)]
    stubs = [chat_pb2_grpc.ChatServiceStub(channel) for channel in channels]
    started_s = time.monotonic()
    ends_at_s = started_s + spec.duration_s
    await asyncio.gather(*(call(stubs[number % count], spec, totals, ends_at_s) for number in range(spec.connections)))
    elapsed_s = time.monotonic() - started_s
    for channel in channels:
        await channel.close()
    return LoadResult(
        requests=len(totals.latencies),
        failed=totals.failed,
        elapsed_s=elapsed_s,
        latency=Spread.of(totals.latencies),
        first_event=Spread.of(totals.first_events),
        events=totals.events,
    )


def main() -> None:
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=GrpcLoadSpec)
    print(msgspec.json.encode(uvloop.run(run(spec))).decode())


if __name__ == "__main__":
    main()
