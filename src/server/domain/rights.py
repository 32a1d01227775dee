"""What a key may do, compared: a key never gives more than it has, whatever it makes, changes or renews.

A change of a key is allowed where it takes rights away, or where it leaves the key with no more than the key that asks
has itself. So no row of changes, by however many keys, leads to more than the keys that began it had.
"""

from __future__ import annotations

from typing import Final

import msgspec

from server.domain.errors import GatewayError, Reason
from server.domain.identity import Scope
from server.domain.ledger import LimitReset, SpendLimit
from server.domain.restrictions import Restrictions

__all__ = ["Rights", "check_gift"]


class Rights(msgspec.Struct, frozen=True):
    """What a key may do while it is valid. `expires_at` is in seconds since 1970, None for never."""

    scopes: frozenset[Scope]
    expires_at: int | None = None
    spend_limit: SpendLimit | None = None
    restrictions: Restrictions = Restrictions()

    def exceeding(self, own: Rights) -> str | None:
        """The first field in which these allow anything that `own` do not; None where there is none."""
        if not self.scopes <= own.scopes:
            return "scopes"
        if own.expires_at is not None and (self.expires_at is None or self.expires_at > own.expires_at):
            return "expires_at"
        return _spends_more(self.spend_limit, own.spend_limit) or self.restrictions.exceeding(own.restrictions)


def check_gift(given: Rights, own: Rights) -> None:
    """Raise `beyond_own_rights` where a key with the rights `own` may not hand out a key with the rights `given`.

    A key with a spend limit hands out none at all: that key's limit would come on top of its own.
    """
    field = given.exceeding(own)
    if field is not None:
        raise GatewayError(Reason.BEYOND_OWN_RIGHTS, f"{field}: {_SAID[field]}", param=field)
    if own.spend_limit is not None:
        raise GatewayError(
            Reason.BEYOND_OWN_RIGHTS,
            "A key with a spend limit can neither make keys nor give others rights: what those may spend would come on"
            " top of its own limit. Use a key without one.",
            param="limit",
        )


_SAID: Final = {
    "scopes": "a key can give only scopes that it has itself.",
    "expires_at": "a key cannot give a longer life than its own.",
    "limit": "a key cannot give more to spend than it may spend itself.",
    "limit_reset": "a key cannot give a limit that is renewed sooner than its own.",
    "allowed_models": "a key cannot give models that it may not use itself.",
    "allowed_providers": "a key cannot give providers that it may not use itself.",
    "allowed_cidrs": "a key cannot give addresses from which it may not be used itself.",
}


def _spends_more(limit: SpendLimit | None, own: SpendLimit | None) -> str | None:
    if own is None:
        return None
    if limit is None or limit.limit_nanos > own.limit_nanos:
        return "limit"
    return None if _is_no_sooner(limit.reset, own.reset) else "limit_reset"


def _is_no_sooner(reset: LimitReset | None, own: LimitReset | None) -> bool:
    """Whether in no period of `own` a limit can be spent twice. A week can lie in two months."""
    return reset in (own, None) or own == "daily"
