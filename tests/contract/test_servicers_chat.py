"""ChatService as a typed client sees it: the real host, guard and key check; only the pipeline is scripted."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # the package has no stubs

from aistats.gateway.v1 import chat_pb2, chat_pb2_grpc, content_pb2
from server.domain.errors import AttemptFailure, FailureCategory, GatewayError, Reason, UpstreamError
from server.domain.events import TextDelta
from server.rpc.chat import ChatServicer
from tests.fakes.generation import PRICING, USAGE, ScriptedGenerate, endless, says
from tests.fakes.rpc_host import HostThread, Metadata, bearer
from tests.fakes.timing import soonest
from tests.fakes.typed_client import details, eventually, refused, trailers

Stub = Any


@pytest.fixture(scope="module")
def generate() -> ScriptedGenerate:
    return ScriptedGenerate()


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return chat_pb2_grpc.add_ChatServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer(generate: ScriptedGenerate) -> ChatServicer:
    return ChatServicer(generate)


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return chat_pb2_grpc.ChatServiceStub


def request(**fields: Any) -> chat_pb2.CreateChatCompletionRequest:
    part = content_pb2.ContentPart(text=content_pb2.TextPart(text="Say hello."))
    message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])
    return chat_pb2.CreateChatCompletionRequest(model="acme/test-1", messages=[message], **fields)


def test_a_whole_answer(grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata) -> None:
    generate.reset(*says("Hel", "lo 你好🙂"))
    reply, call = grpc_stub.CreateChatCompletion.with_call(request(), metadata=as_inference)
    suffix = reply.id.removeprefix("chatcmpl-")
    assert trailers(call)["x-generation-id"] == f"gen_{suffix}"
    assert trailers(call)["x-request-id"] == suffix
    assert reply.model == "acme/test-1"
    assert abs(reply.created - time.time()) < 10
    [choice] = reply.choices
    assert [part.text.text for part in choice.parts] == ["Hello 你好🙂"]
    assert (choice.finish_reason, choice.native_finish_reason) == (content_pb2.FINISH_REASON_STOP, "stop")
    assert (reply.usage.input_tokens, reply.usage.total_tokens) == (9, USAGE.total_tokens)
    assert (reply.usage.pricing.currency, reply.usage.pricing.total_nanos) == ("USD", PRICING.total_nanos)
    (line,) = reply.usage.pricing.lines
    assert (line.dimension, line.quantity, line.unit_size) == ("input_text_tokens", 9, 1_000_000)
    assert (line.unit_price_nanos, line.line_nanos) == (200_000_000, 1800)
    assert (reply.meta.provider, reply.meta.routing[0].outcome, reply.service_tier) == ("acme", "chosen", "default")
    call_made, asked = generate.requests[-1]
    assert call_made.principal.team_id
    assert not asked.stream


def test_a_stream_event_by_event(grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata) -> None:
    generate.reset(*says("Hel", "lo"))
    stream = grpc_stub.StreamChatCompletion(request(), metadata=as_inference)
    headers = {item.key: item.value for item in stream.initial_metadata()}
    events = list(stream)
    assert [event.WhichOneof("event") for event in events] == [
        "started", "part_started", "text_delta", "text_delta", "part_ended", "choice_ended", "completed",
    ]  # fmt: skip
    assert headers["x-generation-id"] == f"gen_{events[0].started.id.removeprefix('chatcmpl-')}"
    assert headers["x-request-id"]
    assert events[-1].completed.usage.output_tokens == 4
    assert events[-1].completed.usage.pricing.total_nanos == PRICING.total_nanos
    assert generate.requests[-1][1].stream


def test_each_event_arrives_when_it_was_said(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    begin, first, second, *end = says("a", "b")
    is_begun, is_said = threading.Event(), threading.Event()
    generate.reset(begin, is_begun, first, is_said, second, *end)
    for event in grpc_stub.StreamChatCompletion(request(), metadata=as_inference):
        if event.HasField("started"):
            is_begun.set()
        elif event.HasField("text_delta") and event.text_delta.text == "a":
            is_said.set()
    assert is_said.is_set()


@pytest.mark.parametrize("sent", ["req-1", "A.b_c-9", "x" * 64])
def test_a_sane_request_id_is_kept(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata, sent: str
) -> None:
    generate.reset(*says("hi"))
    _, call = grpc_stub.CreateChatCompletion.with_call(request(), metadata=(*as_inference, ("x-request-id", sent)))
    assert trailers(call)["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 65, "a b", "a/b", "{}"])
def test_any_other_request_id_is_replaced(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata, sent: str
) -> None:
    generate.reset(*says("hi"))
    _, call = grpc_stub.CreateChatCompletion.with_call(request(), metadata=(*as_inference, ("x-request-id", sent)))
    given = trailers(call)["x-request-id"]
    assert given != sent
    assert len(given) == 32


@pytest.mark.parametrize("method", ["CreateChatCompletion", "StreamChatCompletion"])
def test_no_key_and_bad_keys_are_told_the_same(
    grpc_stub: Stub, grpc_server: HostThread, generate: ScriptedGenerate, method: str
) -> None:
    generate.reset(*says("never"))
    keys = grpc_server.keys
    unknown = "aistats_v1_sk_ffffffffffffffff_" + "0" * 64
    seen = set()
    for metadata in ((), (("authorization", "nonsense"),), *map(bearer, (unknown, keys.expired, keys.revoked))):
        error = refused(getattr(grpc_stub, method), request(), metadata)
        _, info = details(error)
        seen.add((error.code(), error.details(), info.reason, info.metadata["error"], info.metadata["origin"]))
    assert len(seen) == 1
    code, text, reason, _, origin = seen.pop()
    assert (code, reason, origin) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY", "user")
    assert "aistats_v1" not in text
    assert generate.requests == []


def test_a_key_without_the_scope(grpc_stub: Stub, generate: ScriptedGenerate, as_management: Metadata) -> None:
    generate.reset(*says("never"))
    error = refused(grpc_stub.CreateChatCompletion, request(), as_management)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert details(error)[1].reason == "MISSING_SCOPE"
    assert generate.requests == []


def test_the_key_is_checked_before_the_body_is_read(grpc_channel: grpc.Channel, as_inference: Metadata) -> None:
    raw: Any = grpc_channel.unary_unary("/aistats.gateway.v1.ChatService/CreateChatCompletion")
    assert refused(raw, b"\xff\xff", ()).code() is grpc.StatusCode.UNAUTHENTICATED
    error = refused(raw, b"\xff\xff", as_inference)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[1].reason == "MALFORMED_REQUEST"


@pytest.mark.parametrize("method", ["CreateChatCompletion", "StreamChatCompletion"])
@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_reaches_a_client_as_itself(
    grpc_stub: Stub, grpc_server: HostThread, generate: ScriptedGenerate, as_inference: Metadata, reason: Reason,
    method: str,
) -> None:  # fmt: skip
    grpc_server.log.clear()
    generate.reset(GatewayError(reason, "What happened.", param="a.b[0]", retry_after_s=1.5))
    error = refused(getattr(grpc_stub, method), request(), as_inference)
    status, info = details(error)
    assert error.details() == status.message == "What happened."
    assert error.code().value[0] == status.code
    assert (info.reason, info.domain, info.metadata["param"]) == (reason.name, "gateway.aistats", "a.b[0]")
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay == duration_pb2.Duration(seconds=1, nanos=500_000_000)
    assert trailers(error)["x-generation-id"] == info.metadata["generation_id"]
    # An intended error is one line of the access log, with its own label and no stack trace.
    assert eventually(lambda: bool(grpc_server.log.lines))
    [line] = grpc_server.log.lines
    assert (line["event"], line["status"], line["reason"]) == ("call", error.code().name, reason.value)


def test_a_providers_words_arrive_and_stay_small(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    words = "請求無效🙂" * 12_000
    failure = AttemptFailure("acme", FailureCategory.SERVER_ERROR, 500, UpstreamError(words, words, words))
    generate.reset(GatewayError(Reason.ALL_CANDIDATES_FAILED, words, failures=(failure,) * 40, param=words))
    error = refused(grpc_stub.CreateChatCompletion, request(), as_inference)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    status, info = details(error)
    assert words.startswith(error.details())
    assert words.startswith(info.metadata["upstream_message"])
    assert len(info.metadata["upstream_message"]) > 100
    assert info.metadata["attempt_count"] == "40"
    assert status.ByteSize() < 4096


def test_an_error_after_output_ends_the_stream_with_its_status(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    begin, first, *_ = says("Hel")
    generate.reset(begin, first, GatewayError(Reason.STREAM_INTERRUPTED, "The provider dropped the connection."))
    stream = grpc_stub.StreamChatCompletion(request(), metadata=as_inference)
    got: list[str] = []
    with pytest.raises(grpc.RpcError) as caught:
        got.extend(event.WhichOneof("event") for event in stream)
    assert got == ["started", "part_started", "text_delta"]
    assert details(caught.value)[1].reason == "STREAM_INTERRUPTED"


@pytest.mark.parametrize("method", ["CreateChatCompletion", "StreamChatCompletion"])
def test_a_bug_is_told_in_a_fixed_text_and_logged_once(
    grpc_stub: Stub, grpc_server: HostThread, generate: ScriptedGenerate, as_inference: Metadata, method: str
) -> None:
    grpc_server.log.clear()
    generate.reset(ZeroDivisionError("secret in /etc/passwd"))
    error = refused(getattr(grpc_stub, method), request(), as_inference)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "The gateway failed to handle this request. It has been logged."
    assert "secret" not in str(trailers(error))
    assert eventually(lambda: len(grpc_server.log.lines) == 2)
    bug, access = grpc_server.log.lines
    assert bug["event"] == "unhandled_exception"
    assert "ZeroDivisionError: secret" in bug["exception"]
    assert bug["generation_id"] == access["generation_id"]
    assert access["reason"] == "internal"


@pytest.mark.parametrize("method", ["CreateChatCompletion", "StreamChatCompletion"])
def test_a_stray_cancellation_of_our_own_still_gives_the_client_a_status(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata, method: str
) -> None:
    generate.reset(asyncio.CancelledError())
    before = time.monotonic()
    error = refused(getattr(grpc_stub, method), request(), as_inference)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert time.monotonic() - before < 10


def test_a_client_that_leaves_closes_the_generation_within_100_ms(
    grpc_stub: Stub, grpc_server: HostThread, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    for method, script in (("StreamChatCompletion", endless()), ("CreateChatCompletion", [30.0])):

        def left(method: str = method, script: list[Any] = script) -> float:
            grpc_server.log.clear()
            generate.reset(*script, repeat_s=0.05)
            sender = getattr(grpc_stub, method)
            call = sender(request(), metadata=as_inference) if "Stream" in method else sender.future(
                request(), metadata=as_inference
            )  # fmt: skip
            assert eventually(lambda: generate.open == 1)
            left_at = time.monotonic()
            call.cancel()
            assert generate.closed.wait(30)
            assert eventually(lambda: bool(grpc_server.log.lines))
            assert [line["status"] for line in grpc_server.log.lines] == ["CANCELLED"]
            return generate.closed_at - left_at

        assert soonest(left, within_s=0.1) < 0.1


@pytest.mark.parametrize("method", ["CreateChatCompletion", "StreamChatCompletion"])
def test_a_deadline_reaches_the_pipeline_and_ends_it(
    grpc_stub: Stub, grpc_server: HostThread, generate: ScriptedGenerate, as_inference: Metadata, method: str
) -> None:
    grpc_server.log.clear()
    generate.reset(30.0)
    error = refused(getattr(grpc_stub, method), request(), as_inference, timeout=3)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    arrival = generate.requests[-1][0].arrival
    assert arrival.deadline_s is not None
    assert 0 < arrival.deadline_s - arrival.received_s < 3.1
    assert generate.closed.wait(30)
    assert abs(generate.closed_at - arrival.deadline_s) < 20
    assert eventually(lambda: bool(grpc_server.log.lines))
    [line] = grpc_server.log.lines
    # A request that took long to arrive is still in time here when its caller, whose time is over, takes it back.
    assert line["status"] in {"DEADLINE_EXCEEDED", "CANCELLED"}


def test_without_a_deadline_there_is_none(grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata) -> None:
    generate.reset(*says("hi"))
    grpc_stub.CreateChatCompletion(request(), metadata=as_inference)
    assert generate.requests[-1][0].arrival.deadline_s is None


def test_a_slow_reader_holds_the_generation_back(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    kilobytes = TextDelta(0, 0, "x" * 64_000)
    generate.reset(*endless()[:1], *([kilobytes] for _ in range(3000)), repeat_s=None)
    stream = grpc_stub.StreamChatCompletion(request(), metadata=as_inference)
    next(stream)
    # 200 MB are on offer; what is taken from the generation is what the windows on the way hold.
    taken = -1
    while taken < generate.events_sent:
        taken = generate.events_sent
        time.sleep(0.5)
    assert taken * 64_000 < 16_000_000
    stream.cancel()
    assert generate.closed.wait(20)


def test_the_access_log_says_who_and_never_what(
    grpc_stub: Stub, grpc_server: HostThread, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    grpc_server.log.clear()
    generate.reset(*says("a secret answer"))
    grpc_stub.CreateChatCompletion(request(), metadata=(*as_inference, ("x-request-id", "req-7")))

    def own_lines() -> list[dict[str, Any]]:
        # A call that the test before has cancelled may be logged only now.
        return [line for line in grpc_server.log.lines if line["request_id"] == "req-7"]

    assert eventually(lambda: bool(own_lines()))
    [line] = own_lines()
    call, _ = generate.requests[-1]
    assert line["duration_ms"] > 0
    expected = {
        "event": "call",
        "level": "info",
        "method": "/aistats.gateway.v1.ChatService/CreateChatCompletion",
        "status": "OK",
        "request_id": "req-7",
        "generation_id": call.arrival.generation_id,
        "team_id": call.principal.team_id,
        "key_id": call.principal.key_id,
        "peer": "unix",
        "duration_ms": line["duration_ms"],
    }
    assert line == expected
    key = grpc_server.keys.inference
    assert key.rpartition("_")[2] not in grpc_server.log.text
    assert "secret" not in grpc_server.log.text


def test_a_call_that_envoy_has_named_keeps_its_name(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    generate.reset(*says("hi"))
    name = "0" * 32
    _, call = grpc_stub.CreateChatCompletion.with_call(request(), metadata=(*as_inference, ("x-gw-suffix", name)))
    assert generate.requests[-1][0].suffix == name
    assert "x-generation-id" not in {item.key for item in (*call.initial_metadata(), *call.trailing_metadata())}


def test_errors_of_rest_calls_go_to_envoy_as_rest(
    grpc_stub: Stub, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    words = 'é"\n%你🙂' * 20_000
    failure = AttemptFailure("acme", FailureCategory.RATE_LIMITED, 429, UpstreamError(message=words))
    generate.reset(GatewayError(Reason.UPSTREAM_RATE_LIMITED, words, failures=(failure,), retry_after_s=1.2))
    error = refused(grpc_stub.CreateChatCompletion, request(), (*as_inference, ("x-gw-rest", "1")))
    found = trailers(error)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-status-details-bin" not in found
    assert (found["x-gw-status"], found["retry-after"]) == ("400", "2")
    assert found["x-gw-error"].isascii()
    assert len(found["x-gw-error"]) < 4096
    body = json.loads(found["x-gw-error"])
    assert body["error"] == "rate_limit_error"
    assert words.startswith(body["description"])
    assert body["description"]
    assert body["generation_id"] == found["x-generation-id"]
