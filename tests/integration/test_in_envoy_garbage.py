"""A call inside Envoy leaves nothing behind that only a collection would find."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Any

import pytest

from server.hosts.in_envoy import InEnvoyHost
from server.hosts.wire import framed
from server.rpc.context import HostCall
from server.rpc.registry import Route
from tests.fakes.garbage import garbage

CALLS = 20


async def unary(sent: bytes | AsyncIterable[bytes], call: HostCall) -> bytes:
    await call.send_initial_metadata(())
    return b"whole"


async def stream(sent: bytes | AsyncIterable[bytes], call: HostCall) -> bytes | None:
    for _ in range(3):
        await call.write(b"piece")
    return None


async def fails(sent: bytes | AsyncIterable[bytes], call: HostCall) -> bytes:
    raise ValueError("a bug")


ROUTES = (
    Route("test", "unary", unary=unary),
    Route("test", "stream", stream=stream, takes_stream=True),
    Route("test", "fails", unary=fails),
)


async def ask(host: InEnvoyHost, method: str, body: bytes, error: OSError | None = None) -> None:
    """Call it. With `error`, that is what comes of whatever is sent: the caller has left."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    def send(event: Any) -> asyncio.Future[None]:
        sent = asyncio.get_running_loop().create_future()
        if error is None or event["type"] == "http.response.start":
            sent.set_result(None)
        else:
            sent.set_exception(error)
        return sent

    scope = {
        "type": "http",
        "path": f"/test/{method}",
        "headers": [(b"grpc-timeout", b"60S")],
        "client": ("127.0.0.1", 1),
    }
    await asyncio.create_task(host(scope, receive, send))


@pytest.mark.parametrize(
    ("method", "body"),
    [("unary", framed(b"x")), ("stream", framed(b"x")), ("fails", framed(b"x")), ("unary", b"torn")],
    ids=["unary", "a stream", "fails", "a torn message"],
)
async def test_a_call_leaves_no_garbage(method: str, body: bytes) -> None:
    host = InEnvoyHost(ROUTES)
    await ask(host, method, body)
    with garbage() as left:
        for _ in range(CALLS):
            await ask(host, method, body)
    assert left["_Call"] == left["Inbox"] == left["Task"] == 0, left


@pytest.mark.parametrize("method", ["unary", "stream"])
async def test_a_server_that_keeps_its_errors_keeps_no_call(method: str) -> None:
    error = OSError("the client has gone")
    await ask(InEnvoyHost(ROUTES), method, framed(b"x"), error)
    assert error.__traceback__ is None
