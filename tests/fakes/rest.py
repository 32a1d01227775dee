"""What a REST surface stands between, played by scripts: a pipeline that says what it is told to, and a reception."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from rest_bridge.app import RestApp
from rest_bridge.chat import ChatRest
from rest_bridge.http import RestRequest, RestResponse
from server.domain.errors import GatewayError, Reason
from server.domain.events import (
    ChoiceEnded,
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationStream,
    PartEnded,
    PartKind,
    PartStarted,
    Settled,
    Started,
    TextDelta,
)
from server.domain.identity import Arrival, Call, Principal, Scope
from server.domain.money import Pricing, PricingLine
from server.domain.request import GenerationRequest
from server.domain.usage import Meta, RoutingRow, Usage

KEY = "Bearer aistats_v1_sk_kid_secret"
SUFFIX = "0199a1b2c3d4e5f60718293a4b5c6d7e"
ARRIVAL = Arrival(suffix=SUFFIX, request_id="req-1", received_s=1.0, created_at=1_790_000_000)
PRICING = Pricing(
    (
        PricingLine("input_text_tokens", 9, 200_000_000, 1800),
        PricingLine("output_text_tokens", 3, 800_000_000, 2400),
    ),
    4200,
)
PRICING_JSON = {
    "currency": "USD",
    "total_nanos": 4200,
    "total_usd": "0.0000042",
    "lines": [
        {
            "dimension": "input_text_tokens",
            "quantity": 9,
            "unit_size": 1_000_000,
            "unit_price_usd": "0.20",
            "line_nanos": 1800,
            "line_usd": "0.0000018",
        },
        {
            "dimension": "output_text_tokens",
            "quantity": 3,
            "unit_size": 1_000_000,
            "unit_price_usd": "0.80",
            "line_nanos": 2400,
            "line_usd": "0.0000024",
        },
    ],
}
USAGE = Usage(input_tokens=9, output_tokens=3, cached_input_tokens=2, reasoning_tokens=1, pricing=PRICING)
META = Meta(
    provider="acme",
    provider_model="test-1",
    native_response_id="native-1",
    latency_ms=1.5,
    generation_ms=20.0,
    throughput_tps=61.2,
    gateway_ms=0.7,
    attempts=1,
    routing=(RoutingRow("acme", "chosen", 1.0),),
)
STARTED = Started("native-1", "test-1", "fp_1")
SETTLED = Settled(USAGE, META, "default")

Batch = Sequence[GenerationEvent]
Step = Batch | Exception | float


def text_events(*pieces: str, choice: int = 0, reason: FinishReason = FinishReason.STOP) -> list[GenerationEvent]:
    """One choice with one text part."""
    return [
        PartStarted(choice, 0, PartKind.TEXT),
        *(TextDelta(choice, 0, piece) for piece in pieces),
        PartEnded(choice, 0),
        ChoiceEnded(choice, reason, reason.value),
    ]


def whole(*events: GenerationEvent) -> list[Batch]:
    """A generation that says `events`, one in a batch."""
    return [[event] for event in (STARTED, *events, Completed(), SETTLED)]


class ScriptedGenerate:
    """A pipeline that plays `steps`: batches, seconds of silence, or an error to raise. Remembers what it was asked."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.requests: list[GenerationRequest] = []
        self.calls: list[Call] = []
        self.closed = 0
        self.yielded = 0

    async def __call__(self, call: Call, request: GenerationRequest) -> GenerationStream:
        self.calls.append(call)
        self.requests.append(request)
        try:
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    self.yielded += 1
                    yield step
        finally:
            self.closed += 1


class OpenDoor:
    """A reception that knows one key."""

    def arrive(
        self,
        *,
        suffix: str | None = None,
        request_id: str | None = None,
        deadline_in_s: float | None = None,
        client: str = "",
    ) -> Arrival:
        return msgspec.structs.replace(ARRIVAL, request_id=request_id or ARRIVAL.request_id)

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        if authorization != KEY:
            raise GatewayError(Reason.INVALID_API_KEY, "The API key is missing or not valid.")
        return Call(arrival, Principal("team-1", "key-1", frozenset({scope})))


class Reply(msgspec.Struct, frozen=True):
    """A response that has been read to its end; `pieces` are its body as it came."""

    status: int
    headers: dict[str, str]
    pieces: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of each server-sent event, decoded; `[DONE]` as text."""
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        data = [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]
        return [text if text == "[DONE]" else json.loads(text) for text in data]


def chat_app(generate: ScriptedGenerate, *, ping_interval_s: float = 15.0) -> RestApp:
    return RestApp(OpenDoor(), ChatRest(generate, ping_interval_s=ping_interval_s).routes())


def rest_request(
    body: bytes | Any = b"",
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    headers: Mapping[str, str] | None = None,
) -> RestRequest:
    """A request with the right key; `body` is bytes, or what is to be sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"authorization": KEY, "content-type": "application/json"} if headers is None else dict(headers)
    return RestRequest(method=method, path=path, headers=sent, body=pieces_of(data), arrival=ARRIVAL)


async def pieces_of(data: bytes, size: int = 1 << 20) -> AsyncIterator[bytes]:
    for start in range(0, max(len(data), 1), size):
        yield data[start : start + size]


async def read(response: RestResponse) -> Reply:
    if isinstance(response.body, bytes):
        return Reply(response.status, dict(response.headers), (response.body,))
    async with aclosing(response.body) as body:
        return Reply(response.status, dict(response.headers), tuple([piece async for piece in body]))


async def post_chat(generate: ScriptedGenerate, body: bytes | Any, *, ping_interval_s: float = 15.0) -> Reply:
    app = chat_app(generate, ping_interval_s=ping_interval_s)
    return await read(await app(rest_request(body)))
