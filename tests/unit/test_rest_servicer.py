"""The HttpBody face: REST in gRPC's clothes, and nothing lost or held back on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from google.api.httpbody_pb2 import HttpBody  # type: ignore[import-untyped]  # the package has no stubs

from aistats.gateway.v1 import responses_pb2
from rest_bridge.app import RestApp
from rest_bridge.http import Exchange, RestResponse, Route, json_response
from rest_bridge.servicer import ChatRestServicer, ResponsesRestServicer
from server.domain.errors import GatewayError, Reason
from server.domain.events import Completed
from server.domain.identity import Arrival, Call
from tests.fakes.rest import ARRIVAL, KEY, SETTLED, OpenDoor, ScriptedGenerate, chat_app, text_events, whole

BODY: dict[str, Any] = {"model": "acme/test-1", "messages": [{"role": "user", "content": "hi"}]}


class Context:
    """A call as a host would carry it; remembers what was sent before the first message."""

    def __init__(self, metadata: Mapping[str, str] | None = None) -> None:
        self.metadata = {"authorization": KEY, "content-type": "application/grpc"} if metadata is None else metadata
        self.arrival: Arrival = ARRIVAL
        self.sent: list[tuple[tuple[str, str], ...]] = []
        self.last_announced = False
        self.reason: Reason | None = None

    @property
    def call(self) -> Call:
        raise RuntimeError("the REST faces authenticate by themselves")

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self.sent.append(tuple(metadata))

    def answers_error(self, reason: Reason) -> None:
        self.reason = reason

    def announce_last_message(self) -> None:
        self.last_announced = True


def http_body(value: Any, content_type: str = "application/json") -> HttpBody:
    return HttpBody(content_type=content_type, data=value if isinstance(value, bytes) else json.dumps(value).encode())


async def post(generate: ScriptedGenerate, body: HttpBody, context: Context) -> list[HttpBody]:
    async with aclosing(ChatRestServicer(chat_app(generate)).CreateChatCompletion(body, context)) as messages:
        return [message async for message in messages]


async def test_an_object_is_one_message() -> None:
    context = Context()
    (message,) = await post(ScriptedGenerate(*whole(*text_events("a"))), http_body(BODY), context)
    assert message.content_type == "application/json"
    assert json.loads(message.data)["choices"][0]["message"]["content"] == "a"
    assert context.sent == []
    assert context.last_announced


async def test_an_error_is_a_body_with_its_status_beside() -> None:
    failed = GatewayError(Reason.UPSTREAM_RATE_LIMITED, "漢字" * 50_000, retry_after_s=3.0)
    context = Context()
    (message,) = await post(ScriptedGenerate(failed), http_body(BODY), context)
    assert json.loads(message.data)["error"] == "rate_limit_error"
    (metadata,) = context.sent
    length = str(len(message.data))
    assert dict(metadata) == {"x-gw-status": "429", "retry-after": "3", "x-gw-content-length": length}


async def test_metadata_is_short_however_long_the_error() -> None:
    context = Context()
    await post(ScriptedGenerate(GatewayError(Reason.ALL_CANDIDATES_FAILED, "漢" * 200_000)), http_body(BODY), context)
    assert sum(len(name) + len(value) for name, value in context.sent[0]) < 200


async def test_a_stream_is_sent_message_by_message() -> None:
    events = whole(*text_events("a", "b"))
    generate = ScriptedGenerate(*events[:3], 0.05, *events[3:4], 0.05, *events[4:])
    context = Context()
    servicer = ChatRestServicer(chat_app(generate))
    messages, announced = [], []
    async with aclosing(servicer.CreateChatCompletion(http_body({**BODY, "stream": True}), context)) as replies:
        async for message in replies:
            messages.append(message)
            announced.append(context.last_announced)
    assert announced == [False, False, True]
    assert [message.content_type for message in messages] == ["text/event-stream", "", ""]
    assert b"".join(message.data for message in messages).endswith(b"data: [DONE]\n\n")
    assert context.sent == []


async def test_the_first_event_does_not_wait_for_the_second() -> None:
    generate = ScriptedGenerate(*whole(*text_events("a"))[:3], 30.0)
    replies = ChatRestServicer(chat_app(generate)).CreateChatCompletion(http_body({**BODY, "stream": True}), Context())
    async with aclosing(replies):
        first = await asyncio.wait_for(anext(replies), 1.0)
        assert b'"content":"a"' in first.data
        assert generate.closed == 0
    assert generate.closed == 1


@pytest.mark.parametrize(
    ("metadata", "content_type", "status"),
    [
        ({"authorization": KEY}, "application/json", None),
        ({"authorization": KEY, "content-type": "application/grpc"}, "", None),
        ({"content-type": "application/grpc"}, "application/json", "401"),
        ({"authorization": KEY}, "text/plain", "400"),
        ({"authorization": KEY, "content-encoding": "gzip"}, "application/json", "400"),
    ],
)
async def test_headers_come_from_metadata_and_the_type_from_the_message(
    metadata: dict[str, str], content_type: str, status: str | None
) -> None:
    context = Context(metadata)
    await post(ScriptedGenerate(*whole(*text_events("a"))), http_body(BODY, content_type), context)
    assert [dict(metadata)["x-gw-status"] for metadata in context.sent] == ([status] if status else [])


class Mirror:
    """Handlers of the routes of responses that tell what they were asked."""

    async def handle(self, exchange: Exchange) -> RestResponse:
        request = exchange.request
        told = [request.method, exchange.path_params.get("response_id"), dict(request.query), exchange.body.decode()]
        return json_response(json.dumps(told).encode())

    def servicer(self) -> ResponsesRestServicer:
        methods = (
            ("POST", "/v1/responses"),
            ("GET", "/v1/responses/{response_id}"),
            ("DELETE", "/v1/responses/{response_id}"),
        )
        return ResponsesRestServicer(
            RestApp(OpenDoor(), [Route(method, path, self.handle) for method, path in methods])
        )


@pytest.mark.parametrize("response_id", ["resp_1", "a/b", "a%2Fb", "../x", "a b?c#d", "é漢"])
async def test_ids_of_a_path_arrive_as_they_were(response_id: str) -> None:
    servicer = Mirror().servicer()
    get = responses_pb2.GetResponseRestRequest(response_id=response_id, include=["a", "b"], stream=False)
    delete = responses_pb2.DeleteResponseRequest(response_id=response_id)
    told = []
    for replies in (servicer.GetResponse(get, Context()), servicer.DeleteResponse(delete, Context())):
        async with aclosing(replies):
            told.append(json.loads((await anext(replies)).data))
    assert told == [
        ["GET", response_id, {"include": ["a", "b"], "stream": ["false"]}, ""],
        ["DELETE", response_id, {}, ""],
    ]


async def test_an_empty_id_is_no_route() -> None:
    context = Context()
    replies = Mirror().servicer().GetResponse(responses_pb2.GetResponseRestRequest(), context)
    async with aclosing(replies):
        assert json.loads((await anext(replies)).data)["error"] == "not_found_error"
    assert dict(context.sent[0])["x-gw-status"] == "404"


async def test_a_body_of_responses_arrives_untouched() -> None:
    data = b'{ "input" : "\\u00e9", "z":1.50 }'
    async with aclosing(Mirror().servicer().CreateResponse(http_body(data), Context())) as replies:
        assert json.loads((await anext(replies)).data) == ["POST", None, {}, data.decode()]


async def test_everything_that_came_at_once_is_one_message() -> None:
    events = [event for batch in whole(*text_events("a", "b")) for event in batch]
    assert events[-2:] == [Completed(), SETTLED]
    messages = await post(ScriptedGenerate(events), http_body({**BODY, "stream": True}), Context())
    assert len(messages) == 1
