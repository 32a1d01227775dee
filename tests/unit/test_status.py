"""Every reason as a gRPC status, and every status small enough to travel."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # the package has no stubs
from hypothesis import given
from hypothesis import strategies as st

from aistats.gateway.v1 import error_reason_pb2
from server.domain.errors import AttemptFailure, ErrorCode, FailureCategory, GatewayError, Reason, UpstreamError
from server.domain.identity import Arrival
from server.rpc.status import RpcFailure, cut, rest_failure, rpc_failure, typed_param

ARRIVAL = Arrival("0123", "req-1", 0.0, 1_700_000_000)
PROTO = Path(__file__).parents[2] / "proto/aistats/gateway/v1/error_reason.proto"
WORST = ["請求無效", "🙂", '"\\\n\t\0', "%", "\ud800", "é", "x"]

EXPECTED = {
    "validation_error": grpc.StatusCode.INVALID_ARGUMENT,
    "unsupported_model_or_endpoint": grpc.StatusCode.INVALID_ARGUMENT,
    "authentication_error": grpc.StatusCode.UNAUTHENTICATED,
    "authorization_error": grpc.StatusCode.PERMISSION_DENIED,
    "insufficient_funds": grpc.StatusCode.FAILED_PRECONDITION,
    "not_found_error": grpc.StatusCode.NOT_FOUND,
    "method_not_allowed": grpc.StatusCode.UNIMPLEMENTED,
    "conflict_error": grpc.StatusCode.ABORTED,
    "request_too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "rate_limit_error": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "provider_error": grpc.StatusCode.UNAVAILABLE,
    "unavailable_error": grpc.StatusCode.UNAVAILABLE,
    "timeout_error": grpc.StatusCode.DEADLINE_EXCEEDED,
    "server_error": grpc.StatusCode.INTERNAL,
}


def read(failure: RpcFailure) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo]:
    [(key, value)] = failure.trailing_metadata
    assert key == "grpc-status-details-bin"
    status = status_pb2.Status.FromString(value)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return status, info


def size_on_the_wire(failure: RpcFailure) -> int:
    """What the trailers take: the message percent-encoded, binary values in base64, 32 bytes an entry beside."""
    sizes = [len("grpc-message") + len(quote(failure.message, safe="")) + 32]
    for key, value in failure.trailing_metadata:
        length = len(base64.b64encode(value)) if isinstance(value, bytes) else len(value)
        sizes.append(len(key) + length + 32)
    return sum(sizes)


def test_the_proto_knows_every_reason() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name, _ in error_reason_pb2.ErrorReason.items()}
    assert names - {"UNSPECIFIED"} == {reason.name for reason in Reason}
    assert {name.lower() for name in names} - {"unspecified"} == {reason.value for reason in Reason}


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_by_its_code(reason: Reason) -> None:
    error = GatewayError(reason, "A sentence.")
    failure = rpc_failure(error, ARRIVAL)
    status, info = read(failure)
    assert failure.code is EXPECTED[error.code.value]
    assert (failure.message, status.message, status.code) == ("A sentence.", "A sentence.", failure.code.value[0])
    assert (info.reason, info.domain) == (reason.name, "gateway.aistats")
    assert dict(info.metadata) == {
        "error": error.code.value,
        "origin": error.origin,
        "generation_id": "gen_0123",
    }
    assert len(status.details) == 1


@pytest.mark.parametrize("reason", list(Reason))
def test_the_proto_documents_the_status_that_is_sent(reason: Reason) -> None:
    pattern = rf"// ERROR_REASON_{reason.name}:((?:.*\n)+?)  ERROR_REASON_{reason.name} = "
    comment = re.search(pattern, PROTO.read_text())
    assert comment is not None
    documented = re.search(r"\b(" + "|".join(code.name for code in grpc.StatusCode) + r")\.", comment[1])
    assert documented is not None
    assert documented[1] == rpc_failure(GatewayError(reason, "x"), ARRIVAL).code.name


def test_no_code_is_left_out() -> None:
    assert set(EXPECTED) == {code.value for code in ErrorCode}


def test_what_providers_said_is_in_the_metadata() -> None:
    failures = (
        AttemptFailure("acme", FailureCategory.CONNECTION),
        AttemptFailure("zeta", FailureCategory.SERVER_ERROR, 500, UpstreamError("boom", "It broke.", "tools")),
    )
    error = GatewayError(Reason.ALL_CANDIDATES_FAILED, "All failed.", failures=failures, param="model")
    _, info = read(rpc_failure(error, ARRIVAL))
    assert dict(info.metadata) == {
        "error": "provider_error",
        "origin": "upstream",
        "generation_id": "gen_0123",
        "param": "model",
        "attempt_count": "2",
        "failed_providers": "acme,zeta",
        "failed_statuses": "0,500",
        "upstream_code": "boom",
        "upstream_message": "It broke.",
        "upstream_param": "tools",
    }


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 0), (0.0001, 1), (1.5, 1500), (3600.0, 3_600_000)])
def test_retry_info_where_it_is_known(seconds: float, expected: int) -> None:
    status, _ = read(rpc_failure(GatewayError(Reason.OVERLOADED, "Full.", retry_after_s=seconds), ARRIVAL))
    info = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == expected


@pytest.mark.parametrize(
    ("param", "typed"),
    [
        ("models[2]", "routing.fallback_models[2]"),
        ("provider.only", "routing.only"),
        ("provider.order[0]", "routing.order[0]"),
        ("provider.max_price.completion", "routing.max_completion_usd"),
        ("provider_options.acme.x", "provider_options_json.acme.x"),
        ("messages[0].parts[1]", "messages[0].parts[1]"),
        ("model", "model"),
        ("provider", "provider"),
        ("", ""),
    ],
)
def test_fields_are_named_as_typed_clients_know_them(param: str, typed: str) -> None:
    assert typed_param(param) == typed


texts = st.builds(lambda piece, times: piece * times, st.sampled_from(WORST), st.integers(0, 60_000))


@given(texts, texts, texts, st.integers(1, 200))
def test_trailers_stay_under_8_kb_whatever_was_said(description: str, message: str, name: str, count: int) -> None:
    upstream = UpstreamError(message, message, message)
    failures = (AttemptFailure(name[:64], FailureCategory.SERVER_ERROR, 500, upstream),) * count
    error = GatewayError(Reason.ALL_CANDIDATES_FAILED, description, failures=failures, param=name, retry_after_s=1.0)
    assert size_on_the_wire(rpc_failure(error, ARRIVAL)) < 8000
    body = msgspec.json.encode(
        {"description": cut(description, 10**6), "samples": [{"message": cut(message, 10**6)}] * min(count, 8)}
    )
    failure = rest_failure(error, 502, body)
    assert size_on_the_wire(failure) < 8000
    sent: dict[str, Any] = dict(failure.trailing_metadata)
    assert len(sent["x-gw-error"]) < 4096
    assert sent["x-gw-error"].isascii()
    assert sent["x-gw-error"].isprintable()
    assert list(json.loads(sent["x-gw-error"])) == ["description", "samples"]


def test_a_short_rest_error_arrives_whole() -> None:
    body = {"status_code": 400, "description": 'say "é🙂"\n', "param": None, "details": [{"param": "a"}]}
    failure = rest_failure(GatewayError(Reason.INVALID_VALUE, "x"), 400, msgspec.json.encode(body))
    sent: dict[str, Any] = dict(failure.trailing_metadata)
    assert sent["x-gw-status"] == "400"
    assert json.loads(sent["x-gw-error"]) == body
    assert "retry-after" not in sent


@given(st.text(), st.integers(0, 40))
def test_texts_are_cut_between_code_points(text: str, at_most: int) -> None:
    short = cut(text, at_most)
    assert len(short.encode()) <= at_most
    assert text.startswith(short)
    if len(text.encode()) <= at_most:
        assert short == text
