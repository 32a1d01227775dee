"""`provider_options` for Gemini: merged into the body, and into its `generationConfig`, where they may stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from server.domain.errors import GatewayError, Reason, option_refused
from server.domain.request import Request
from server.providers.provider_options import options_for

_FORBIDDEN: Final = frozenset({"contents", "systeminstruction", "cachedcontent"})
"""What the gateway has checked; and a name in its own account's cache, which every team would share."""
_FORBIDDEN_CONFIG: Final = frozenset({"maxoutputtokens", "candidatecount"})
"""What credit was reserved for."""

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def gemini_options(request: Request, provider_id: str) -> Mapping[str, msgspec.Raw]:
    """The fields to merge into the body. Raises GatewayError for one that no client may set."""
    options = options_for(request, provider_id)
    for key, value in options.items():
        name = _plain(key)
        path = f"provider_options.{provider_id}.{key}"
        if name in _FORBIDDEN:
            raise option_refused(provider_id, key)
        if name == "generationconfig":
            for inner in _config(value, path):
                if _plain(inner) in _FORBIDDEN_CONFIG:
                    raise option_refused(f"{provider_id}.{key}", inner)
    return options


def merge(body: dict[str, Any], options: Mapping[str, msgspec.Raw]) -> None:
    """Put `options`, which `gemini_options` has let pass, into `body`."""
    for key, value in options.items():
        if _plain(key) == "generationconfig":
            body["generationConfig"] = {**body.get("generationConfig", {}), **_config(value, key)}
        else:
            body[key] = value


def _config(value: msgspec.Raw, path: str) -> dict[str, msgspec.Raw]:
    try:
        return _object.decode(value)
    except msgspec.DecodeError:
        raise GatewayError(Reason.INVALID_VALUE, f"`{path}` must be an object.", param=path) from None


def _plain(key: str) -> str:
    return key.strip().replace("_", "").lower()
