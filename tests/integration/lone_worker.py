"""One worker as a process, asked over its socket as Envoy asks it: everything but Envoy itself.

With AISTATS_HOST=in-envoy it is behind a server of the tests that stands for Envoy.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.bodies import bodies
from tests.fakes.contract import Told
from tests.fakes.everything import as_all_of_openai
from tests.fakes.routes import RestRoute, TypedMethod, rest_routes

TIMEOUT_S: Final = 20.0
CONFIG: Final = """
providers:
  - {{id: acme, dialect: openai, base_url: "{acme}", apis: [chat, responses]}}
  - {{id: cinema, dialect: openai, base_url: "{films}"}}
models:
  - id: acme/test-1
    offers:
      - {{provider: acme, provider_model: test-1, endpoints: [chat, responses, messages],
          price: {{input_text_tokens: "0.15", output_text_tokens: "0.60"}}}}
  - id: acme/test-1:free
    offers: [{{provider: acme, provider_model: test-1, endpoints: [chat, responses, messages]}}]
  - id: acme/moderate:free
    offers: [{{provider: acme, provider_model: judge, endpoints: [moderations]}}]
  - id: acme/embeddings-only:free
    offers: [{{provider: acme, provider_model: embed, endpoints: [embeddings]}}]
  - id: acme/draw:free
    input_types: [text, image]
    output_types: [image]
    offers: [{{provider: acme, provider_model: draw, endpoints: [images]}}]
  - id: acme/film:free
    input_types: [text, image]
    output_types: [video]
    offers: [{{provider: cinema, provider_model: film, endpoints: [video]}}]
  - id: acme/listener:free
    output_types: [text]
    offers: [{{provider: acme, provider_model: whisper-1, endpoints: [audio]}}]
  - id: acme/speaker:free
    output_types: [audio]
    offers: [{{provider: acme, provider_model: speak, endpoints: [audio]}}]
"""


class LoneWorker(Gateway):
    """It has a team with a key of every scope, and no port."""

    def __init__(self, directory: Path, config: str) -> None:
        super().__init__(directory, config, workers=1, environ={"AISTATS_GRPC_PORT": "0"})
        (directory / "data" / "run").mkdir(0o700, parents=True)

    @property
    def command(self) -> list[str]:
        if self.is_in_envoy:
            return [sys.executable, "-m", "tests.fakes.hosted_worker", str(self.socket)]
        return [sys.executable, "-m", "server", "worker"]

    @property
    def socket(self) -> Path:
        return self.directory / "data" / "run" / "worker-0.sock"

    def _has_started(self, log: str) -> bool:
        return '"event":"serving"' in log

    def is_ready(self) -> bool:
        return True

    @cached_property
    def key(self) -> str:
        return self.create_key(scopes=("inference", "management"))

    @cached_property
    def channel(self) -> grpc.Channel:
        size = 128 * 1024 * 1024
        options = [("grpc.max_send_message_length", size), ("grpc.max_receive_message_length", size)]
        return grpc.insecure_channel(f"unix:{self.socket}", options=options)

    @cached_property
    def spare_key_id(self) -> str:
        """Of a key that may be changed."""
        return self.create_key().split("_")[3]

    @cached_property
    def response_id(self) -> str:
        """Of a response that is kept."""
        route = next(route for route in rest_routes() if str(route) == "POST /v1/responses")
        made: str = json.loads(self.rest(route, json.dumps(bodies(route)[0]).encode()).body)["id"]
        return made

    @cached_property
    def video_id(self) -> str:
        """Of a video that is complete."""
        create, get = (
            next(route for route in rest_routes() if str(route) == name)
            for name in ("POST /v1/videos", "GET /v1/videos/{video_id}")
        )
        made: str = json.loads(self.rest(create, json.dumps(bodies(create)[0]).encode()).body)["id"]
        while json.loads(self.rest(get, video_id=made).body)["status"] != "completed":
            time.sleep(0.1)
        return made

    @cached_property
    def delivery(self) -> dict[str, str]:
        """Of a webhook that may be changed."""
        create, test = (
            next(route for route in rest_routes() if str(route) == name)
            for name in ("POST /v1/webhooks", "POST /v1/webhooks/{webhook_id}/test")
        )
        made = json.loads(self.rest(create, json.dumps(bodies(create)[0]).encode()).body)["data"]
        queued: dict[str, str] = json.loads(self.rest(test, webhook_id=made["id"]).body)["data"]
        return queued

    def ids(self, route: RestRoute) -> dict[str, str]:
        """Of things that there are, for the variables of a route's path. Raises LookupError for one nobody knows."""
        known: dict[str, Callable[[], str]] = {
            "key_id": lambda: self.spare_key_id,
            "response_id": lambda: self.response_id,
            "generation_id": lambda: self.response_id,
            "video_id": lambda: self.video_id,
            "webhook_id": lambda: self.delivery["webhook_id"],
            "delivery_id": lambda: self.delivery["id"],
            "model_id": lambda: "acme/test-1",
        }
        return {name: known[name]() for name in route.variables}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)

    def stop(self) -> int:
        self.channel.close()
        return super().stop()

    def rest(self, route: RestRoute, body: bytes = b"", *, kind: str = "application/json", **fields: Any) -> Told:
        """The reply to a request that Envoy has transcoded; `fields` are the variables of its path and its query."""
        method, message = route.target, route.target.input(**fields)
        if route.body:
            held: Any = message if route.body == "*" else getattr(message, route.body)
            held.content_type, held.data = kind, body
        ask = self.channel.unary_stream(
            method.path,
            request_serializer=type(message).SerializeToString,
            response_deserializer=method.output.FromString,
        )
        call: Any = ask(message, metadata=(*self.metadata, ("x-gw-rest", "1")), timeout=TIMEOUT_S)
        pieces = list(call)
        headers = {name: value for name, value in call.initial_metadata() if isinstance(value, str)}
        headers["content-type"] = pieces[0].content_type
        status = int(headers.get("x-gw-status", "200"))
        return Told(status, headers, b"".join(piece.data for piece in pieces), route.path)

    def call(self, method: TypedMethod, message: bytes, **options: Any) -> Any:
        """What a typed method says to the bytes of a message: the first reply, or the error."""
        kinds: dict[str, Any] = {"request_serializer": bytes, "response_deserializer": method.output.FromString}
        ask: Any = self.channel.unary_stream(method.path, **kinds)
        call = ask(message, **{"metadata": self.metadata, "timeout": TIMEOUT_S, **options})
        try:
            first = next(call)
            if not method.name.startswith("Watch"):  # which would go on for ever
                deque(call, maxlen=0)
        except grpc.RpcError as failed:
            return failed
        finally:
            call.cancel()
        return first


@pytest.fixture(scope="session")
def quiet_upstream() -> Iterator[UpstreamThread]:
    """What the lone worker asks: it answers anything that can be answered."""
    upstream = UpstreamThread(default=as_all_of_openai)
    yield upstream
    upstream.close()


@pytest.fixture(scope="session")
def lone_worker(tmp_path_factory: pytest.TempPathFactory, quiet_upstream: UpstreamThread) -> Iterator[LoneWorker]:
    """In all that it is asked it may never fail in a way that it did not expect."""
    worker = LoneWorker(
        tmp_path_factory.mktemp("worker"), CONFIG.format(acme=quiet_upstream.base_url, films=quiet_upstream.films_url)
    )
    worker.create_team("default")
    assert worker.key
    worker.start()
    assert worker.delivery
    yield worker
    assert worker.stop() == 0, worker.log[-4000:]
    for said in ("unhandled_exception", "request_failed", "Traceback"):
        assert said not in worker.log
