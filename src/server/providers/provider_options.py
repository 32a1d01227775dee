"""`provider_options`: what a client adds to one provider's request by itself, and what it may not touch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from server.domain.errors import option_refused
from server.domain.request import Request

FORBIDDEN_OPTIONS: Final = frozenset(
    {"base_url", "api_base", "api_key", "model", "models", "messages", "input", "stream", "stream_options"}
)
"""Where the request goes, with whose key, what the gateway has checked and accounts for, and that usage is told."""

_NO_OPTIONS: Final[Mapping[str, msgspec.Raw]] = {}


def options_for(request: Request, provider_id: str) -> Mapping[str, msgspec.Raw]:
    """The fields to merge into that provider's request. Raises GatewayError for one that is forbidden."""
    options = request.provider_options.get(provider_id, _NO_OPTIONS)
    for key in options:
        if key.strip().lower() in FORBIDDEN_OPTIONS:
            raise option_refused(provider_id, key)
    return options
