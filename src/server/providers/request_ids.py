"""What a provider calls a request of ours: its support asks for that."""

from __future__ import annotations

from typing import Final

from server.domain.catalog import Provider
from server.providers.http_port import ResponseHeaders
from server.providers.scrub import cleaned_label

_HEADERS: Final = (
    "x-request-id",
    "request-id",
    "apim-request-id",
    "mistral-correlation-id",
    "inference-id",
    "x-generation-id",
)


def upstream_request_id(headers: ResponseHeaders, provider: Provider) -> str | None:
    """The provider's own id of a request, bounded and cleaned; None where the reply tells none."""
    found = (cleaned_label(headers.get(name), provider) for name in _HEADERS)
    return next(filter(None, found), None)
