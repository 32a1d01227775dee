"""Calls whose callers send streams, on a real gRPC host: the same guard, and no sender is far ahead of its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.api.httpbody_pb2 import HttpBody  # type: ignore[import-untyped]  # the package has no stubs

from rest_bridge.app import RestApp
from rest_bridge.http import Exchange, RestResponse, Route, json_response
from rest_bridge.servicer import serve
from server.clock import SystemClock
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Arrival, Call, Scope
from server.domain.request import Endpoint
from server.hosts import grpc_aio
from server.hosts.grpc_aio import MAX_UNREAD_BYTES
from server.rpc.context import CallContext
from server.rpc.interceptors import Guard, Method
from server.rpc.registry import Route as RpcRoute
from tests.fakes.hosting import KINDS, Hosting
from tests.fakes.rest import KEY, OpenDoor
from tests.fakes.rpc_host import LogBook, rest_error

ALLOWED = (("authorization", KEY),)
PIECE = b"x" * 100_000
MAX_CALLS = 100
SERVICE = "test.Streams"
HELD_BYTES = 2 * MAX_UNREAD_BYTES + 8 * 1024 * 1024
"""What both ends and two sockets may hold."""


class Sums:
    """Counts the bytes that it is sent. `gate` is what it waits for after its first message."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.ended: list[int] = []
        self.cancelled = asyncio.Event()

    async def Sum(self, messages: AsyncIterator[HttpBody], context: CallContext) -> HttpBody:
        total = 0
        try:
            async for message in messages:
                total += len(message.data)
                self.begun.set()
                await self.gate.wait()
                if total > 10_000_000:
                    raise GatewayError(Reason.REQUEST_TOO_LARGE, "Too much.", param="chunk")
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.ended.append(total)
        return HttpBody(data=b"%d" % total)

    async def Echo(self, messages: AsyncIterator[HttpBody], context: CallContext) -> AsyncGenerator[HttpBody, None]:
        async for message in messages:
            yield HttpBody(data=message.data)


class Uploads:
    async def handle(self, exchange: Exchange) -> RestResponse:
        if exchange.form is None:
            return json_response(b'{"json":%d}' % len(exchange.body))
        (name, upload), *_ = exchange.form.files
        read = sum([len(piece) async for piece in upload.pieces()])
        return json_response(b'{"%s":%d}' % (name.encode(), read))


def upload_to(app: RestApp) -> Callable[[AsyncIterator[HttpBody], CallContext], AsyncGenerator[HttpBody, None]]:
    return lambda messages, context: serve(app, context, "POST", "/v1/uploads", messages)


class Refused:
    """What was recorded of calls that failed."""

    def __init__(self) -> None:
        self.models: list[str] = []

    async def __call__(
        self, call: Call, endpoint: Endpoint, error: GatewayError, *, model: str = "", stream: bool = False
    ) -> None:
        self.models.append(model)


class CountingDoor(OpenDoor):
    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        self.asked.set()
        return await super().authenticate(arrival, authorization, scope)


class World:
    def __init__(self, kind: str) -> None:
        self.sums, self.log, self.door, self.refused = Sums(), LogBook(), CountingDoor(), Refused()
        self.guard = Guard(
            self.door,
            SystemClock(),
            rest_error,
            refusals=self.refused,
            log=self.log.logger,
            max_concurrent_calls=MAX_CALLS,
        )
        app = RestApp(self.door, [Route("POST", "/v1/uploads", Uploads().handle, takes_form=True)])
        decode = HttpBody.FromString
        keyed = (Scope.INFERENCE,)
        self.host = Hosting(
            kind,
            [
                RpcRoute(
                    SERVICE,
                    "Sum",
                    unary=self.guard.unary(Method(f"/{SERVICE}/Sum", keyed, Endpoint.AUDIO), self.sums.Sum, decode),
                    takes_stream=True,
                ),
                RpcRoute(
                    SERVICE,
                    "Echo",
                    stream=self.guard.stream(Method(f"/{SERVICE}/Echo", keyed), self.sums.Echo, decode),
                    takes_stream=True,
                ),
                RpcRoute(
                    SERVICE,
                    "Upload",
                    stream=self.guard.stream(Method(f"/{SERVICE}/Upload", ()), upload_to(app), decode),
                    takes_stream=True,
                    sends_bodies=True,
                ),
            ],
        )
        self.channel: grpc.aio.Channel

    def call(self, method: str, *, metadata: Any = ALLOWED, timeout: float = 30, raw: bool = False) -> Any:
        kind = self.channel.stream_unary if method == "Sum" else self.channel.stream_stream
        multi: Any = kind(
            f"/{SERVICE}/{method}",
            request_serializer=None if raw else HttpBody.SerializeToString,
            response_deserializer=HttpBody.FromString,
        )
        return multi(metadata=metadata, timeout=timeout)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():  # noqa: ASYNC110  # nobody tells of it
                await asyncio.sleep(0.01)

    async def logged(self) -> dict[str, Any]:
        await self.until(lambda: bool(self.log.lines))
        return self.log.lines[-1]


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made = World(request.param)
    await made.host.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{made.host.tcp_port}") as made.channel:
            yield made
    finally:
        await made.host.stop(0)


async def send(call: Any, *pieces: bytes, content_type: str = "") -> None:
    for piece in pieces:
        await call.write(HttpBody(content_type=content_type, data=piece))
    await call.done_writing()


async def test_a_stream_is_answered_once(world: World) -> None:
    call = world.call("Sum")
    await send(call, *[PIECE] * 50)
    assert (await call).data == b"5000000"
    told = {name for name, _ in await call.trailing_metadata()}
    assert {"x-request-id", "x-generation-id"} <= told
    assert (await world.logged())["status"] == "OK"


async def test_a_stream_is_answered_with_a_stream(world: World) -> None:
    call = world.call("Echo")
    replies = aiter(call)
    for piece in (b"a", b"b", b"c"):
        await call.write(HttpBody(data=piece))
        assert (await anext(replies)).data == piece
    await call.done_writing()
    assert [reply async for reply in replies] == []
    assert await call.code() is grpc.StatusCode.OK


async def test_an_empty_stream_is_none_the_less_a_call(world: World) -> None:
    call = world.call("Sum")
    await send(call)
    assert (await call).data == b"0"


async def test_a_fast_sender_is_held_back(world: World) -> None:
    world.sums.gate.clear()
    call, sent = world.call("Sum"), 0

    async def flood() -> None:
        nonlocal sent
        while True:
            await call.write(HttpBody(data=PIECE))
            sent += len(PIECE)

    flooding = asyncio.create_task(flood())
    await world.sums.begun.wait()
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.3)
    assert sent < HELD_BYTES
    world.sums.gate.set()
    assert (await world.logged())["status"] == "RESOURCE_EXHAUSTED"
    call.cancel()
    flooding.cancel()


async def test_the_key_is_checked_before_anything_is_read(world: World) -> None:
    call = world.call("Sum", metadata=(("authorization", "Bearer wrong"),))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call  # nothing has been sent, and the stream is open
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert world.guard.under_way == 0


async def test_what_is_no_message_is_named(world: World) -> None:
    call = world.call("Sum", raw=True)
    await call.write(HttpBody(data=b"good").SerializeToString())
    await call.write(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await world.logged())["reason"] == "malformed_request"
    assert world.refused.models == [""]


async def test_the_limit_of_calls_counts_streams(world: World) -> None:
    world.sums.gate.clear()
    calls = [world.call("Sum") for _ in range(MAX_CALLS + 1)]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asyncio.wait_for(asyncio.gather(*calls), 30)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    for call in calls:
        call.cancel()
    await world.until(lambda: not world.guard.under_way)


async def test_a_deadline_ends_a_stream_that_is_never_closed(world: World) -> None:
    call = world.call("Sum", timeout=0.5)
    await call.write(HttpBody(data=b"a"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(30):
        await world.sums.cancelled.wait()


async def test_a_caller_that_leaves_has_not_ended_its_stream(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_aio, "NEWS_OF_LEAVING_S", 5.0)
    for number in range(50):
        call = world.call("Sum")
        await call.write(HttpBody(data=b"half"))
        if number % 2:
            await world.sums.begun.wait()
        call.cancel()
    await world.until(lambda: not world.guard.under_way and world.sums.cancelled.is_set())
    assert world.sums.ended == []


# What comes through Envoy.

FORM = "multipart/form-data; boundary=cut"
HEAD = b'--cut\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'


async def bodies(call: Any) -> bytes:
    return b"".join([reply.data async for reply in call])


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
async def test_a_form_comes_in_pieces(world: World, size: int) -> None:
    call = world.call("Upload")
    body = HEAD + b"x" * size + b"\r\n--cut--\r\n"
    await call.write(HttpBody(content_type=FORM, data=body[:100_000]))
    await send(call, *(body[start : start + 100_000] for start in range(100_000, len(body), 100_000)))
    assert await bodies(call) == b'{"file":%d}' % size


async def test_json_may_come_in_pieces_as_well(world: World) -> None:
    call = world.call("Upload")
    await call.write(HttpBody(content_type="application/json; charset=utf-8", data=b'{"a"'))
    await send(call, b":1}")
    assert await bodies(call) == b'{"json":7}'


async def test_no_body_at_all_is_an_empty_one(world: World) -> None:
    call = world.call("Upload")
    await send(call)
    assert await bodies(call) == b'{"json":0}'


async def test_a_sender_without_a_key_is_answered_before_it_has_sent_anything(world: World) -> None:
    call = world.call("Upload", metadata=())
    assert b'"authentication_error"' in await bodies(call)
    assert dict(await call.initial_metadata())["x-gw-status"] == "401"


async def test_a_refusal_does_not_wait_for_the_rest(world: World) -> None:
    call = world.call("Upload")
    await call.write(HttpBody(content_type="text/plain", data=b"hello"))
    assert b'"param":"content-type"' in await bodies(call)
    assert dict(await call.initial_metadata())["x-gw-status"] == "400"
