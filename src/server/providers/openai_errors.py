"""Errors of OpenAI-compatible upstreams: the many shapes of their bodies, and what each one means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from server.domain.catalog import Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.providers.http_port import ResponseHeaders
from server.providers.openai_error_tables import category_of
from server.providers.retry_after import retry_after_s, retry_info_s
from server.providers.scrub import scrubbed

_QUOTED_CHARS: Final = 200
"""How much is quoted of a body that is not an error in any known shape."""

_BAD_REQUEST: Final = 400
_OF_ACCOUNT: Final = frozenset({FailureCategory.CREDENTIALS, FailureCategory.QUOTA_EXHAUSTED})
_OF_MODEL: Final = "quota_per_model"

_json: Final = msgspec.json.Decoder()


class WireError(msgspec.Struct, frozen=True):
    """One error as a provider wrote it. `labels` are its machine-readable words (codes, types), most telling first."""

    message: str | None = None
    code: str | None = None
    param: str | None = None
    status: int = 0
    labels: tuple[str, ...] = ()
    raw: Any = None


def failure_of_reply(
    status: int, headers: ResponseHeaders, body: bytes, provider: Provider, now: float
) -> ProviderFailure:
    """What a reply outside 2xx means. `now` is in seconds since 1970."""
    error = parse_error(body)
    failure = _failure(error, status, provider)
    failure.retry_after_s = retry_after_s(headers, error.raw, now)
    return failure


def failure_in_band(value: Any, provider: Provider, *, status: int = 0) -> ProviderFailure:
    """What an error inside a 200 means (a body, a chunk, an event; parsed), as if it were the HTTP status it names."""
    error = _read_error(value)
    failure = _failure(error, status or error.status, provider)
    delay = retry_info_s(error.raw)
    failure.retry_after_s = delay if delay is not None and delay > 0 else None
    return failure


def cut_failure() -> ProviderFailure:
    return ProviderFailure(
        FailureCategory.CONNECTION,
        upstream=UpstreamError(message="The provider's stream was cut before it was complete."),
    )


def protocol_failure(message: str, *, status: int = 0) -> ProviderFailure:
    """`message` is ours, a sentence on what the provider did wrong."""
    return ProviderFailure(FailureCategory.PROTOCOL, status=status, upstream=UpstreamError(message=message))


def parse_error(body: bytes) -> WireError:
    """Read an error body of any known shape; of an unknown one the beginning is quoted."""
    try:
        value = _json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return WireError(message=_quote(body))
    error = _read_error(value)
    return error if error.message or error.labels else WireError(message=_quote(body), raw=error.raw)


def looks_like_error(value: Mapping[str, Any]) -> bool:
    """Whether the JSON object of a 200 is an error without an `error` field."""
    return value.get("object") == "error" or value.get("type") == "error" or bool(value.get("errors"))


def _failure(error: WireError, status: int, provider: Provider) -> ProviderFailure:
    category = category_of(status, error.labels, error.message or "")
    if error.param is not None and status == _BAD_REQUEST and category in _OF_ACCOUNT:
        category = FailureCategory.CALLER_ERROR  # what it quotes is the caller's
    upstream = scrubbed(UpstreamError(error.code, error.message, error.param), provider)
    is_of_model = True if _OF_MODEL in error.labels else None
    return ProviderFailure(category, status=status, upstream=upstream, is_of_model=is_of_model)


def _read_error(value: Any) -> WireError:
    if isinstance(value, list):
        return _read_error(value[0]) if value else WireError()
    if isinstance(value, str):
        return WireError(message=value)
    if not isinstance(value, dict):
        return WireError()
    inner = value.get("error")
    if isinstance(inner, dict):
        return _read_object(inner, outer=value)
    if isinstance(inner, str) and inner:
        return _read_object({**value, "message": value.get("message") or inner}, outer=value)
    errors = value.get("errors")
    if isinstance(errors, list) and errors:
        return _read_error(errors[0])
    return _read_object(value, outer={})


def _read_object(error: dict[str, Any], *, outer: dict[str, Any]) -> WireError:
    code = error.get("code") if error.get("code") is not None else outer.get("code")
    labels = tuple(dict.fromkeys(_labels(error, code)))
    message = _message(error) or _message(outer)
    return WireError(
        message=message,
        code=_word(code) or next(iter(labels), None) or _label(code),
        param=_label(error.get("param")) or _location(error.get("detail")),
        status=next(filter(None, map(_status, (error.get("status_code"), error.get("status"), code))), 0),
        labels=labels,
        raw=error,
    )


def _labels(error: dict[str, Any], code: Any) -> Iterator[str]:
    inner = error.get("innererror")
    details = error.get("details")
    nested = [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
    candidates = [
        details.get("error_code") if isinstance(details, dict) else None,
        *(detail.get("reason") for detail in nested),
        *(quota for detail in nested for quota in _quota_ids(detail)),
        inner.get("code") if isinstance(inner, dict) else None,
        code,
        error.get("type"),
        error.get("status"),
    ]
    yield from filter(None, map(_word, candidates))


def _quota_ids(detail: dict[str, Any]) -> Iterator[Any]:
    violations = detail.get("violations")
    for violation in violations if isinstance(violations, list) else ():
        if isinstance(violation, dict) and "PerDay" in str(violation.get("quotaId", "")):
            yield "quota_per_day"
            if "PerModel" in violation["quotaId"]:
                yield _OF_MODEL


def _message(error: dict[str, Any]) -> str | None:
    message = error.get("message")
    if isinstance(message, list | dict):
        message = _flattened(message)
    if not message:
        message = _flattened(error.get("detail"))
    metadata = error.get("metadata")
    cause = metadata.get("raw") if isinstance(metadata, dict) else None
    if isinstance(cause, str) and cause and isinstance(message, str):
        return f"{message}: {cause}"
    return message if isinstance(message, str) and message else None


def _flattened(value: Any) -> str | None:
    """The sentences in FastAPI's `detail`, or in a message that is a list."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        nested = value.get("msg") or value.get("message") or value.get("detail")
        return _flattened(nested) if nested else msgspec.json.encode(value).decode()
    if isinstance(value, list):
        return "; ".join(filter(None, map(_flattened, value[:8]))) or None
    return None


def _location(detail: Any) -> str | None:
    first = detail[0] if isinstance(detail, list) and detail else None
    path = first.get("loc") if isinstance(first, dict) else None
    if not isinstance(path, list):
        return None
    return ".".join(str(step) for step in path if step != "body") or None


def _label(value: Any) -> str | None:
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value and not value.isdigit() else None


def _status(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    return value if isinstance(value, int) and 400 <= value <= 599 else 0


def _quote(body: bytes) -> str | None:
    text = body[: 4 * _QUOTED_CHARS].decode("utf-8", "replace")
    return " ".join(text.split())[:_QUOTED_CHARS] or None
