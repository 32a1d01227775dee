"""The floor inside Envoy: what `bench.echo_worker` sends back, by two applications that `bench.hosts` has Envoy carry.

`bare` is as little as gRPC over ASGI can be; `hosted` is the gateway's own host with one method.
"""

from __future__ import annotations

from typing import Any, Final

from bench.echo_worker import SERVICE
from server.hosts.in_envoy import InEnvoyHost
from server.rpc.context import HostCall
from server.rpc.interceptors import Sent
from server.rpc.registry import Route

_HEADERS: Final = [(b"content-type", b"application/grpc")]
_TRAILERS: Final = [(b"grpc-status", b"0")]


async def bare(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    event = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True})
    await send({"type": "http.response.body", "body": event["body"], "more_body": False})
    await send({"type": "http.response.trailers", "headers": _TRAILERS})


async def _echo(sent: Sent, host: HostCall) -> bytes:
    assert isinstance(sent, bytes)
    return sent


_host: Final = InEnvoyHost([Route(SERVICE, "CreateChatCompletion", stream=_echo, sends_bodies=True)])


async def hosted(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
    else:
        await _host(scope, receive, send)


async def _live(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
