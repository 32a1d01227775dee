"""The services that every gRPC server has, as routes: health and reflection. They need no key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from server.hosts.health import ServiceHealth
from server.rpc.context import HostCall
from server.rpc.interceptors import Sent
from server.rpc.registry import Route
from server.rpc.status import RpcFailure

__all__ = ["standard_routes"]

_HEALTH: Final = health.SERVICE_NAME
_REFLECTION: Final = reflection.SERVICE_NAME


def standard_routes(service_health: ServiceHealth, services: Sequence[str]) -> tuple[Route, ...]:
    """Routes that tell how `services` are, and of what they are made."""
    describe: Any = reflection.aio.ReflectionServicer((*services, _HEALTH, _REFLECTION)).ServerReflectionInfo

    async def check(sent: Sent, host: HostCall) -> bytes:
        reply: Message = await service_health.Check(_health_request(sent), _Context(host))
        return reply.SerializeToString()

    async def watch(sent: Sent, host: HostCall) -> None:
        await service_health.Watch(_health_request(sent), _Context(host))

    async def reflect(sent: Sent, host: HostCall) -> None:
        assert not isinstance(sent, bytes)
        async with service_health.watching():
            async for reply in describe(_reflection_requests(sent, service_health), None):
                await host.write(reply.SerializeToString())

    return (
        Route(_HEALTH, "Check", unary=check),
        Route(_HEALTH, "Watch", stream=watch),
        Route(_REFLECTION, "ServerReflectionInfo", stream=reflect, takes_stream=True),
    )


class _Context:
    """As much of grpc.aio's context as health needs."""

    def __init__(self, host: HostCall) -> None:
        self._host = host

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise RpcFailure(code, details, ())

    async def write(self, message: Message) -> None:
        await self._host.write(message.SerializeToString())


def _health_request(sent: Sent) -> Any:
    assert isinstance(sent, bytes)
    return _decoded(health_pb2.HealthCheckRequest.FromString, sent)


async def _reflection_requests(sent: AsyncIterator[bytes], service_health: ServiceHealth) -> AsyncIterator[Any]:
    while (message := await service_health.or_left(anext(sent, None))) is not None:
        yield _decoded(reflection_pb2.ServerReflectionRequest.FromString, message)


def _decoded(decode: Callable[[bytes], Message], message: bytes) -> Message:
    try:
        return decode(message)
    except DecodeError:
        raise RpcFailure(grpc.StatusCode.INVALID_ARGUMENT, "The request is no message of its type.", ()) from None
