"""What every generation request may carry beyond OpenAI's own parameters."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, Literal

import msgspec

from server.domain.errors import GatewayError, Reason
from server.domain.limits import MAX_SESSION_ID_CHARS, MAX_SHOWN_CHARS, check_length
from server.domain.request import MaxPrice, RawJson, RoutingPreferences

FORBIDDEN_OPTIONS: Final = frozenset({"api_base", "api_key", "base_url"})
"""Nobody may say where a provider's key is sent to, or with whose key."""


class _MaxPriceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt: Decimal | None = None
    completion: Decimal | None = None


class _ProviderBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    order: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    sort: Literal["price", "latency", "throughput"] | None = None
    max_price: _MaxPriceBody | None = None


class _DebugBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool | None = None
    trace: bool | None = None


class ExtrasBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The extra fields; the request body of each surface is a subclass. A null counts as absent."""

    meta: bool | None = None
    usage: bool | None = None
    provider: _ProviderBody | None = None
    models: tuple[str, ...] | None = None
    provider_options: dict[str, dict[str, RawJson]] | None = None
    session_id: str | None = None
    debug: _DebugBody | None = None

    def routing(self) -> RoutingPreferences:
        """The client's wishes about providers. Raises GatewayError naming what is wrong with them."""
        if self.session_id is not None:
            check_length(self.session_id, MAX_SESSION_ID_CHARS, "session_id")
        wishes = self.provider or _NO_WISHES
        dearest = wishes.max_price
        return RoutingPreferences(
            order=wishes.order or (),
            only=wishes.only or (),
            ignore=wishes.ignore or (),
            allow_fallbacks=wishes.allow_fallbacks is not False,
            require_parameters=wishes.require_parameters is not False,
            sort=wishes.sort,
            max_price=None if dearest is None else MaxPrice(_decimal(dearest.prompt), _decimal(dearest.completion)),
            fallback_models=self.models or (),
            session_id=self.session_id,
        )

    def options(self) -> Mapping[str, Mapping[str, RawJson]]:
        """`provider_options` by provider id. Raises GatewayError for one that would redirect a provider's key."""
        for provider_id, options in (self.provider_options or {}).items():
            for name in options:
                if name.strip().lower() in FORBIDDEN_OPTIONS:
                    param = f"provider_options.{provider_id[:MAX_SHOWN_CHARS]}.{name.strip()}"
                    raise GatewayError(
                        Reason.UNKNOWN_PARAMETER,
                        f"`{name.strip()}` cannot be set through provider_options.",
                        param=param,
                    )
        return self.provider_options or {}

    def wants_trace(self) -> bool:
        return self.debug is not None and bool(self.debug.trace) and self.debug.enabled is not False


_NO_WISHES: Final = _ProviderBody()


def _decimal(value: Decimal | None) -> str | None:
    return None if value is None else str(value)
