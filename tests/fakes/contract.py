"""The contract's one shape of errors, and what a success must be: checkers for replies that came in any way."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import grpc
import httpx
import msgspec

from server.domain.errors import CODE_OF_REASON, HTTP_STATUS, ErrorCode, Reason
from server.rpc.status import DOMAIN, STATUS_OF_CODE
from tests.fakes.typed_client import details

KEYS: Final = frozenset(
    {"generation_id", "status_code", "error", "error_type", "error_origin", "description", "reason", "param", "details"}
)
PROVIDER_KEYS: Final = frozenset(
    {
        "attempt_count", "failed_providers", "failed_statuses", "upstream_error", "failure_sample",
        "provider_failure_diagnostics",
    }
)  # fmt: skip
ENVOYS_OWN: Final[Mapping[int, tuple[str, str]]] = {
    408: (ErrorCode.TIMEOUT, Reason.MALFORMED_REQUEST),
    431: (ErrorCode.REQUEST_TOO_LARGE, Reason.REQUEST_TOO_LARGE),
}
"""What the transport has statuses of its own for, and the word and reason that stand beside."""
NAMES_A_FIELD: Final = frozenset({Reason.MISSING_FIELD, Reason.UNKNOWN_PARAMETER, Reason.UNSUPPORTED_PARAMETER})
INTERNALS: Final = re.compile(
    r"Traceback|\.py\b|, line \d|0x[0-9a-f]{6}|<class|object at 0x|Errno|Exception|[a-z]Error\b|(?-i:None)"
    r"|/(home|root|work|tmp|usr|var|opt|proc|run)/|unix:|\.sock\b|127\.0\.0\.1|localhost|\bpython\b|msgspec|protobuf"
    r"|asyncio|sqlite|asyncpg|sqlalchemy|aistats\.gateway|rest_bridge|\bserver\.|\bgrpc\b|\benvoy\b|upstream connect"
    r"|\boneof\b|\bHttpBody\b",
    re.IGNORECASE,
)
"""What no client needs to know of how the gateway is made."""


class Told(msgspec.Struct, frozen=True):
    """A reply, however it came; header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    path: str

    @property
    def of_messages(self) -> bool:
        """Whether its clients read errors as Anthropic's do (rest_bridge/messages_errors.py)."""
        return re.match(r"/v1/messages(/count_tokens)?(\?|$)", self.path) is not None


def told(reply: httpx.Response) -> Told:
    return Told(reply.status_code, dict(reply.headers), reply.content, reply.request.url.path)


def check(reply: Told, *, arrived: bool = True) -> dict[str, Any] | None:
    """The reply is a success or an error of the contract; the error's body, if it is one. See `check_error`."""
    if reply.status < httpx.codes.BAD_REQUEST:
        check_success(reply)
        return None
    return check_error(reply, arrived=arrived)


def check_error(reply: Told, *, arrived: bool = True) -> dict[str, Any]:
    """The reply is an error of the contract, whole, consistent and in words; its body.

    Where not even the head of a request `arrived` whole, it has no ids.
    """
    body = json_object(reply.body, object_pairs_hook=_once)
    assert reply.headers["content-type"] == "application/json", reply
    if "content-length" in reply.headers:
        assert int(reply.headers["content-length"]) == len(reply.body), reply
    if (reply.of_messages and arrived) or body.get("type") == "error":
        body = _unwrapped(body, reply)
    assert body.keys() >= KEYS, reply
    assert body.keys() - KEYS in (set(), PROVIDER_KEYS), reply
    if arrived:
        assert reply.headers["x-request-id"], reply
        assert body["generation_id"] == reply.headers["x-generation-id"], reply
        assert body["generation_id"].startswith("gen_"), reply
    _check_words(body, reply)
    _check_blame(body, reply)
    for text in _texts(body):
        assert not INTERNALS.search(text), reply
    return body


def check_rpc_error(failed: Any) -> Reason:
    """A typed call ended with a status of the contract, and ErrorInfo that belongs to it; its reason."""
    code, description = failed.code(), failed.details()
    assert code not in {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}, failed
    status, info = details(failed)
    reason = Reason[info.reason]
    told = dict(info.metadata)
    assert (info.domain, told["error"]) == (DOMAIN, CODE_OF_REASON[reason].value), failed
    assert STATUS_OF_CODE[CODE_OF_REASON[reason]] is code, failed
    assert (status.code, status.message) == (code.value[0], description), failed
    assert told["generation_id"].startswith("gen_"), failed
    assert told["origin"] in {"user", "gateway", "upstream"}, failed
    assert len(description.split()) >= 3, failed
    assert reason not in NAMES_A_FIELD | {Reason.INVALID_VALUE} or told["param"], failed
    assert not INTERNALS.search(" ".join([description, *told.values()])), failed
    return reason


def check_success(reply: Told) -> None:
    """It is JSON that says so, or a stream with its proper end, or another document, with ids."""
    assert reply.status in {200, 201, 202, 204}, reply
    assert reply.headers["x-generation-id"].startswith("gen_"), reply
    kind = reply.headers.get("content-type", "").partition(";")[0]
    if kind == "text/event-stream":
        _check_events(reply)
    elif kind == "application/json":
        assert json_object(reply.body), reply
    else:
        assert reply.status == httpx.codes.NO_CONTENT or (kind and reply.body), reply


def json_object(body: bytes, **options: Any) -> dict[str, Any]:
    """By the letter: UTF-8 without a BOM, no NaN. A client's schema that has a key twice is told as it came."""

    def no_number(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    decoded: Any = json.loads(body.decode(), parse_constant=no_number, **options)
    assert isinstance(decoded, dict), body
    return decoded


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), f"a key comes twice: {[name for name, _ in pairs]}"
    return found


def _unwrapped(body: dict[str, Any], reply: Told) -> dict[str, Any]:
    """The contract's body inside one of Anthropic's."""
    inner = body["error"]
    assert body["type"] == "error", reply
    assert inner["message"] == body["description"], reply
    assert inner["details"] == {"error_code": body["reason"]}, reply
    assert body["request_id"] == reply.headers["x-request-id"], reply
    contracts = {name: value for name, value in body.items() if name not in {"type", "request_id", "error_code"}}
    return contracts | {"error": body["error_code"]}


def _check_words(body: dict[str, Any], reply: Told) -> None:
    """Status, word and reason belong together."""
    assert body["status_code"] == reply.status, reply
    if reply.status in ENVOYS_OWN:
        assert (body["error"], body["reason"]) == ENVOYS_OWN[reply.status], reply
    else:
        code = ErrorCode(body["error"])
        assert HTTP_STATUS[code] == reply.status, reply
        is_of_reason = CODE_OF_REASON[Reason(body["reason"])] is code
        assert is_of_reason or (code, body["reason"]) == (ErrorCode.VALIDATION, Reason.MALFORMED_REQUEST), reply
    assert body["error_type"] == ("user" if reply.status < 500 and reply.status != 429 else "system"), reply
    assert body["error_origin"] in {"user", "gateway", "upstream"}, reply
    assert (body["error_origin"] == "gateway") <= (reply.status >= 500), reply
    assert ("allow" in reply.headers) == (reply.status == httpx.codes.METHOD_NOT_ALLOWED), reply


def _check_blame(body: dict[str, Any], reply: Told) -> None:
    """What is wrong is said in a sentence, and where, if it is a field that is."""
    description, param = body["description"], body["param"]
    assert len(description.split()) >= 3, reply
    assert description[-1] in ".?…" or body["error_origin"] == "upstream", reply
    assert param is None or (isinstance(param, str) and param), reply
    if body["reason"] in NAMES_A_FIELD:
        assert param, reply
    if body["reason"] == Reason.INVALID_VALUE and param is None:
        assert description.startswith(("The body ", "Each key in The body", "Each value in The body")), reply
    for detail in body["details"]:
        assert detail == {"param": param, "message": description, "reason": body["reason"]}, reply


def _check_events(reply: Told) -> None:
    """Every event is one that clients can read, none tells of a failure, and the last is the proper end."""
    *blocks, rest = reply.body.decode().split("\n\n")
    assert rest == "", reply
    assert blocks, reply
    for block in blocks:
        if block.startswith(":"):
            continue
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        assert fields.keys() <= {"event", "data"}, reply
        assert fields["data"], reply
        if fields["data"] != "[DONE]":
            event = json_object(fields["data"].encode())
            assert event.get("type") not in {"error", "response.failed"}, reply
            assert not event.get("error"), reply
    assert blocks[-1].startswith("event: message_stop" if reply.of_messages else "data: [DONE]"), reply


def _texts(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for inner in value.values() for text in _texts(inner)]
        case list():
            return [text for inner in value for text in _texts(inner)]
        case _:
            return []
