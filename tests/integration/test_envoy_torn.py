"""A body that breaks off and has no words for it looks whole to nobody: Envoy cuts it for the client as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from rest_bridge.app import RestApp
from rest_bridge.envoy import EnvoyOptions, render
from rest_bridge.errors import rest_error
from rest_bridge.http import ByteStream, Exchange, RestResponse, Route
from rest_bridge.servicer import rest_services
from server.clock import SystemClock
from server.domain.errors import internal_error
from server.hosts.grpc_aio import GrpcAioHost
from server.preflight import envoy_binary
from server.probes import unused_port
from server.rpc.interceptors import Guard
from server.rpc.registry import guarded_routes
from tests.fakes.rest import KEY, OpenDoor
from tests.fakes.typed_client import eventually

SOUND = bytes(range(256)) * 64


class Broken:
    """Pieces of a body, and then what it ends with."""

    def __init__(self, *, fails: bool) -> None:
        self._left = 3
        self._fails = fails

    def __aiter__(self) -> Broken:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        if self._left:
            self._left -= 1
            return SOUND
        if self._fails:
            raise internal_error()
        raise StopAsyncIteration

    @property
    def ended(self) -> bool:
        return False

    async def aclose(self) -> None:
        pass


async def answer(exchange: Exchange) -> RestResponse:
    kind, _, ending = exchange.body.decode().partition(" ")
    body: ByteStream = Broken(fails=ending == "torn")
    return RestResponse(200, (("content-type", kind),), body)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[str]:
    """The address of an Envoy before a worker whose embeddings answer like that."""
    config, socket, port = tmp_path / "envoy.yaml", tmp_path / "w.sock", unused_port()
    config.write_text(render(EnvoyOptions(str(tmp_path / "admin.sock"), (str(socket),), http_port=port)))
    app = RestApp(OpenDoor(), (Route("POST", "/v1/embeddings", answer),))
    guard = Guard(OpenDoor(), SystemClock(), rest_error)
    host = GrpcAioHost(guarded_routes(rest_services(app, app), guard), unix_socket=socket)
    await host.start()
    argv = [str(envoy_binary()), "-c", str(config), "--disable-hot-restart", "--log-level", "error"]
    envoy = await asyncio.create_subprocess_exec(*argv, "--concurrency", "1", stdout=asyncio.subprocess.DEVNULL)
    try:
        await asyncio.to_thread(eventually, lambda: answers(port), 20)
        yield f"http://127.0.0.1:{port}"
    finally:
        envoy.terminate()
        await envoy.wait()
        await host.stop(0)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/nothing").status_code == 404
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("is_http2", [False, True], ids=("http1", "http2"))
async def test_what_is_cut_does_not_look_whole(front: str, is_http2: bool) -> None:
    async with httpx.AsyncClient(http2=is_http2, http1=not is_http2, headers={"authorization": KEY}) as client:
        whole = await client.post(f"{front}/v1/embeddings", content=b"audio/mpeg whole")
        assert (whole.status_code, whole.headers["content-type"]) == (200, "audio/mpeg")
        assert whole.content == SOUND * 3
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(f"{front}/v1/embeddings", content=b"audio/mpeg torn")
        events = await client.post(f"{front}/v1/embeddings", content=b"text/event-stream torn")
        assert events.content == SOUND * 3, "whoever reads events misses the last one"
