"""What nobody may read: keys, prompts and answers; and whom a request can make the gateway talk to."""

from __future__ import annotations

import re
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import grpc
import httpx
import pytest

from aistats.gateway.v1 import chat_pb2_grpc, content_pb2, responses_pb2, responses_pb2_grpc
from tests.e2e.conftest import config
from tests.e2e.gateway import Gateway
from tests.e2e.test_errors import CHAT, FREE, assert_contract
from tests.e2e.test_grpc_clients import chat_request, user
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import frame, role_chunk, text_chunk
from tests.fakes.openai_upstream import Cut, Hang, Reply, chat_stream, chat_unary, error, rate_limited, raw, silent, sse
from tests.fakes.replies import chunked, compact, error_body, sse_event, whole

PROVIDER_KEY = "sk-proj-Qz7vKm2XwRt9LpNsYb4HcDfGj8TaUe3oWi6"
WRONG_KEY = "aistats_v1_sk_feedfacecafe0001_" + "Vx3Jd8Rk" * 8
PROMPT = "Prompt-Canary-Zx81Qw"
ANSWER = "Answer-Canary-Lk52Vb"
WINDOW = 8
"""So many characters of a secret in a row are a leak."""

QUOTING = f"Incorrect API key provided: {PROVIDER_KEY}. Find yours at http://127.0.0.1:1/keys."


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread
) -> Iterator[Gateway]:
    """One that tells its log all that it can, and loses patience after a second."""
    settings = config(acme_upstream, backup_upstream, first_byte=1.0, idle=1.0).replace(
        "{timeout_s: 120", "{timeout_s: 2"
    )
    environ = {"ACME_KEY": PROVIDER_KEY, "AISTATS_LOG_LEVEL": "debug"}
    gateway = Gateway(tmp_path_factory.mktemp("secret"), settings, environ=environ).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


def said() -> list[bytes]:
    """A stream's beginning with an answer in it."""
    return list(frame([role_chunk(), text_chunk(ANSWER)], done=False))


def branches() -> dict[str, Reply]:
    """What the first candidate may do to a request, by name."""
    quoting = error_body(QUOTING, type="invalid_request_error", code="invalid_api_key")
    echoing = error_body(f"Your prompt {PROMPT!r} is not allowed.", type="invalid_request_error")
    return {
        "success": chat_unary(ANSWER),
        "stream": chat_stream(ANSWER, " more"),
        "key quoted with 401": whole(compact(quoting), status=401),
        "key quoted with 400": whole(compact(quoting), status=400),
        "key quoted with 500": whole(compact(quoting), status=500),
        "key quoted in part": error(403, f"The key {PROVIDER_KEY[:14]}…{PROVIDER_KEY[-9:]} has no access."),
        "key quoted in code": error(400, "No.", code=PROVIDER_KEY, param=PROVIDER_KEY),
        "key quoted in no JSON": whole(QUOTING.encode(), status=502, content_type="text/html"),
        "key quoted in a header": error(429, QUOTING, headers={"retry-after": "1", "x-key": PROVIDER_KEY}),
        "key quoted in a stream": sse([*said(), sse_event(compact(quoting))]),
        "prompt quoted with 400": whole(compact(echoing), status=400),
        "rate limit": rate_limited(),
        "overloaded": error(503, "Busy."),
        "garbage": raw(b"GARBAGE " + PROVIDER_KEY.encode() + b"\r\n\r\n"),
        "broken JSON": whole(b'{"choices": [{"message": {"content": "' + ANSWER.encode()),
        "broken stream": sse([*said(), b"data: {" + ANSWER.encode() + b"\n\n"]),
        "cut stream": chunked([*said()], end=Cut()),
        "stalled stream": chunked([*said(), Hang()]),
        "silence": silent(),
    }


IN_CHAT: dict[str, Any] = {"model": FREE, "messages": [{"role": "user", "content": PROMPT}]}
IN_RESPONSES: dict[str, Any] = {"model": FREE, "input": PROMPT, "store": False}
IN_MESSAGES: dict[str, Any] = {**IN_CHAT, "max_tokens": 100}
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", IN_CHAT),
    ("/v1/chat/completions", {**IN_CHAT, "stream": True}),
    ("/v1/chat/completions", {**IN_CHAT, "stream": True, "model": "acme/two:free"}),
    ("/v1/responses", IN_RESPONSES),
    ("/v1/responses", {**IN_RESPONSES, "stream": True}),
    ("/v1/messages", IN_MESSAGES),
    ("/v1/messages", {**IN_MESSAGES, "stream": True}),
]


def spoken(reply: httpx.Response) -> str:
    return f"{reply.headers} {reply.text}"


def native(gateway: Gateway, key: str) -> str:
    """All that a typed client is told: the messages, or every part of the error."""
    with grpc.insecure_channel(f"127.0.0.1:{gateway.http_port}") as channel:
        call = chat_pb2_grpc.ChatServiceStub(channel).StreamChatCompletion(
            chat_request(text=PROMPT), metadata=(("authorization", f"Bearer {key}"),), timeout=10
        )
        try:
            return " ".join(map(str, call))
        except grpc.RpcError as failed:
            return f"{failed.details()} {failed.trailing_metadata()} {failed}"


def leaks(text: str, secret: str) -> list[str]:
    """The pieces of `secret` that are in `text`, ids apart: they are random hexadecimal digits as keys are."""
    text = re.sub(r"(?<![0-9a-f])([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})(?![0-9a-f])", "", text)
    return [piece for at in range(len(secret) - WINDOW + 1) if (piece := secret[at : at + WINDOW]) in text]


def test_no_branch_tells_a_key_or_keeps_a_prompt(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread
) -> None:
    client_key = gateway.create_key(name="canary")
    heard: dict[str, str] = {}
    with (
        httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {client_key}"}, timeout=20) as client,
        ThreadPoolExecutor(len(WAYS) + 1) as pool,
    ):

        def ask(way: tuple[str, dict[str, Any]]) -> str:
            return spoken(client.post(way[0], json=way[1]))

        for name, reply in branches().items():
            acme.reset()
            acme.script(*[reply] * (len(WAYS) + 1))
            typed = pool.submit(native, gateway, client_key)
            for number, text in enumerate(pool.map(ask, WAYS)):
                heard[f"{name}, way {number}"] = text
            heard[f"{name}, typed"] = typed.result()
        asked: dict[str, dict[str, Any]] = {
            "no route": {"url": "/v1/nothing", "params": {"api_key": client_key}},
            "a key in the query": {"url": "/v1/models", "params": {"limit": client_key}},
            "a wrong key": {"url": "/v1/models", "headers": {"authorization": f"Bearer {WRONG_KEY}"}},
            "no text": {
                "url": "/v1/models",
                "headers": [(b"authorization", b"Bearer " + client_key.encode() + b"\xff")],
            },
            "basic": {"url": "/v1/models", "headers": {"authorization": f"Basic {client_key}"}},
            "another header": {"url": "/v1/models", "headers": {"authorization": "", "x-api-key": client_key}},
        }
        for name, options in asked.items():
            heard[name] = spoken(client.get(**options))
        dead = client.post("/v1/chat/completions", json={**CHAT, "model": "acme/dead:free"})
        heard["nobody there"] = spoken(dead)
    heard["native wrong key"] = native(gateway, WRONG_KEY)

    secrets = {
        PROVIDER_KEY: "provider's",
        client_key.rpartition("_")[2]: "client's",
        WRONG_KEY.rpartition("_")[2]: "wrong",
    }
    told = [(where, whose) for where, text in heard.items() for secret, whose in secrets.items() if leaks(text, secret)]
    assert told == []
    assert len([where for where, text in heard.items() if "[key]" in text]) > 10, "what was quoted is taken out"
    for command in (("doctor",), ("keys", "list", "--json"), ("catalog", "list"), ("catalog", "check")):
        printed = gateway.run(*command)
        assert [whose for secret, whose in secrets.items() if leaks(printed.stdout + printed.stderr, secret)] == []

    time.sleep(1.2)  # until Envoy has written its log
    log = gateway.log
    assert [whose for secret, whose in secrets.items() if leaks(log, secret)] == []
    assert PROMPT not in log
    assert ANSWER not in log
    assert [line for line in log.splitlines() if "Traceback" in line] == []
    kept = b"".join(path.read_bytes() for path in (gateway.directory / "data").glob("gateway.db*"))
    for canary in (PROMPT, ANSWER, PROVIDER_KEY, client_key.rpartition("_")[2]):
        assert canary.encode() not in kept


def test_what_is_kept_on_request_is_in_the_database_alone(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(chat_unary(ANSWER))
    reply = gateway.post("/v1/responses", {"model": FREE, "input": PROMPT})
    assert reply.status_code == 200
    with closing(sqlite3.connect(gateway.directory / "data" / "gateway.db")) as database:
        [(turns,)] = database.execute("SELECT turns_json FROM responses")
    assert PROMPT.encode() in turns
    deleted = httpx.delete(f"{gateway.base_url}/responses/{reply.json()['id']}", headers=gateway.headers)
    assert deleted.status_code == 200
    assert PROMPT not in gateway.log
    assert ANSWER not in gateway.log


# Whom a request can make the gateway talk to.


class Listener:
    """A port that counts who comes."""

    def __init__(self) -> None:
        self.visits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.visits += 1
            connection.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def sink() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()
    assert listener.visits == 0


REFUSED = ("base_url", "api_base", "api_key")
OTHERS = ("endpoint", "url", "headers", "extra_headers", "proxy", "organization")


@pytest.mark.parametrize("field", [*REFUSED, *OTHERS])
@pytest.mark.parametrize(("path", "prompt"), [("/v1/chat/completions", CHAT), ("/v1/responses", {"input": "hi"})])
def test_no_field_says_where_a_request_goes(
    gateway: Gateway, acme: UpstreamThread, sink: Listener, path: str, prompt: dict[str, Any], field: str
) -> None:
    value = {"authorization": "canary"} if "headers" in field else sink.url
    body = {**prompt, "model": FREE}
    reply = gateway.post(path, {**body, field: value})
    assert_contract(reply, 400, "validation_error", param=field, reason="unknown_parameter")
    reply = gateway.post(path, {**body, "provider_options": {"acme": {field: value}}})
    if field in REFUSED:
        assert_contract(reply, 400, "validation_error", param=f"provider_options.acme.{field}")
        assert acme.requests == []
    else:  # passed on to the provider that it is for, as one more field of the body, and to no other effect
        assert reply.status_code == 200
        [request] = acme.requests
        assert request.json[field] == value
        assert request.header("authorization") == f"Bearer {PROVIDER_KEY}"


def test_no_header_says_where_a_request_goes(gateway: Gateway, acme: UpstreamThread, sink: Listener) -> None:
    headers = {
        **gateway.headers,
        **dict.fromkeys(("x-base-url", "openai-base-url", "x-api-base", "x-custom-host", "x-upstream-url"), sink.url),
        "x-forwarded-host": f"127.0.0.1:{sink.port}",
        "x-original-host": f"127.0.0.1:{sink.port}",
        "x-envoy-original-dst-host": f"127.0.0.1:{sink.port}",
        "forwarded": f"host=127.0.0.1:{sink.port}",
        "host": f"127.0.0.1:{sink.port}",
        "proxy": sink.url,
    }
    assert gateway.post("/v1/chat/completions", CHAT, headers=headers).status_code == 200
    assert len(acme.requests) == 1


def test_links_are_passed_on_and_not_followed(gateway: Gateway, acme: UpstreamThread, sink: Listener) -> None:
    """Whoever is asked to look at a picture fetches it; what only this machine can reach stays out of reach."""
    links = [
        f"{sink.url}/cat.png",
        f"http://[::1]:{sink.port}/x",
        "http://169.254.169.254/latest/meta-data/",
        f"http://localhost:{sink.port}/",
    ]
    for link in links:
        acme.reset()
        in_chat = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": link}}]
        in_responses = [{"role": "user", "content": [{"type": "input_image", "image_url": link, "detail": "auto"}]}]
        asked = {**CHAT, "messages": [{"role": "user", "content": in_chat}]}
        assert gateway.post("/v1/chat/completions", asked).status_code == 200
        reply = gateway.post("/v1/responses", {"model": FREE, "input": in_responses, "store": False})
        assert reply.status_code == 200, reply.text
        image = content_pb2.Message(
            role=content_pb2.ROLE_USER, parts=[content_pb2.ContentPart(image=content_pb2.ImagePart(url=link))]
        )
        with grpc.insecure_channel(f"127.0.0.1:{gateway.rpc_port}") as channel:
            typed = responses_pb2.CreateResponseRequest(model=FREE, input=[user("Look."), image], store=False)
            metadata = (("authorization", f"Bearer {gateway.key}"),)
            responses_pb2_grpc.ResponsesServiceStub(channel).CreateResponse(typed, metadata=metadata, timeout=30)
        assert len(acme.requests) == 3
        for request in acme.requests:
            assert link.encode() in request.body
