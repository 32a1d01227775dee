"""How calls inside Envoy end that do not go well, at the seam where an ASGI server calls the host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Mapping
from typing import Any

import grpc
import pytest
import structlog.testing

from server.hosts.in_envoy import InEnvoyHost
from server.rpc.context import HostCall
from server.rpc.registry import Route

REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
WITHIN_S = 30.0


class Server:
    """What calls the host for one request, and takes what is sent, but where it `stalls`: like a client that reads no
    more, that leaves whoever sends a piece of a body to wait."""

    def __init__(self, body: bytes = b"", *, stalls: bool = False) -> None:
        self.told: dict[bytes, bytes] = {}
        self.stalled = asyncio.Event()
        self._body = body
        self._stalls = stalls

    def call(self, host: InEnvoyHost, path: str, **headers: str) -> asyncio.Task[None]:
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "path": path, "headers": sent, "client": ("127.0.0.1", 1)}
        return asyncio.get_running_loop().create_task(host(scope, self._receive, self._send))

    async def _receive(self) -> Mapping[str, Any]:
        return {"type": "http.request", "body": self._body, "more_body": False}

    def _send(self, event: Mapping[str, Any]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.told.update(event.get("headers", ()))
        if self._stalls and event.get("more_body"):
            self.stalled.set()
        else:
            future.set_result(None)
        return future


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\1\0\0\0\1x", grpc.StatusCode.INTERNAL),
        (b"\0\0\0\0\5ab", grpc.StatusCode.INTERNAL),
        (b"\0\xff\xff\xff\xffx", grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
    ids=["compressed", "torn", "too large"],
)
async def test_what_is_no_message_is_nobodys_failure(frames: bytes, code: grpc.StatusCode) -> None:
    server = Server(frames)
    with structlog.testing.capture_logs() as logged:
        await server.call(InEnvoyHost(()), REFLECT)
    assert (server.told[b"grpc-status"], logged) == (b"%d" % code.value[0], [])
    assert b"message" in server.told[b"grpc-message"]


async def test_who_leaves_while_the_end_waits_to_be_sent_ends_the_call() -> None:
    """The deadline cuts a call whose headers have not gone out, since nobody reads; then the client resets."""

    async def silent(sent: bytes | AsyncIterable[bytes], call: HostCall) -> bytes:
        await call.send_initial_metadata(())
        await asyncio.Event().wait()
        raise AssertionError

    host = InEnvoyHost((Route("test", "silent", unary=silent),))
    server = Server(b"\0\0\0\0\0", stalls=True)
    task = server.call(host, "/test/silent", x_request_id="one", grpc_timeout="100m")
    async with asyncio.timeout(WITHIN_S):
        await server.stalled.wait()
        while not task.cancelling():  # noqa: ASYNC110 - the deadline is the host's own
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)  # it begins to end
        host.gone("one")
        await task
        await host.stop(WITHIN_S)
