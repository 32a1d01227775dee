"""Whatever becomes of a call behind Envoy, a REST client is told in the one shape, even if nobody behind it speaks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import grpc
import httpx
import pytest

from rest_bridge.envoy import EnvoyOptions, render
from server.preflight import envoy_binary
from server.probes import unused_port
from tests.fakes.typed_client import eventually

CODES = {code.name: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


class Speechless(grpc.GenericRpcHandler):
    """Ends each call with the code that the caller names, and with nothing that Envoy could tell a REST client."""

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        wanted = next((value for name, value in call.invocation_metadata if name == "x-code"), "UNAVAILABLE")

        def end(_: bytes, context: grpc.ServicerContext) -> NoReturn:
            context.abort(CODES[str(wanted)], "secret words of a library in /some/path.cc")
            raise AssertionError

        return grpc.unary_stream_rpc_method_handler(end)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an Envoy with that behind it."""
    directory, port = tmp_path_factory.mktemp("speechless"), unused_port()
    config, worker = directory / "envoy.yaml", directory / "worker.sock"
    config.write_text(render(EnvoyOptions(str(directory / "admin.sock"), (str(worker),), http_port=port)))
    server = grpc.server(ThreadPoolExecutor(4), handlers=(Speechless(),))
    server.add_insecure_port(f"unix:{worker}")
    server.start()
    argv = [str(envoy_binary()), "-c", str(config), "--disable-hot-restart", "--log-level", "error"]
    argv += ["--concurrency", "1"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as envoy:
        try:
            assert eventually(lambda: answers(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            envoy.terminate()
            server.stop(None).wait()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/nothing").status_code == 404
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/v1/models")])
@pytest.mark.parametrize("code", CODES)
def test_a_call_that_ends_without_a_word_is_an_error_of_the_contract(
    front: str, method: str, path: str, code: str
) -> None:
    reply = httpx.request(method, f"{front}{path}", headers={"x-code": code})
    status, error, reason = {
        "UNAVAILABLE": (503, "unavailable_error", "overloaded"),
        "RESOURCE_EXHAUSTED": (503, "unavailable_error", "overloaded"),
        "CANCELLED": (503, "unavailable_error", "overloaded"),
        "DEADLINE_EXCEEDED": (504, "timeout_error", "deadline_exceeded"),
    }.get(code, (500, "server_error", "internal"))
    body = reply.json()
    assert (reply.status_code, body["status_code"], body["error"], body["reason"]) == (status, status, error, reason)
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["content-length"]) == len(reply.content)
    assert body["generation_id"] == reply.headers["x-generation-id"]
    assert (body["error_type"], body["error_origin"], body["param"], body["details"]) == ("system", "gateway", None, [])
    assert "secret" not in str(reply.headers) + reply.text
    assert not [name for name in reply.headers if name.startswith(("grpc-", "x-gw-"))]


@pytest.mark.parametrize("code", CODES)
def test_a_native_client_gets_the_status_itself(front: str, code: str) -> None:
    with grpc.insecure_channel(front.removeprefix("http://")) as channel:
        call = channel.unary_unary("/aistats.gateway.v1.ModelsService/ListModels")
        with pytest.raises(grpc.RpcError) as failed:
            call(b"", metadata=(("x-code", code),), timeout=30)
    assert failed.value.code() is CODES[code]


def test_a_native_client_gets_envoys_own_errors_as_a_sentence(front: str, tmp_path: Path) -> None:
    """There is no worker at all: what Envoy says to that has the shape of REST, of which gRPC has no use."""
    config, port = tmp_path / "envoy.yaml", unused_port()
    config.write_text(
        render(EnvoyOptions(str(tmp_path / "admin.sock"), (str(tmp_path / "none.sock"),), http_port=port))
    )
    argv = [str(envoy_binary()), "-c", str(config), "--disable-hot-restart", "--log-level", "error"]
    with subprocess.Popen([*argv, "--concurrency", "1"], stdout=subprocess.DEVNULL) as envoy:
        try:
            assert eventually(lambda: answers(port))
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary("/aistats.gateway.v1.ModelsService/ListModels")
                with pytest.raises(grpc.RpcError) as failed:
                    call(b"", timeout=30)
            rest = httpx.get(f"http://127.0.0.1:{port}/v1/models")
        finally:
            envoy.terminate()
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert failed.value.details() == "The gateway cannot serve this request now. Retry with back-off."
    assert (rest.status_code, rest.json()["error"]) == (503, "unavailable_error")
