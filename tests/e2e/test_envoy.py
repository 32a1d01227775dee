"""The front door: what Envoy does to a request before the gateway's own code sees it, and to the reply after."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import grpc
import httpx
import pytest

from aistats.gateway.v1 import chat_pb2, chat_pb2_grpc, responses_pb2, responses_pb2_grpc
from server.preflight import envoy_binary
from tests.e2e.gateway import Gateway
from tests.e2e.test_errors import CHAT, FREE, assert_contract
from tests.e2e.test_grpc_clients import chat_request, error_info, user
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import completion, text_chunks
from tests.fakes.openai_upstream import chat_stream, error, json_reply
from tests.fakes.replies import compact, encoded, encoded_sse, error_body, sse_event
from tests.fakes.typed_client import eventually, trailers

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
Metadata = list[tuple[str, str]]
Coding = Literal["gzip", "deflate", "br"]


def test_the_committed_file_serves(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As its first lines say, but for the port."""
    tmp_path = tmp_path_factory.mktemp("front")  # short, or the sockets would not lie in it
    gateway = Gateway(tmp_path, environ={"AISTATS_DATA_DIR": "data", "AISTATS_GRPC_PORT": "0"})
    (tmp_path / "src").symlink_to(ROOT / "src")
    committed = (ROOT / "envoy.yaml").read_text()
    assert committed.count("port_value: 8080") == 1
    (tmp_path / "envoy.yaml").write_text(committed.replace("port_value: 8080", f"port_value: {gateway.http_port}"))
    (tmp_path / "data").mkdir(0o700)
    (tmp_path / "data" / "run").mkdir(0o700)
    cli = [sys.executable, "-m", "server"]
    there: dict[str, Any] = {"env": gateway.environ, "cwd": tmp_path}

    subprocess.run([*cli, "teams", "create", "default"], **there, check=True, capture_output=True)
    create = [*cli, "keys", "create", "--team", "default", "--name", "test", "--scope", "inference", "--json"]
    key = json.loads(subprocess.run(create, **there, check=True, capture_output=True).stdout)["key"]
    envoy = [str(envoy_binary()), "-c", "envoy.yaml", "--log-level", "warning", "--disable-hot-restart"]
    with (
        gateway.log_file.open("wb") as log,
        subprocess.Popen([*cli, "worker"], **there, stdout=log, stderr=log) as worker,
        subprocess.Popen(envoy, **there, stdout=log, stderr=log) as front,
    ):
        try:
            assert eventually(gateway.is_ready, 30), gateway.log
            reply = gateway.get("/v1/models", headers={"authorization": f"Bearer {key}"})
            assert reply.json()["object"] == "list"
        finally:
            front.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGTERM)
    assert (front.returncode, worker.returncode) == (0, 0)


# Browsers.


def test_a_browser_may_call_from_anywhere_and_read_what_it_needs(gateway: Gateway, acme: UpstreamThread) -> None:
    origin = {"origin": "https://app.example"}
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    for path in ("/v1/chat/completions", "/v1/models", "/aistats.gateway.v1.ChatService/CreateChatCompletion"):
        asked = httpx.options(f"{gateway.url}{path}", headers={**origin, **wanted})
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["access-control-allow-origin"] == "https://app.example"
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert {"authorization", "content-type"} <= {*asked.headers["access-control-allow-headers"].split(", ")}
    for reply in (
        gateway.post("/v1/chat/completions", {**CHAT, "stream": True}, headers={**gateway.headers, **origin}),
        gateway.get("/v1/models", headers=origin),
        gateway.get("/v1/models?limit=x", headers=origin),
    ):
        assert reply.headers.get_list("access-control-allow-origin") == [origin["origin"]]
        exposed = {*reply.headers["access-control-expose-headers"].split(", ")}
        assert {"x-generation-id", "x-request-id", "retry-after"} <= exposed
    for path in ("/v1/nothing", "/v1/chat/completions"):
        assert gateway.get(path, headers=origin).headers.get_list("access-control-allow-origin") == [origin["origin"]]
        assert "access-control-allow-origin" not in gateway.get(path).headers
    assert len(acme.requests) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"access-control-request-method": "POST"},
        {"origin": "https://app.example"},
        {"origin": "https://app.example", "access-control-request-method": ""},
    ],
)
def test_options_that_are_no_preflight_are_a_method_like_any_other(gateway: Gateway, headers: dict[str, str]) -> None:
    reply = httpx.options(f"{gateway.url}/v1/chat/completions", headers=headers)
    assert_contract(reply, 405, "method_not_allowed")
    assert_contract(httpx.options(f"{gateway.url}/v1/nothing", headers=headers), 404, "not_found_error")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/chat/completions", "POST"),
        ("/v1/responses", "POST"),
        ("/v1/responses/resp_x", "GET, DELETE"),
        ("/v1/models", "GET"),
        ("/v1/models/acme/test-1", "GET"),
        ("/v1/health", "GET"),
        ("/healthz", "GET"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_a_method_that_a_route_does_not_take(gateway: Gateway, path: str, allow: str, method: str) -> None:
    reply = httpx.request(method, f"{gateway.url}{path}")
    if method in allow.split(", "):
        assert reply.status_code != 405
        return
    assert_contract(reply, 405, "method_not_allowed", reason="method_not_allowed")
    assert reply.headers["allow"] == allow


def test_head_has_no_body_and_leaves_the_connection_usable(gateway: Gateway) -> None:
    with httpx.Client(headers=gateway.headers) as client:
        for path, status in (("/v1/models", 405), ("/v1/nothing", 404), ("/v1/models", 405)):
            reply = client.head(f"{gateway.url}{path}")
            assert (reply.status_code, reply.content) == (status, b"")
        assert client.get(f"{gateway.url}/healthz").json() == {"status": "ok"}


# What is said only inside.


def test_a_client_cannot_speak_for_the_gateways_own_parts(
    gateway: Gateway, acme: UpstreamThread, metadata: Metadata
) -> None:
    inside = {
        "x-gw-status": "299", "x-gw-error": "{}", "x-gw-query": "1", "x-gw-rest": "0", "x-gw-content-length": "3",
        "x-internal-team": "x", "x-request-id": "mine", "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-max-retries": "5", "x-envoy-retry-on": "5xx", "x-envoy-original-path": "/healthz",
    }  # fmt: skip
    acme.script(chat_stream("slow", " ", "enough", every_s=0.1))
    headers = {**gateway.headers, **inside}
    whole = gateway.post("/v1/chat/completions", {**CHAT, "stream": True}, headers=headers)
    assert whole.status_code == 200
    assert whole.text.endswith("data: [DONE]\n\n")
    assert_contract(gateway.get("/v1/models", headers=inside), 401, "authentication_error")
    assert_contract(gateway.get("/v1/nothing", headers=inside), 404, "not_found_error")
    assert_contract(gateway.get("/v1/models?limit=x", headers=headers), 400, "validation_error", param="limit")
    missing = gateway.get("/v1/models/nobody/nothing", headers=headers)
    assert_contract(missing, 404, "not_found_error", reason="unknown_model")
    for reply in (whole, missing):
        assert reply.headers["x-request-id"] != "mine"
        assert [name for name in reply.headers if name.startswith(("x-gw-", "x-internal-", "x-envoy-", "grpc-"))] == []
    assert len(acme.requests) == 1
    # Marked as REST, a native call would be answered without its rich status.
    with grpc.insecure_channel(f"127.0.0.1:{gateway.http_port}") as channel:
        call = chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion
        with pytest.raises(grpc.RpcError) as failed:
            call(chat_request("nobody/nothing"), metadata=(*metadata, ("x-gw-rest", "1")))
    assert error_info(failed.value).reason == "UNKNOWN_MODEL"


def test_a_providers_headers_stay_inside(gateway: Gateway, acme: UpstreamThread) -> None:
    said = {"x-gw-status": "418", "x-gw-error": "{}", "set-cookie": "a=b", "x-internal-x": "y", "location": "/"}
    for status, body in ((200, completion()), (400, error_body("No.", type="invalid_request_error"))):
        acme.script(json_reply(body, status=status, headers=said))
        reply = gateway.post("/v1/chat/completions", CHAT)
        assert reply.status_code == status
        assert said.keys() & reply.headers.keys() == set()


def test_grpc_on_a_rest_path_is_no_route(gateway: Gateway, metadata: Metadata) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.http_port}") as channel, pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/v1/chat/completions")(b"", metadata=metadata, timeout=30)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
    assert failed.value.details() == "There is no such route. The routes are listed in the documentation."  # type: ignore[attr-defined]


def test_an_upgrade_to_another_protocol_is_refused_in_the_one_shape(gateway: Gateway) -> None:
    headers = {**gateway.headers, "upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13"}
    assert_contract(gateway.get("/v1/models", headers=headers), 400, "validation_error")


# Text arrives as it was meant.


@pytest.mark.parametrize(
    ("query", "param", "reason"),
    [
        ("limit=abc", "limit", "invalid_value"),
        ("limit=", "limit", "invalid_value"),
        ("limit=%ZZ", "limit", "invalid_value"),
        ("limit=-1", "limit", "invalid_value"),
        ("limit=1&limit=2", "limit", "invalid_value"),
        ("limit=99999999999999999999", "limit", "invalid_value"),
        ("no%22such%5c=1", "no%22such%5c", "unknown_parameter"),
        ("status.x=1", "status", "unknown_parameter"),
        ("organisation=a%2Bb", "organisation", "invalid_value"),
    ],
)
def test_a_query_is_read_strictly_and_the_parameter_named(
    gateway: Gateway, query: str, param: str, reason: str
) -> None:
    body = assert_contract(gateway.get(f"/v1/models?{query}"), 400, "validation_error", param=param, reason=reason)
    assert "oneof" not in body["description"]
    assert "aistats" not in body["description"]


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("caf%C3%A9/a+b", "café/a+b"),
        ("a%2Fb", "a/b"),
        ("a/b%252Fc", "a/b%2Fc"),
        ("a/100%25", "a/100%"),
        ("a/%22%5C%27", "a/\"\\'"),
        ("a/b:free", "a/b:free"),
    ],
)
def test_a_path_is_decoded_once(gateway: Gateway, path: str, model: str) -> None:
    body = assert_contract(gateway.get(f"/v1/models/{path}"), 404, "not_found_error", reason="unknown_model")
    assert f'"{model}"' in body["description"]


SAID = 'Café "100%" %41 é % 漢字 \\ done'


def test_a_providers_words_are_escaped_and_unescaped_equally_often(
    gateway: Gateway, acme: UpstreamThread, channel: grpc.Channel, metadata: Metadata
) -> None:
    acme.script(*[error(400, SAID, type="invalid_request_error")] * 2)
    reply = gateway.post("/v1/chat/completions", CHAT)
    body = assert_contract(reply, 400, "validation_error")
    assert SAID in body["description"]
    assert body["upstream_error"]["message"] == SAID
    with pytest.raises(grpc.RpcError) as failed:
        chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(chat_request(), metadata=metadata, timeout=20)
    assert SAID in failed.value.details()  # type: ignore[attr-defined]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_huge_error_text_is_cut_and_keeps_its_status(
    gateway: Gateway, acme: UpstreamThread, channel: grpc.Channel, metadata: Metadata, streamed: bool
) -> None:
    huge = "漢字" * 35_000
    acme.script(*[error(400, huge, type="invalid_request_error")] * 2)
    reply = gateway.post("/v1/chat/completions", {**CHAT, "stream": streamed})
    body = assert_contract(reply, 400, "validation_error", error_origin="upstream")
    assert "漢字漢字" in body["upstream_error"]["message"]
    assert "\ufffd" not in reply.text
    assert sum(len(name) + len(value) for name, value in reply.headers.raw) < 8192
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    method: Any = chat.StreamChatCompletion if streamed else chat.CreateChatCompletion
    with pytest.raises(grpc.RpcError) as failed:
        list(method(chat_request(), metadata=metadata, timeout=20))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    sent = trailers(failed.value)
    assert sum(len(name) + len(value) for name, value in sent.items()) < 8192
    assert "漢" in failed.value.details()  # type: ignore[attr-defined]
    assert "\ufffd" not in failed.value.details()  # type: ignore[attr-defined]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_what_a_provider_compressed_arrives_readable(gateway: Gateway, acme: UpstreamThread, coding: Coding) -> None:
    events = [sse_event(compact(chunk)) for chunk in text_chunks("Hello", " there!")]
    refusal = compact(error_body("Not like this.", type="invalid_request_error"))
    acme.script(
        encoded(compact(completion("漢字 " * 500)), coding),
        encoded_sse([*events, b"data: [DONE]\n\n"], coding),
        *[encoded(refusal, coding, status=400)] * 2,
    )
    whole = gateway.post("/v1/chat/completions", CHAT)
    assert whole.json()["choices"][0]["message"]["content"] == "漢字 " * 500
    streamed = gateway.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert streamed.text.count("data: ") >= 3
    assert "Hello" in streamed.text
    for stream in (False, True):
        refused = gateway.post("/v1/chat/completions", {**CHAT, "stream": stream})
        assert "Not like this." in assert_contract(refused, 400, "validation_error")["description"]
        assert "content-encoding" not in refused.headers
    assert "content-encoding" not in whole.headers
    assert "content-encoding" not in streamed.headers


# Sizes.

SIZES = [32_769, MIB + 1, 2_500_000, 4 * MIB + 1, 63 * MIB]


def body_of(size: int, route: str) -> bytes:
    """A request of exactly so many bytes."""
    if route == "chat":
        head = f'{{"model": "{FREE}", "messages": [{{"role": "user", "content": "'.encode()
        tail = b'"}]}'
    else:
        head, tail = f'{{"model": "{FREE}", "store": false, "input": "'.encode(), b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@pytest.mark.parametrize(("route", "path"), [("chat", "/v1/chat/completions"), ("responses", "/v1/responses")])
@pytest.mark.parametrize("size", SIZES)
def test_a_large_body_is_taken(gateway: Gateway, acme: UpstreamThread, route: str, path: str, size: int) -> None:
    headers = {**gateway.headers, "content-type": "application/json"}
    reply = httpx.post(f"{gateway.url}{path}", content=body_of(size, route), headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    [request] = acme.requests
    assert len(request.body) > size - 200
    acme.reset()  # lets go of the copy


@pytest.mark.parametrize(("route", "path"), [("chat", "/v1/chat/completions"), ("responses", "/v1/responses")])
@pytest.mark.parametrize("chunked", [False, True])
def test_one_byte_too_many_is_413(gateway: Gateway, acme: UpstreamThread, route: str, path: str, chunked: bool) -> None:
    body = body_of(64 * MIB + 1, route)
    pieces = (body[at : at + MIB] for at in range(0, len(body), MIB))
    headers = {**gateway.headers, "content-type": "application/json"}
    reply = httpx.post(f"{gateway.url}{path}", content=pieces if chunked else body, headers=headers, timeout=60)
    assert_contract(reply, 413, "request_too_large", reason="request_too_large")
    assert acme.requests == []


@pytest.mark.parametrize("size", SIZES)
def test_a_large_message_is_taken(channel: grpc.Channel, metadata: Metadata, acme: UpstreamThread, size: int) -> None:
    chat, responses = chat_pb2_grpc.ChatServiceStub(channel), responses_pb2_grpc.ResponsesServiceStub(channel)
    text = "x" * size
    asked = responses_pb2.CreateResponseRequest(model=FREE, input=[user(text)], store=False)
    call: dict[str, Any] = {"metadata": metadata, "timeout": 60}
    assert chat.CreateChatCompletion(chat_request(text=text), **call).choices
    assert list(chat.StreamChatCompletion(chat_request(text=text), **call))
    assert responses.CreateResponse(asked, **call).response.output
    assert list(responses.StreamResponse(asked, **call))
    assert [len(request.body) > size for request in acme.requests] == [True] * 4
    acme.reset()


def test_too_large_a_message_is_resource_exhausted(
    channel: grpc.Channel, metadata: Metadata, acme: UpstreamThread
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(
            chat_request(text="x" * 65 * MIB), metadata=metadata, timeout=60
        )
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    assert acme.requests == []


# gRPC-web.


def grpc_web(gateway: Gateway, method: str, message: Any, headers: dict[str, str] | None = None) -> list[bytes]:
    """The frames of the reply, each with its flag: the last is the trailers."""
    data = message.SerializeToString()
    reply = httpx.post(
        f"{gateway.url}/aistats.gateway.v1.{method}",
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1", **(headers or gateway.headers)},
        content=b"\x00" + len(data).to_bytes(4) + data,
        timeout=20,
    )
    assert reply.status_code == 200
    if "grpc-status" in reply.headers:
        return [b"\x80grpc-status:" + reply.headers["grpc-status"].encode()]
    frames, rest = [], reply.content
    while rest:
        size = int.from_bytes(rest[1:5])
        frames.append(rest[:1] + rest[5 : 5 + size])
        rest = rest[5 + size :]
    return frames


def test_grpc_web_streams_and_fails_as_grpc_does(gateway: Gateway, acme: UpstreamThread) -> None:
    *messages, last = grpc_web(gateway, "ChatService/StreamChatCompletion", chat_request())
    events = [chat_pb2.StreamChatCompletionResponse.FromString(message[1:]) for message in messages]
    assert "".join(event.text_delta.text for event in events) == "Hello there!"
    assert last.startswith(b"\x80")
    assert b"grpc-status:0" in last.replace(b" ", b"")
    no_key = grpc_web(gateway, "ChatService/StreamChatCompletion", chat_request(), {"authorization": "Bearer x"})
    assert b"grpc-status:16" in no_key[-1].replace(b" ", b"")
