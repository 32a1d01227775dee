"""Any bytes to any typed method are a success or a status of the contract with its ErrorInfo, never INTERNAL."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.domain.errors import Reason
from tests.fakes.contract import check_rpc_error
from tests.fakes.hostile import UTF_8
from tests.fakes.routes import TypedMethod, typed_methods
from tests.integration.lone_worker import LoneWorker

TOO_LARGE = 64 * 1024 * 1024 + 64 * 1024 + 1
MAX_DEPTH = 4
KEYLESS = {"GetLiveness"}

of_a_method = pytest.mark.parametrize("method", typed_methods(), ids=str)
many = settings(max_examples=12, suppress_health_check=list(HealthCheck))

TEXTS = st.sampled_from(("acme/test-1:free", "acme/test-1", "acme", "chat", "user", "{}", "[", "x" * 70_000)) | st.text(
    UTF_8, max_size=20
)
VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_STRING: TEXTS,
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(-2, 12) | st.integers(-(2**31), 2**31 - 1),
}


@st.composite
def filled(draw: st.DrawFn, message: Message, depth: int = 0) -> Message:
    """A message with anything in some of its fields, whatever its enums and oneofs allow."""
    for field in message.DESCRIPTOR.fields:
        is_model = field.name == "model"
        if not is_model and not draw(st.booleans()):
            continue
        _fill(draw, message, field, depth)
    return message


def _fill(draw: st.DrawFn, message: Message, field: Any, depth: int) -> None:
    is_message = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
    if is_message and depth == MAX_DEPTH:
        return
    if is_message and _is_map(field.message_type):
        key = draw(TEXTS)
        value = field.message_type.fields_by_name["value"]
        if value.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            draw(filled(getattr(message, field.name)[key], depth + 1))
        else:
            getattr(message, field.name)[key] = draw(_value(value))
    elif field.is_repeated:
        for _ in range(draw(st.integers(0, 3))):
            if is_message:
                draw(filled(getattr(message, field.name).add(), depth + 1))
            else:
                getattr(message, field.name).append(draw(_value(field)))
    elif is_message:
        inner = getattr(message, field.name)
        inner.SetInParent()
        draw(filled(inner, depth + 1))
    else:
        setattr(message, field.name, draw(_value(field)))


def _is_map(described: Any) -> bool:
    return bool(described.GetOptions().map_entry)


def _value(field: Any) -> st.SearchStrategy[Any]:
    return st.binary(max_size=40) if field.type == FieldDescriptor.TYPE_BYTES else VALUES[field.cpp_type]


@st.composite
def spoilt(draw: st.DrawFn, message: Message) -> bytes:
    """A message's bytes cut, doubled, with other bytes somewhere, or with fields after them that nobody knows."""
    data = draw(filled(message)).SerializeToString()
    at = draw(st.integers(0, len(data)))
    other = draw(st.binary(max_size=12))
    match draw(st.sampled_from(("cut", "double", "replace", "insert", "append"))):
        case "cut":
            return data[:at]
        case "double":
            return data + data
        case "replace":
            return data[:at] + other + data[at + len(other) :]
        case "insert":
            return data[:at] + other + data[at:]
        case _:
            return data + b"\xfa\xff\xff\x0f\x03abc" + b"\xf8\xff\xff\x0f\x01"


def checked(said: Any, method: TypedMethod) -> None:
    if isinstance(said, grpc.RpcError):
        check_rpc_error(said)
    else:
        assert isinstance(said, method.output)


@of_a_method
@many
@given(st.binary())
def test_any_bytes(lone_worker: LoneWorker, method: TypedMethod, data: bytes) -> None:
    checked(lone_worker.call(method, data), method)


@of_a_method
@many
@given(st.data())
def test_any_message(lone_worker: LoneWorker, method: TypedMethod, data: st.DataObject) -> None:
    checked(lone_worker.call(method, data.draw(filled(method.input())).SerializeToString()), method)


@of_a_method
@many
@given(st.data())
def test_any_message_that_was_spoilt(lone_worker: LoneWorker, method: TypedMethod, data: st.DataObject) -> None:
    checked(lone_worker.call(method, data.draw(spoilt(method.input()))), method)


@of_a_method
def test_a_message_that_is_too_large(lone_worker: LoneWorker, method: TypedMethod) -> None:
    said = lone_worker.call(method, bytes(TOO_LARGE))
    assert said.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@of_a_method
@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer ' OR '1'='1"),),
        (("authorization", "Bearer aistats_v1_sk_" + "a" * 9000),),
        (("authorization-bin", b"\x00\xff"),),
        (("x-api-key", "x"), ("x-gw-rest", "0"), ("cookie", "authorization=Bearer x")),
    ],
    ids=range(7),
)
def test_metadata_that_is_no_key(
    lone_worker: LoneWorker, method: TypedMethod, metadata: tuple[tuple[str, Any], ...]
) -> None:
    said = lone_worker.call(method, b"\xff", metadata=metadata)
    expected = Reason.MALFORMED_REQUEST if method.name in KEYLESS else Reason.INVALID_API_KEY
    assert check_rpc_error(said) is expected
