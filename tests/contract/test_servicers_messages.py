"""MessagesService as a typed client sees it: the real host, guard and key check; only the pipeline is scripted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from aistats.gateway.v1 import content_pb2, messages_pb2, messages_pb2_grpc
from server.domain.events import PartKind, PartStarted, Started, TextDelta
from server.domain.request import CacheMark, Endpoint, GenerationRequest, Role, Sampling, Text, ToolResult, Turn
from server.rpc.messages import MessagesServicer
from tests.fakes.generation import ScriptedGenerate, says
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import details, refused, trailers

Stub = Any


def count_turns(request: GenerationRequest) -> int:
    return 100 * len(request.turns) + len(request.tools)


@pytest.fixture(scope="module")
def generate() -> ScriptedGenerate:
    return ScriptedGenerate()


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return messages_pb2_grpc.add_MessagesServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer(generate: ScriptedGenerate) -> MessagesServicer:
    return MessagesServicer(generate, count_turns)


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return messages_pb2_grpc.MessagesServiceStub


def text(said: str) -> content_pb2.ContentPart:
    return content_pb2.ContentPart(text=content_pb2.TextPart(text=said))


def request(**fields: Any) -> messages_pb2.CreateMessageRequest:
    message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[text("Say hello.")])
    given = {"model": "acme/test-1", "max_tokens": 100, "messages": [message], **fields}
    return messages_pb2.CreateMessageRequest(**given)


def test_a_whole_message(grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata) -> None:
    generate.reset(*says("Hel", "lo"))
    reply, call = grpc_stub.CreateMessage.with_call(request(system="Be brief."), metadata=as_inference)
    suffix = reply.id.removeprefix("msg_")
    assert trailers(call)["x-generation-id"] == f"gen_{suffix}"
    assert [part.text.text for part in reply.parts] == ["Hello"]
    assert (reply.model, reply.stop_reason) == ("acme/test-1", messages_pb2.STOP_REASON_END_TURN)
    assert (reply.usage.input_tokens, reply.meta.provider, reply.service_tier) == (9, "acme", "default")
    _, asked = generate.requests[-1]
    assert (asked.endpoint, asked.stream) == (Endpoint.MESSAGES, False)
    assert asked.turns == (Turn(Role.SYSTEM, (Text("Be brief."),)), Turn(Role.USER, (Text("Say hello."),)))
    assert asked.sampling == Sampling(max_output_tokens=100)
    assert asked.parameters == {"max_output_tokens": "max_tokens"}


def test_a_stream(grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata) -> None:
    generate.reset(*says("Hel", "lo"))
    events = list(grpc_stub.StreamMessage(request(), metadata=as_inference))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:2] == ["started", "part_started"]
    assert kinds[-2:] == ["part_ended", "completed"]
    assert events[0].started.id.startswith("msg_")
    assert "".join(event.text_delta.text for event in events) == "Hello"
    completed = events[-1].completed
    assert completed.stop_reason == messages_pb2.STOP_REASON_END_TURN
    assert completed.usage.pricing.total_nanos > 0
    assert generate.requests[-1][1].stream


def test_a_refusal_of_the_models_own_is_one_of_the_stop_reasons(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    """OpenAI's models refuse in a part of its own, and end with `stop`: REST says `refusal` of it as well."""
    generate.reset([Started(), PartStarted(0, 0, PartKind.REFUSAL), TextDelta(0, 0, "No.")], *says()[-2:])
    whole = grpc_stub.CreateMessage(request(), metadata=as_inference)
    assert (whole.parts[0].refusal.text, whole.stop_reason) == ("No.", messages_pb2.STOP_REASON_REFUSAL)
    *_, last = grpc_stub.StreamMessage(request(), metadata=as_inference)
    assert last.completed.stop_reason == messages_pb2.STOP_REASON_REFUSAL


def test_everything_that_can_be_asked(grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata) -> None:
    generate.reset(*says("a"))
    result = content_pb2.ToolResultPart(call_id="t1", content=[text("no")], is_error=True)
    marked = content_pb2.ContentPart(tool_result=result, cache_mark=content_pb2.CacheMark(ttl="1h"))
    sampling = messages_pb2.MessageSampling(temperature=0.5, top_p=0.9, top_k=40, stop_sequences=["END"])
    asked = request(
        messages=[content_pb2.Message(role=content_pb2.ROLE_TOOL, parts=[marked])],
        sampling=sampling,
        parameters_json={"service_tier": '"standard_only"', "user": '"someone"'},
    )
    grpc_stub.CreateMessage(asked, metadata=as_inference)
    made = generate.requests[-1][1]
    assert made.turns[0].parts == (ToolResult("t1", (Text("no"),), is_error=True, cache=CacheMark("1h")),)
    assert made.sampling == Sampling(temperature=0.5, top_p=0.9, stop=("END",), max_output_tokens=100)
    assert bytes(made.passthrough["top_k"]) == b"40"
    assert {name: bytes(value) for name, value in made.hints.items()} == {
        "service_tier": b'"default"',
        "user": b'"someone"',
    }
    assert set(made.parameters) == {"max_output_tokens", "temperature", "top_p", "top_k", "stop"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"sampling": messages_pb2.MessageSampling(temperature=1.5)}, "sampling.temperature"),
        ({"sampling": messages_pb2.MessageSampling(stop_sequences=[""])}, "sampling.stop_sequences"),
        ({"parameters_json": {"top_k": "1"}}, "parameters_json.top_k"),
        ({"parameters_json": {"thinking": "{}"}}, "parameters_json.thinking"),
        ({"parameters_json": {"verbosity": '"low"'}}, "parameters_json.verbosity"),
        ({"parameters_json": {"service_tier": '"flex"'}}, "parameters_json.service_tier"),
        ({"parameters_json": {"service_tier": "[]"}}, "parameters_json.service_tier"),
    ],
)
def test_what_is_wrong_is_named(grpc_stub: Stub, as_inference: Metadata, fields: dict[str, Any], param: str) -> None:
    error = refused(grpc_stub.CreateMessage, request(**fields), as_inference)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[1].metadata["param"] == param


def test_a_count(grpc_stub: Stub, as_inference: Metadata) -> None:
    tool = content_pb2.Tool(function=content_pb2.FunctionTool(name="f"))
    asked = messages_pb2.CountTokensRequest(model="m", system="s", messages=request().messages, tools=[tool])
    assert grpc_stub.CountTokens(asked, metadata=as_inference).input_tokens == 201


def test_a_key_without_the_scope_is_refused(grpc_stub: Stub, as_management: Metadata) -> None:
    error = refused(grpc_stub.CreateMessage, request(), as_management)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
