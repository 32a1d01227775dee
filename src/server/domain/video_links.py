"""Addresses at which anybody who has them can download what a video came to, without a key, for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from server.domain.limits import invalid_choice, invalid_value
from server.domain.video import VARIANTS, Variant

__all__ = [
    "DEFAULT_LIFETIME_S",
    "DISPOSITIONS",
    "MAX_LIFETIME_S",
    "Disposition",
    "GivenLink",
    "Link",
    "LinkWish",
    "Secrets",
    "link_wish",
]

ChoiceT = TypeVar("ChoiceT", bound=str)

DEFAULT_LIFETIME_S: Final = 3600
MAX_LIFETIME_S: Final = 86_400
Disposition: TypeAlias = Literal["inline", "attachment"]
DISPOSITIONS: Final[tuple[Disposition, ...]] = ("inline", "attachment")
"""Whether a browser is to show it or to save it."""


class LinkWish(msgspec.Struct, frozen=True):
    """What an address is to lead to, and for how long."""

    variant: Variant = VARIANTS[0]
    lifetime_s: int = DEFAULT_LIFETIME_S
    disposition: Disposition = DISPOSITIONS[0]


class Link(msgspec.Struct, frozen=True):
    """`url` is whole; it holds a signature, and nobody logs it. `expires_at` is in seconds since 1970."""

    url: str
    variant: Variant
    expires_at: int


class GivenLink(msgspec.Struct, frozen=True):
    """An address as somebody gives it back: each part as it is spelled, None where it is not there."""

    video_id: str
    variant: str | None
    disposition: str | None
    expires: str | None
    signature: str | None


class Secrets(Protocol):
    """What all gateways on one database know, and nobody else. Made when it is first asked for."""

    async def get(self, name: str) -> bytes:
        """32 random bytes, the same for ever. Raises GatewayError (`database_unavailable`)."""
        ...


def link_wish(
    variant: str | None, lifetime_s: int | None, disposition: str | None, lifetime_param: str = "expires_in_seconds"
) -> LinkWish:
    """None is whatever is usual. Raises GatewayError (`invalid_value`) naming what is wrong."""
    usual = LinkWish()
    lifetime_s = usual.lifetime_s if lifetime_s is None else lifetime_s
    if not 1 <= lifetime_s <= MAX_LIFETIME_S:
        raise invalid_value(lifetime_param, f"must be from 1 to {MAX_LIFETIME_S}, not {lifetime_s}")
    return LinkWish(
        usual.variant if variant is None else _one_of(VARIANTS, variant, "variant"),
        lifetime_s,
        usual.disposition if disposition is None else _one_of(DISPOSITIONS, disposition, "disposition"),
    )


def _one_of(choices: Sequence[ChoiceT], given: str, param: str) -> ChoiceT:
    for choice in choices:
        if choice == given:
            return choice
    raise invalid_choice(param, choices, given)
