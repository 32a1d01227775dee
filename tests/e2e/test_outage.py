"""One of three providers goes away under load: nobody who had seen nothing yet notices, and every worker knows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest

from aistats.gateway.v1 import health_pb2, health_pb2_grpc
from server.settings import Settings
from tests.e2e.gateway import Gateway
from tests.e2e.load import SURFACES, Load
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import Hang, Pause, Reply, Request, Script, chat_stream, chat_unary, error
from tests.fakes.typed_client import eventually

WORKERS = 2
NAMES = ("x", "y", "z")
OFFERS = "".join(
    f"      - {{provider: {name}, provider_model: m, endpoints: [chat, responses, messages]}}\n" for name in NAMES
)
CONFIG = """
providers:
  - {{id: x, dialect: openai, base_url: "{x}"}}
  - {{id: y, dialect: openai, base_url: "{y}"}}
  - {{id: z, dialect: openai, base_url: "{z}"}}
  - {{id: v, dialect: openai, base_url: "{x}"}}
  - {{id: w, dialect: openai, base_url: "{y}"}}
models:
  - id: acme/outage:free
    offers:
{offers}
  - id: acme/brown-out:free
    offers:
{offers}
  - id: acme/hanging:free
    offers:
{offers}
  - id: acme/failing:free
    offers:
{offers}
      - {{provider: v, provider_model: m, endpoints: [chat, responses, messages]}}
      - {{provider: w, provider_model: m, endpoints: [chat, responses, messages]}}
routing: {{timeout_s: 30, first_byte_timeout_s: 3, idle_timeout_s: 30, max_attempts: 3}}
"""
ANSWER_S = 0.1
KNOWN_S = 10.0
"""So long after a provider has gone, every worker knows."""
KNOWN_AFTER = 60
"""Or after so many requests of all clients, where the machine is too busy for more."""
BACK_WITHIN_S = 120.0
"""The back-off of 30 s, twice that if it opened twice, and a fifth more by chance."""
PATIENCE_S = 60.0


def slowly(request: Request) -> Reply:
    """Says hello in a tenth of a second, so that whoever is killed is in the middle of something."""
    if request.json.get("stream"):
        return chat_stream("Hello", " there", "!", every_s=ANSWER_S / 6)
    return [Pause(ANSWER_S), *chat_unary()]


def half_well(request: Request) -> Reply:
    """Fails more often than not."""
    return error(503) if int(request.arrived_at * 1000) % 5 < 3 else slowly(request)


@pytest.fixture(scope="module")
def upstreams() -> Iterator[list[UpstreamThread]]:
    made = [UpstreamThread() for _ in NAMES]
    yield made
    for upstream in made:
        upstream.close()


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, upstreams: list[UpstreamThread]) -> Iterator[Gateway]:
    urls = dict(zip(NAMES, (upstream.base_url for upstream in upstreams), strict=True))
    config = CONFIG.format(offers=OFFERS, **urls)
    gateway = Gateway(tmp_path_factory.mktemp("busy"), config, workers=WORKERS).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


@pytest.fixture(autouse=True)
def _well(upstreams: list[UpstreamThread]) -> None:
    for upstream in upstreams:
        upstream.reset()
        upstream.upstream.default = slowly


class Watch:
    """What each worker says of `x`, asked by its own socket."""

    def __init__(self, stack: ExitStack, gateway: Gateway, model: str) -> None:
        run_dir = Settings(data_dir=gateway.directory / "data").run_dir
        self._model = model
        self._metadata = (("authorization", f"Bearer {gateway.key}"),)
        self._stubs = [
            health_pb2_grpc.HealthServiceStub(
                stack.enter_context(grpc.insecure_channel(f"unix:{run_dir}/worker-{index}.sock"))
            )
            for index in range(WORKERS)
        ]

    def breakers(self) -> list[set[str]]:
        """The states of the breakers of `x` for the model, at each worker."""
        request = health_pb2.GetHealthRequest()
        told = [stub.GetHealth(request, metadata=self._metadata, timeout=30) for stub in self._stubs]
        return [
            {
                route.breaker
                for provider in one.providers
                if provider.id == "x"
                for route in provider.routes
                if route.model == self._model
            }
            for one in told
        ]

    def all_know(self) -> bool:
        return all("open" in states for states in self.breakers())

    def all_is_well(self) -> bool:
        return all(states == {"closed"} for states in self.breakers())


def served(load: Load, count: int) -> bool:
    """Wait until so many more requests have ended."""
    until = len(load.asked) + count
    return eventually(lambda: len(load.asked) >= until, PATIENCE_S)


@pytest.mark.timeout(300)
def test_a_provider_that_is_killed_is_not_missed_and_comes_back(busy: Gateway, upstreams: list[UpstreamThread]) -> None:
    with ExitStack() as stack:
        watch = Watch(stack, busy, "acme/outage:free")
        load = stack.enter_context(Load(busy, "acme/outage:free"))
        assert served(load, 100)
        assert all(upstream.requests for upstream in upstreams), "equals share"

        port = upstreams[0].upstream.port
        upstreams[0].close()
        killed_s, asked = time.monotonic(), len(load.asked)
        assert eventually(watch.all_know, PATIENCE_S)
        assert time.monotonic() - killed_s < KNOWN_S or len(load.asked) - asked <= KNOWN_AFTER
        for _ in range(5 * WORKERS):
            told = busy.get("/v1/health").json()
            assert told["status"] == "degraded"
            assert next(one["breaker"]["state"] for one in told["providers"] if one["id"] == "x") == "open"
        assert served(load, 100)

        load.pause_s = 0.25
        upstreams[0] = UpstreamThread(port)
        upstreams[0].upstream.default = slowly
        before = sum(len(upstream.requests) for upstream in upstreams[1:])
        assert eventually(watch.all_is_well, BACK_WITHIN_S)
        assert served(load, 100)
        others = sum(len(upstream.requests) for upstream in upstreams[1:]) - before
        assert len(upstreams[0].requests) < others / 3, "it gets less than its share at first"
        back = len(upstreams[0].requests)
        assert eventually(lambda: len(upstreams[0].requests) >= back + 30, PATIENCE_S), "and more by and by"
    assert load.failed == []
    assert {one.surface for one in load.asked if one.streamed} == set(SURFACES)
    assert {one.surface for one in load.asked if not one.streamed} == set(SURFACES)


@pytest.mark.parametrize(
    ("model", "trouble", "streams_only"),
    [
        pytest.param("acme/brown-out:free", half_well, False, id="brown-out"),
        # A whole answer may take its time: who waits for one from a provider that hangs waits until its time is up.
        pytest.param("acme/hanging:free", lambda _: [Hang()], True, id="hanging"),
    ],
)
def test_a_provider_in_trouble_is_left_before_anybody_notices(
    busy: Gateway, upstreams: list[UpstreamThread], model: str, trouble: Script, streams_only: bool
) -> None:
    with ExitStack() as stack:
        watch = Watch(stack, busy, model)
        load = stack.enter_context(Load(busy, model, streams_only=streams_only))
        assert served(load, 50)
        upstreams[0].upstream.default = trouble
        assert eventually(watch.all_know, PATIENCE_S)
        assert served(load, 100)
    assert load.failed == []


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("surface", SURFACES)
def test_r8_three_attempts_are_three_calls_by_all_who_could_retry(
    busy: Gateway, upstreams: list[UpstreamThread], surface: str, streamed: bool
) -> None:
    """Envoy and the HTTP client included; five providers could be tried."""
    for upstream in upstreams:
        upstream.upstream.default = error(503)
    path, body = SURFACES[surface]
    reply = busy.post(path, {"model": "acme/failing:free", "stream": streamed, **body})
    assert reply.status_code == 502
    assert reply.json()["attempt_count"] == 3
    assert sum(len(upstream.requests) for upstream in upstreams) == 3
