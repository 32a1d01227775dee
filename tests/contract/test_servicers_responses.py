"""ResponsesService as a typed client sees it: the real host, guard and key check; only the pipeline is scripted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf import descriptor

from aistats.gateway.v1 import content_pb2, responses_pb2, responses_pb2_grpc
from server.clock import SystemClock
from server.domain.errors import GatewayError, Reason
from server.domain.events import (
    AnnotationAdded,
    ChoiceEnded,
    Completed,
    FinishReason,
    GenerationEvent,
    OpaqueItem,
    PartEnded,
    PartKind,
    PartStarted,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
)
from server.domain.request import Reasoning, Role, Text, ToolCall, Turn
from server.domain.response import EventType
from server.pipeline.respond import Respond
from server.rpc.responses import ResponsesServicer
from tests.fakes.generation import PRICING, SETTLED, ScriptedGenerate, says
from tests.fakes.responses_rest import MemoryStore
from tests.fakes.rpc_host import HostThread, Metadata
from tests.fakes.typed_client import details, refused, trailers

Stub = Any

EVERYTHING: tuple[GenerationEvent, ...] = (
    Started("native", "test-1"),
    PartStarted(0, 0, PartKind.REASONING_SUMMARY),
    ReasoningDelta(0, 0, "Sum"),
    PartEnded(0, 0),
    PartStarted(0, 1, PartKind.REASONING),
    ReasoningDelta(0, 1, "Raw"),
    ReasoningDelta(0, 1, "", "seal=="),
    PartEnded(0, 1),
    PartStarted(0, 2, PartKind.TEXT),
    TextDelta(0, 2, "Hi", msgspec.Raw(b'[{"token":"Hi","logprob":-0.10}]')),
    AnnotationAdded(0, 2, msgspec.Raw(b'{"type":"url_citation","url":"https://x.test"}')),
    PartEnded(0, 2),
    PartStarted(0, 3, PartKind.REFUSAL),
    TextDelta(0, 3, "No"),
    PartEnded(0, 3),
    PartStarted(0, 4, PartKind.TOOL_CALL, "call_1", "f"),
    ToolCallDelta(0, 4, '{"b": 1}'),
    PartEnded(0, 4),
    PartStarted(0, 5, PartKind.CUSTOM_TOOL_CALL, "call_2", "g"),
    ToolCallDelta(0, 5, "free"),
    PartEnded(0, 5),
    OpaqueItem(msgspec.Raw(b'{"type":"web_search_call","id":"ws_1","status":"completed"}')),
    ChoiceEnded(0, FinishReason.TOOL_CALLS, "tool_calls"),
    Completed(),
    SETTLED,
)


@pytest.fixture(scope="module")
def generate() -> ScriptedGenerate:
    return ScriptedGenerate()


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return responses_pb2_grpc.add_ResponsesServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer(generate: ScriptedGenerate, store: MemoryStore) -> ResponsesServicer:
    return ResponsesServicer(Respond(generate, store, SystemClock()))


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return responses_pb2_grpc.ResponsesServiceStub


def text_message(text: str) -> content_pb2.Message:
    part = content_pb2.ContentPart(text=content_pb2.TextPart(text=text))
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])


def request(**fields: Any) -> responses_pb2.CreateResponseRequest:
    return responses_pb2.CreateResponseRequest(model="acme/test-1", **{"input": [text_message("Say hello.")], **fields})


def test_a_whole_response(grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata) -> None:
    generate.reset(*says("Hel", "lo 你好🙂"))
    reply, call = grpc_stub.CreateResponse.with_call(request(metadata={"a": "b"}), metadata=as_inference)
    response = reply.response
    suffix = response.id.removeprefix("resp_")
    assert trailers(call)["x-generation-id"] == f"gen_{suffix}"
    assert response.status == responses_pb2.RESPONSE_STATUS_COMPLETED
    assert (response.model, response.service_tier, dict(response.metadata)) == ("acme/test-1", "default", {"a": "b"})
    assert response.created_at <= response.completed_at
    (item,) = response.output
    assert (item.id, item.status) == (f"msg_{suffix}", "completed")
    assert [part.text.text for part in item.message.parts] == ["Hello 你好🙂"]
    assert (response.usage.input_tokens, response.usage.total_tokens) == (9, 13)
    assert (response.usage.pricing.total_nanos, len(response.usage.pricing.lines)) == (PRICING.total_nanos, 1)
    assert (response.meta.provider, response.meta.attempts) == ("acme", 1)
    assert (response.incomplete_reason, response.error_code) == ("", "")


def test_a_stream_tells_every_kind_of_event(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    generate.reset(*([event] for event in EVERYTHING))
    events = list(grpc_stub.StreamResponse(request(include_logprobs=True), metadata=as_inference))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:3] == ["created", "in_progress", "output_item_added"]
    assert kinds[-1] == "completed"
    fields: Any = responses_pb2.StreamResponseResponse.DESCRIPTOR.oneofs_by_name["event"].fields
    assert set(kinds) == {field.name for field in fields} - {"incomplete"}

    by_kind = dict(zip(kinds, events, strict=True))
    assert json.loads(by_kind["output_text_delta"].output_text_delta.logprobs_json)[0]["token"] == "Hi"
    assert by_kind["function_call_arguments_done"].function_call_arguments_done.text == '{"b": 1}'
    assert by_kind["reasoning_summary_part_done"].reasoning_summary_part_done.part.reasoning.summary == ["Sum"]
    assert "https://x.test" in by_kind["output_text_annotation_added"].output_text_annotation_added.annotation_json

    final = events[-1].completed
    assert [item.WhichOneof("item") for item in final.output] == [
        "reasoning", "message", "tool_call", "tool_call", "other_json",
    ]  # fmt: skip
    reasoning, message, function, custom, search = final.output
    assert (reasoning.reasoning.text, list(reasoning.reasoning.summary)) == ("Raw", ["Sum"])
    assert reasoning.reasoning.encrypted == "seal=="
    assert [part.WhichOneof("part") for part in message.message.parts] == ["text", "refusal"]
    assert (function.tool_call.call_id, function.tool_call.arguments_json) == ("call_1", '{"b": 1}')
    assert (custom.tool_call.custom, custom.tool_call.arguments_json) == (True, "free")
    assert (search.id, search.status, json.loads(search.other_json)["type"]) == ("ws_1", "completed", "web_search_call")
    assert (
        grpc_stub.GetResponse(responses_pb2.GetResponseRequest(response_id=final.id), metadata=as_inference).response
        == final
    )


@pytest.mark.parametrize("item", [{"id": None, "status": None}, {"id": 5, "status": ["completed"]}, {}])
def test_an_item_of_a_built_in_tool_goes_on_whatever_its_provider_wrote(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata, item: dict[str, Any]
) -> None:
    """It has been paid by then, and was an internal error from then on."""
    written = msgspec.json.encode({"type": "mcp_call", **item})
    end = ChoiceEnded(0, FinishReason.STOP, "completed")
    generate.reset([Started(), OpaqueItem(msgspec.Raw(written)), end, Completed(), SETTLED])
    made = grpc_stub.CreateResponse(request(), metadata=as_inference).response
    asked = responses_pb2.GetResponseRequest(response_id=made.id)

    (told,) = made.output
    assert (told.id, told.status, told.other_json) == ("", "", written.decode())
    assert grpc_stub.GetResponse(asked, metadata=as_inference).response == made
    *_, last = grpc_stub.StreamResponse(request(), metadata=as_inference)
    assert last.completed.output[0].other_json == told.other_json


def test_every_event_of_the_domain_has_a_field_or_a_status() -> None:
    message: descriptor.Descriptor = responses_pb2.StreamResponseResponse.DESCRIPTOR
    fields = {field.name for field in message.oneofs_by_name["event"].fields}
    names = {kind.removeprefix("response.").replace(".", "_") for kind in EventType}
    assert names - fields == {"failed", "error"}
    assert fields <= names


def test_the_limit(grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata) -> None:
    begin, text, _, settled = says("Hel")
    generate.reset(begin, text, [ChoiceEnded(0, FinishReason.LENGTH, "length"), Completed()], settled)
    events = list(grpc_stub.StreamResponse(request(), metadata=as_inference))
    assert events[-1].WhichOneof("event") == "incomplete"
    assert events[-1].incomplete.incomplete_reason == "max_output_tokens"
    assert events[-1].incomplete.status == responses_pb2.RESPONSE_STATUS_INCOMPLETE
    assert not events[-1].incomplete.HasField("completed_at")


def test_a_failure_in_mid_stream_is_the_status_of_the_call(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    generate.reset(*says("Hel")[:2], GatewayError(Reason.STREAM_INTERRUPTED, "The provider broke off."))
    heard = []
    with pytest.raises(grpc.RpcError) as caught:  # noqa: PT012  # what was heard before it counts
        for event in grpc_stub.StreamResponse(request(), metadata=as_inference):
            heard.append(event.WhichOneof("event"))  # noqa: PERF401  # kept, though the stream ends in an error
    assert heard == ["created", "in_progress", "output_item_added", "content_part_added", "output_text_delta"]
    _, info = details(caught.value)
    assert (caught.value.code(), info.reason) == (grpc.StatusCode.UNAVAILABLE, "STREAM_INTERRUPTED")


def test_what_is_asked_for_reaches_the_pipeline(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    generate.reset(*says("ok"))
    grpc_stub.CreateResponse(
        request(
            instructions="Be brief.",
            temperature=0.5,
            top_p=0.9,
            max_output_tokens=16,
            top_logprobs=2,
            include_encrypted_reasoning=True,
            parallel_tool_calls=False,
            reasoning=content_pb2.ReasoningOptions(effort="low", summary="auto"),
            tools=[content_pb2.Tool(function=content_pb2.FunctionTool(name="f", parameters_json='{"z": 1, "a": 2}'))],
            tool_choice=content_pb2.ToolChoice(function="f"),
            output_format=content_pb2.OutputFormat(json_object=content_pb2.JsonObjectFormat()),
            parameters_json={"service_tier": '"flex"', "truncation": '"auto"'},
        ),
        metadata=as_inference,
    )
    _, asked = generate.requests[-1]
    assert [turn.role for turn in asked.turns] == [Role.SYSTEM, Role.USER]
    assert (asked.sampling.temperature, asked.sampling.max_output_tokens) == (0.5, 16)
    assert (asked.sampling.logprobs, asked.sampling.top_logprobs) == (True, 2)
    assert asked.parameters.keys() == {
        "temperature", "top_p", "max_output_tokens", "top_logprobs", "logprobs", "reasoning_encrypted_content",
        "parallel_tool_calls", "reasoning_effort", "reasoning_summary", "tools", "tool_choice", "response_format",
        "service_tier", "truncation",
    }  # fmt: skip


def test_a_conversation_goes_on(
    grpc_stub: Stub, grpc_server: HostThread, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    generate.reset(list(EVERYTHING))
    first = grpc_stub.CreateResponse(request(instructions="Once."), metadata=as_inference).response
    generate.reset(*says("ok"))
    result = content_pb2.ToolResultPart(
        call_id="call_1", content=[content_pb2.ContentPart(text=content_pb2.TextPart(text="42"))]
    )
    answers = content_pb2.Message(role=content_pb2.ROLE_TOOL, parts=[content_pb2.ContentPart(tool_result=result)])
    second = grpc_stub.CreateResponse(
        request(input=[answers], previous_response_id=first.id), metadata=as_inference
    ).response
    assert second.previous_response_id == first.id
    _, asked = generate.requests[-1]
    suffix = first.id.removeprefix("resp_")
    assert asked.turns[0] == Turn(Role.USER, (Text("Say hello."),))
    assert asked.turns[1].parts == (Reasoning("Raw", ("Sum",), "seal==", item_id=f"rs_{suffix}_0"),)
    assert asked.turns[3].parts == (ToolCall("call_1", "f", '{"b": 1}', item_id=f"fc_{suffix}_2"),)
    assert asked.turns[-1].role is Role.TOOL


def test_the_phase_of_a_message_comes_and_goes_back(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    begun = PartStarted(0, 0, PartKind.TEXT, phase="commentary")
    ended = ChoiceEnded(0, FinishReason.STOP, "stop")
    generate.reset(
        [Started("native", "test-1"), begun, TextDelta(0, 0, "Hm."), PartEnded(0, 0), ended, Completed(), SETTLED]
    )
    first = grpc_stub.CreateResponse(request(), metadata=as_inference).response
    assert first.output[0].message.phase == "commentary"
    generate.reset(*says("ok"))
    said = content_pb2.Message(
        role=content_pb2.ROLE_ASSISTANT, parts=first.output[0].message.parts, phase=first.output[0].message.phase
    )
    question = text_message("And?")
    grpc_stub.CreateResponse(request(input=[text_message("Say hello."), said, question]), metadata=as_inference)
    grpc_stub.CreateResponse(request(input=[question], previous_response_id=first.id), metadata=as_inference)
    for _, asked in generate.requests[-2:]:
        assert [turn.phase for turn in asked.turns] == [None, "commentary", None]


def test_reading_back_and_deleting(
    grpc_stub: Stub, grpc_server: HostThread, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    generate.reset(*says("ok"))
    made = grpc_stub.CreateResponse(request(), metadata=as_inference).response
    read = responses_pb2.GetResponseRequest(response_id=made.id.removeprefix("resp_"))
    assert grpc_stub.GetResponse(read, metadata=as_inference).response == made
    gone = grpc_stub.DeleteResponse(responses_pb2.DeleteResponseRequest(response_id=made.id), metadata=as_inference)
    assert (gone.id, gone.deleted) == (made.id, True)
    for response_id in (made.id, "resp_nope", "x" * 500, f"gen_{made.id}"):
        error = refused(grpc_stub.GetResponse, responses_pb2.GetResponseRequest(response_id=response_id), as_inference)
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "There is no such response.")


def test_store_false_keeps_nothing(
    grpc_stub: Stub, generate: ScriptedGenerate, store: MemoryStore, as_inference: Metadata
) -> None:
    generate.reset(*says("ok"))
    before = len(store.kept)
    grpc_stub.CreateResponse(request(store=False), metadata=as_inference)
    assert len(store.kept) == before


@pytest.mark.parametrize(
    ("fields", "reason", "param"),
    [
        ({"input": []}, "MISSING_FIELD", "input"),
        ({"temperature": 3.0}, "INVALID_VALUE", "temperature"),
        ({"top_logprobs": 21}, "INVALID_VALUE", "top_logprobs"),
        ({"metadata": {"k": "v" * 513}}, "INVALID_VALUE", "metadata.k"),
        ({"parameters_json": {"stop": '["x"]'}}, "UNKNOWN_PARAMETER", "parameters_json.stop"),
    ],
)
def test_a_mistake_is_named(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata, fields: Any, reason: str, param: str
) -> None:
    generate.reset(*says("never"))
    _, info = details(refused(grpc_stub.CreateResponse, request(**fields), as_inference))
    assert (info.reason, info.metadata["param"]) == (reason, param)
    assert generate.requests == []


def test_an_empty_model_and_an_empty_id_are_named(grpc_stub: Stub, as_inference: Metadata) -> None:
    without = responses_pb2.CreateResponseRequest(input=[text_message("x")])
    _, info = details(refused(grpc_stub.CreateResponse, without, as_inference))
    assert (info.reason, info.metadata["param"]) == ("MISSING_FIELD", "model")
    _, info = details(refused(grpc_stub.GetResponse, responses_pb2.GetResponseRequest(), as_inference))
    assert (info.reason, info.metadata["param"]) == ("MISSING_FIELD", "response_id")
