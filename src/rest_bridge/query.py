"""Query parameters: only known ones, and each of the type it has."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from rest_bridge.http import RestRequest
from rest_bridge.json import invalid
from server.domain.errors import GatewayError, Reason
from server.domain.limits import MAX_SHOWN_CHARS

MAX_DIGITS: Final = 10


def check_query(request: RestRequest, known: Collection[str]) -> None:
    """Raise `unknown_parameter` naming the first that is not known."""
    for name in request.query:
        if name not in known:
            shown = name[:MAX_SHOWN_CHARS]
            raise GatewayError(Reason.UNKNOWN_PARAMETER, f"`{shown}` is not a known parameter.", param=shown)


def single(request: RestRequest, name: str) -> str | None:
    """The value of a parameter that may be given once. Raises `invalid_value` where it is given twice."""
    values = request.query.get(name, ())
    if len(values) > 1:
        raise invalid(name, f"`{name}` can be given only once.")
    return values[0] if values else None


def whole_number(request: RestRequest, name: str) -> int | None:
    """As `single`, a whole number that is not negative."""
    text = single(request, name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise invalid(name, f"`{name}` must be a whole number.")
    return int(text)
