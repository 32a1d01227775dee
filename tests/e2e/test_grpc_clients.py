"""Typed gRPC clients, through Envoy's port and directly."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from aistats.gateway.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    content_pb2,
    messages_pb2,
    messages_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    responses_pb2,
    responses_pb2_grpc,
)
from aistats.gateway.v1 import (
    health_pb2 as gateway_health_pb2,
)
from aistats.gateway.v1 import (
    health_pb2_grpc as gateway_health_pb2_grpc,
)
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import chat_stream, error, silent
from tests.fakes.timing import soonest

FREE = "acme/test-1:free"
Metadata = list[tuple[str, str]]


def user(text: str) -> content_pb2.Message:
    part = content_pb2.ContentPart(text=content_pb2.TextPart(text=text))
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])


def chat_request(model: str = FREE, text: str = "Say hello.", **fields: Any) -> chat_pb2.CreateChatCompletionRequest:
    return chat_pb2.CreateChatCompletionRequest(model=model, messages=[user(text)], **fields)


def error_info(failed: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """What a typed client learns of a failure."""
    trailers = {item.key: item.value for item in failed.trailing_metadata() or ()}  # type: ignore[attr-defined]
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    details: list[any_pb2.Any] = list(status.details)
    info = error_details_pb2.ErrorInfo()
    assert details[0].Unpack(info)
    return info


def test_chat_against_the_real_model(channel: grpc.Channel, metadata: Metadata) -> None:
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    sampling = chat_pb2.ChatSampling(max_output_tokens=16, temperature=0)
    reply = chat.CreateChatCompletion(chat_request(LOCAL_MODEL, sampling=sampling), metadata=metadata, timeout=60)
    assert reply.id.startswith("chatcmpl-")
    assert reply.choices[0].parts[0].text.text
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens > 0
    assert reply.meta.provider == "local"


def test_chat_stream_against_the_real_model(channel: grpc.Channel, metadata: Metadata) -> None:
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    sampling = chat_pb2.ChatSampling(max_output_tokens=16, temperature=0)
    events = list(
        chat.StreamChatCompletion(chat_request(LOCAL_MODEL, sampling=sampling), metadata=metadata, timeout=60)
    )
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "completed"
    assert "".join(event.text_delta.text for event in events if event.HasField("text_delta"))
    assert events[-1].completed.usage.output_tokens > 0


def test_responses_keep_continue_and_forget(channel: grpc.Channel, metadata: Metadata) -> None:
    responses = responses_pb2_grpc.ResponsesServiceStub(channel)
    request = responses_pb2.CreateResponseRequest(model=LOCAL_MODEL, input=[user("Say hello.")], max_output_tokens=16)
    first = responses.CreateResponse(request, metadata=metadata, timeout=60).response
    assert first.id.startswith("resp_")
    assert first.output[0].message.parts[0].text.text
    kept = responses.GetResponse(responses_pb2.GetResponseRequest(response_id=first.id), metadata=metadata)
    assert kept.response.output == first.output

    request = responses_pb2.CreateResponseRequest(
        model=LOCAL_MODEL, input=[user("Again.")], max_output_tokens=8, previous_response_id=first.id
    )
    events = list(responses.StreamResponse(request, metadata=metadata, timeout=60))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].WhichOneof("event") in {"completed", "incomplete"}

    responses.DeleteResponse(responses_pb2.DeleteResponseRequest(response_id=first.id), metadata=metadata)
    with pytest.raises(grpc.RpcError) as gone:
        responses.GetResponse(responses_pb2.GetResponseRequest(response_id=first.id), metadata=metadata)
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    assert error_info(gone.value).reason == "RESOURCE_NOT_FOUND"


def test_models_and_health(channel: grpc.Channel, metadata: Metadata) -> None:
    models = models_pb2_grpc.ModelsServiceStub(channel)
    listed = models.ListModels(models_pb2.ListModelsRequest(provider=["local"]), metadata=metadata)
    assert LOCAL_MODEL in [model.model_id for model in listed.models]
    one = models.GetModel(models_pb2.GetModelRequest(model_id=LOCAL_MODEL), metadata=metadata)
    assert one.model.providers[0].api_provider_id == "local"

    health = gateway_health_pb2_grpc.HealthServiceStub(channel)
    told = health.GetHealth(gateway_health_pb2.GetHealthRequest(), metadata=metadata)
    assert told.status in ("ok", "degraded"), "other tests let providers fail"
    assert health.GetLiveness(gateway_health_pb2.GetLivenessRequest()).status == "ok"


def test_standard_health_and_reflection_need_no_key(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "aistats.gateway.v1.ChatService", "aistats.gateway.v1.ResponsesService"):
        reply = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING

    def ask() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    (reply,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask())
    names = {service.name for service in reply.list_services_response.service}
    assert {"aistats.gateway.v1.ChatService", "aistats.gateway.v1.ModelsService", "grpc.health.v1.Health"} <= names


def test_cancelling_a_stream_cancels_the_upstream_within_100_ms(
    channel: grpc.Channel, metadata: Metadata, acme: UpstreamThread
) -> None:
    def cancelled() -> float:
        acme.script(chat_stream(*["tick "] * 100, every_s=0.1))
        count = len(acme.upstream.disconnects)
        call = chat_pb2_grpc.ChatServiceStub(channel).StreamChatCompletion(chat_request(), metadata=metadata)
        for event in call:
            if event.HasField("text_delta"):
                break
        cancelled_s = time.monotonic()
        call.cancel()
        return acme.wait_disconnect(count + 1).at - cancelled_s

    assert soonest(cancelled, within_s=0.1) < 0.1


def test_a_deadline_reaches_the_upstream(channel: grpc.Channel, metadata: Metadata, acme: UpstreamThread) -> None:
    acme.script(silent())
    asked_s = time.monotonic()
    with pytest.raises(grpc.RpcError) as late:
        chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(chat_request(), metadata=metadata, timeout=4)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    assert 3.9 < acme.wait_disconnect().at - asked_s < 40


@pytest.mark.parametrize(
    ("key", "model", "code", "reason"),
    [
        (None, FREE, grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY"),
        ("aistats_v1_sk_nobody_x", FREE, grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY"),
        ("good", "nobody/nothing", grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
        ("good", "", grpc.StatusCode.INVALID_ARGUMENT, "MISSING_FIELD"),
        ("good", "acme/embeddings-only:free", grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_ENDPOINT"),
        ("good", "acme/dead:free", grpc.StatusCode.UNAVAILABLE, "ALL_CANDIDATES_FAILED"),
    ],
)
def test_errors_are_rich(
    channel: grpc.Channel, metadata: Metadata, key: str | None, model: str, code: grpc.StatusCode, reason: str
) -> None:
    sent = metadata if key == "good" else [("authorization", f"Bearer {key}")] if key else []
    with pytest.raises(grpc.RpcError) as failed:
        chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(chat_request(model), metadata=sent, timeout=20)
    assert failed.value.code() is code  # type: ignore[attr-defined]
    info = error_info(failed.value)
    assert (info.reason, info.domain) == (reason, "gateway.aistats")
    assert info.metadata["generation_id"].startswith("gen_")


def test_a_rate_limit_says_when_to_come_back(channel: grpc.Channel, metadata: Metadata, acme: UpstreamThread) -> None:
    acme.script(error(429, "Slow down.", code="rate_limit_exceeded", headers={"retry-after": "7"}))
    with pytest.raises(grpc.RpcError) as limited:
        chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(chat_request(), metadata=metadata)
    assert limited.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    trailers = {item.key: item.value for item in limited.value.trailing_metadata() or ()}  # type: ignore[attr-defined]
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details if detail.Is(retry.DESCRIPTOR))
    assert retry.retry_delay.seconds == 7


def test_no_client_says_what_id_its_call_has(channel: grpc.Channel, metadata: Metadata, acme: UpstreamThread) -> None:
    forged = "0" * 32
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    reply, call = chat.CreateChatCompletion.with_call(chat_request(), metadata=[*metadata, ("x-gw-suffix", forged)])
    assert forged not in reply.id
    told = {item.key: item.value for item in (*call.initial_metadata(), *call.trailing_metadata())}
    assert told["x-generation-id"].removeprefix("gen_") == reply.id.removeprefix("chatcmpl-")


def test_grpc_web_on_the_same_port(gateway: Gateway) -> None:
    request = models_pb2.GetModelRequest(model_id=LOCAL_MODEL).SerializeToString()
    reply = httpx.post(
        f"{gateway.url}/aistats.gateway.v1.ModelsService/GetModel",
        headers={**gateway.headers, "content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
        content=b"\x00" + len(request).to_bytes(4) + request,
    )
    assert reply.status_code == 200
    size = int.from_bytes(reply.content[1:5])
    assert models_pb2.GetModelResponse.FromString(reply.content[5 : 5 + size]).id == LOCAL_MODEL
    assert b"grpc-status:0" in reply.content[5 + size :].replace(b" ", b"")


def test_plain_json_to_a_grpc_path_is_no_route(gateway: Gateway) -> None:
    reply = gateway.post("/aistats.gateway.v1.ChatService/CreateChatCompletion", {})
    assert reply.status_code == 404
    assert reply.json()["reason"] == "unknown_route"


def test_schemas_reach_the_upstream_byte_for_byte(
    channel: grpc.Channel, metadata: Metadata, acme: UpstreamThread
) -> None:
    schema = '{"type": "object", "properties": {"zeta": {}, "alpha": {"maximum": 1.0e2}}}'
    tool = content_pb2.Tool(function=content_pb2.FunctionTool(name="f", parameters_json=schema))
    chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(chat_request(tools=[tool]), metadata=metadata)
    assert schema.encode() in acme.requests[-1].body
    assert json.loads(schema) == acme.requests[-1].json["tools"][0]["function"]["parameters"]


def test_typed_messages_by_both_ways_in(channel: grpc.Channel, metadata: Metadata, acme: UpstreamThread) -> None:
    stub = messages_pb2_grpc.MessagesServiceStub(channel)
    said = user("Say hello.")
    for model in (FREE, LOCAL_MODEL):
        asked = messages_pb2.CreateMessageRequest(model=model, max_tokens=16, messages=[said])
        whole = stub.CreateMessage(asked, metadata=metadata, timeout=60)
        assert whole.id.startswith("msg_")
        assert whole.parts[0].text.text
        events = list(stub.StreamMessage(asked, metadata=metadata, timeout=60))
        assert [events[0].WhichOneof("event"), events[-1].WhichOneof("event")] == ["started", "completed"]
        assert "".join(event.text_delta.text for event in events)
    counted = messages_pb2.CountTokensRequest(model=FREE, messages=[said])
    assert 0 < stub.CountTokens(counted, metadata=metadata, timeout=60).input_tokens < 30
