"""What is answered instead of what was asked for, in OpenAI's shape."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

__all__ = ["Refused", "bad_request"]


class Refused(Exception):
    """Ends a request with an error; `param` is the field that it is about."""

    def __init__(self, status: HTTPStatus, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def bad_request(code: str, message: str, param: str | None = None) -> Refused:
    """A 400."""
    return Refused(HTTPStatus.BAD_REQUEST, code, message, param)
