"""Programs for tests of the gRPC host that need a process of their own; the first argument names one.

Each speaks through a host that carries ChatService on a scripted pipeline, and prints what it has seen as one JSON
object.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import uvloop

from aistats.gateway.v1 import chat_pb2, chat_pb2_grpc, content_pb2
from server.clock import SystemClock, UuidV7
from server.domain.identity import Arrival, Call, Principal, Scope
from server.rpc.chat import ChatServicer
from server.rpc.interceptors import Guard
from server.rpc.registry import guarded_routes
from tests.fakes.generation import ScriptedGenerate, endless, says
from tests.fakes.hosting import CHOSEN, Hosting
from tests.fakes.rpc_host import LogBook, rest_error

PART = content_pb2.ContentPart(text=content_pb2.TextPart(text="Say hello."))
REQUEST = chat_pb2.CreateChatCompletionRequest(
    model="acme/test-1", messages=[content_pb2.Message(role=content_pb2.ROLE_USER, parts=[PART])]
)


class OpenDoor:
    """A `server.domain.ports.Reception` that lets everybody in: these programs are about the host."""

    def __init__(self) -> None:
        self._clock, self._ids = SystemClock(), UuidV7()

    def arrive(
        self,
        *,
        suffix: str | None = None,
        request_id: str | None = None,
        deadline_in_s: float | None = None,
        client: str = "",
    ) -> Arrival:
        return Arrival(self._ids.new(), request_id or "req", self._clock.monotonic(), int(self._clock.now()))

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        return Call(arrival, Principal("team", "key", frozenset({scope})))


@asynccontextmanager
async def serving(generate: ScriptedGenerate, socket: Path) -> AsyncIterator[tuple[Hosting, Any]]:
    """A started host, and a stub with a connection of its own to it; the host is stopped before its client goes."""
    guard = Guard(OpenDoor(), SystemClock(), rest_error, log=LogBook().logger)
    registrations = [(chat_pb2_grpc.add_ChatServiceServicer_to_server, ChatServicer(generate))]
    host = Hosting(CHOSEN, guarded_routes(registrations, guard), unix_socket=socket)
    await host.start()
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            yield host, chat_pb2_grpc.ChatServiceStub(channel)
        finally:
            await host.stop(0.0)


async def leak(directory: Path) -> dict[str, Any]:
    """Cancel streams by the thousand: first to warm up, then to see what they leave behind."""
    generate = ScriptedGenerate()
    process = psutil.Process()

    async def cancel_one(stub: Any) -> None:
        call = stub.StreamChatCompletion(REQUEST)
        await call.read()
        call.cancel()

    sizes: list[int] = []
    calls = 0
    async with serving(generate, directory / "s") as (_, stub):
        generate.reset(*endless(), repeat_s=0.02)
        for _ in range(3):
            for _ in range(60):
                await asyncio.gather(*(cancel_one(stub) for _ in range(25)))
            until = time.monotonic() + 5
            while generate.open and time.monotonic() < until:  # noqa: ASYNC110 - the stand-in has no event for it
                await asyncio.sleep(0.01)
            calls += len(generate.requests)
            generate.requests.clear()
            sizes.append(process.memory_info().rss)
        tasks = len(asyncio.all_tasks())
    return {"open": generate.open, "calls": calls, "grown": sizes[2] - sizes[0], "tasks": tasks}


async def restart(directory: Path) -> dict[str, Any]:
    """Start and stop twenty hosts with streams under way, on the same socket."""
    slowest = 0.0
    left = 0
    for _ in range(20):
        generate = ScriptedGenerate()
        generate.reset(*endless(), repeat_s=0.005)
        async with serving(generate, directory / "s") as (_, stub):
            calls = [stub.StreamChatCompletion(REQUEST) for _ in range(10)]
            for call in calls:
                await call.read()
            before = time.monotonic()
        slowest = max(slowest, time.monotonic() - before)
        left += generate.open
    return {"slowest_s": slowest, "left": left}


async def drain(directory: Path) -> dict[str, Any]:
    """Stop with grace while a stream is under way: it ends well, and no new call is taken."""
    generate = ScriptedGenerate()
    begin, *rest = says("late")
    generate.reset(begin, 0.5, *rest)
    async with serving(generate, directory / "s") as (host, stub):
        call = stub.StreamChatCompletion(REQUEST)
        events = aiter(call)
        await anext(events)
        stopping = asyncio.create_task(host.stop(5.0))
        await asyncio.sleep(0.1)
        try:
            await stub.CreateChatCompletion(REQUEST, timeout=30)
            second = "OK"
        except grpc.aio.AioRpcError as error:
            second = error.code().name
        kinds = [event.WhichOneof("event") async for event in events]
        await stopping
        status = (await call.code()).name
    return {"kinds": kinds, "status": status, "second": second, "open": generate.open}


PROGRAMS = {"leak": leak, "restart": restart, "drain": drain}


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    print(json.dumps(uvloop.run(PROGRAMS[sys.argv[1]](Path(sys.argv[2])))))


if __name__ == "__main__":
    main()
