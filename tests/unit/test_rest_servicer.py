"""The HttpBody face: REST in gRPC's clothes, and nothing lost or held back on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import pytest
from google.api.httpbody_pb2 import HttpBody  # type: ignore[import-untyped]  # the package has no stubs
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from aistats.gateway.v1 import chat_pb2, models_pb2, responses_pb2, videos_pb2
from rest_bridge.http import RestRequest, RestResponse, json_response
from rest_bridge.http_rule import VARIABLE, rules
from rest_bridge.servicer import RestServicer, rest_services
from server.domain.errors import GatewayError, Reason
from server.domain.events import Completed
from server.domain.identity import Arrival, Call
from tests.fakes.rest import ARRIVAL, KEY, SETTLED, ScriptedGenerate, chat_app, text_events, whole

CHAT = chat_pb2.DESCRIPTOR.services_by_name["ChatRestService"]
RESPONSES = responses_pb2.DESCRIPTOR.services_by_name["ResponsesRestService"]
MODELS = models_pb2.DESCRIPTOR.services_by_name["ModelsRestService"]
VIDEOS = videos_pb2.DESCRIPTOR.services_by_name["VideosRestService"]
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


def chat(generate: ScriptedGenerate, body: HttpBody, context: Context) -> AsyncGenerator[HttpBody, None]:
    return RestServicer(CHAT, chat_app(generate)).methods["CreateChatCompletion"](body, context)


async def post(generate: ScriptedGenerate, body: HttpBody, context: Context) -> list[HttpBody]:
    async with aclosing(chat(generate, body, context)) as messages:
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
    messages, announced = [], []
    async with aclosing(chat(generate, http_body({**BODY, "stream": True}), context)) as replies:
        async for message in replies:
            messages.append(message)
            announced.append(context.last_announced)
    assert announced == [False, False, True]
    assert [message.content_type for message in messages] == ["text/event-stream", "", ""]
    assert b"".join(message.data for message in messages).endswith(b"data: [DONE]\n\n")
    assert context.sent == []


async def test_the_first_event_does_not_wait_for_the_second() -> None:
    generate = ScriptedGenerate(*whole(*text_events("a"))[:3], 30.0)
    replies = chat(generate, http_body({**BODY, "stream": True}), Context())
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


async def mirrored(service: ServiceDescriptor, method: str, message: Message) -> list[Any]:
    """The request that a message stands for: method, path, query, body."""

    async def app(request: RestRequest) -> RestResponse:
        body = b"".join([piece async for piece in request.body])
        told.extend((request.method, request.path, dict(request.query), body.decode()))
        return json_response(b"{}")

    told: list[Any] = []
    async with aclosing(RestServicer(service, app).methods[method](message, Context())) as replies:
        await anext(replies)
    return told


@pytest.mark.parametrize("response_id", ["resp_1", "a/b", "a%2Fb", "../x", "a b?c#d", "é漢"])
async def test_ids_of_a_path_arrive_as_they_were(response_id: str) -> None:
    get = responses_pb2.GetResponseRestRequest(response_id=response_id, include=["a", "b"], stream=False)
    delete = responses_pb2.DeleteResponseRequest(response_id=response_id)
    path = f"/v1/responses/{quote(response_id, safe='')}"
    query = {"include": ("a", "b"), "stream": ("false",)}
    assert await mirrored(RESPONSES, "GetResponse", get) == ["GET", path, query, ""]
    assert await mirrored(RESPONSES, "DeleteResponse", delete) == ["DELETE", path, {}, ""]


VIDEO = videos_pb2.VideoRestRequest(video_id="a/b", body=HttpBody(content_type="application/json", data=b'{"z": 1.50}'))


@pytest.mark.parametrize(
    ("service", "method", "message", "expected"),
    [
        (RESPONSES, "CreateResponse", http_body(b'{ "z":1.50 }'), ["POST", "/v1/responses", {}, '{ "z":1.50 }']),
        (VIDEOS, "CancelVideo", VIDEO, ["POST", "/v1/videos/a%2Fb/cancel", {}, '{"z": 1.50}']),
        (
            *(VIDEOS, "DescribeContent", videos_pb2.DownloadVideoRestRequest(video_id="v", variant=["x", "x"])),
            ["HEAD", "/v1/videos/v/content", {"variant": ("x", "x")}, ""],
        ),
        (
            *(MODELS, "ListModelEndpoints", models_pb2.ListModelEndpointsRequest(model_id="a/b", if_none_match="t")),
            ["GET", "/v1/models/a%2Fb/endpoints", {"if_none_match": ("t",)}, ""],
        ),
        (MODELS, "ListModels", models_pb2.ListModelsRequest(limit=3), ["GET", "/v1/models", {"limit": ("3",)}, ""]),
    ],
)
async def test_a_message_stands_for_the_request_of_its_rule(
    service: ServiceDescriptor, method: str, message: Message, expected: list[Any]
) -> None:
    assert await mirrored(service, method, message) == expected


async def test_an_empty_id_is_no_route() -> None:
    request = responses_pb2.GetResponseRestRequest()
    assert await mirrored(RESPONSES, "GetResponse", request) == ["GET", "/v1/responses/", {}, ""]


def test_aliases_have_the_variables_and_the_body_of_their_route() -> None:
    for _, servicer in rest_services(chat_app(ScriptedGenerate()), chat_app(ScriptedGenerate())):
        assert isinstance(servicer, RestServicer)
        for method in servicer.service.methods:
            first, *aliases = rules(method.GetOptions())
            for alias in aliases:
                assert (alias[0], alias[2]) == (first[0], first[2])
                assert [m[1] for m in VARIABLE.finditer(alias[1])] == [m[1] for m in VARIABLE.finditer(first[1])]


async def test_everything_that_came_at_once_is_one_message() -> None:
    events = [event for batch in whole(*text_events("a", "b")) for event in batch]
    assert events[-2:] == [Completed(), SETTLED]
    messages = await post(ScriptedGenerate(events), http_body({**BODY, "stream": True}), Context())
    assert len(messages) == 1
