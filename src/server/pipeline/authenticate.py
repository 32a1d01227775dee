"""Who is calling, and whether they may: from the `authorization` header to a Principal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from server.domain.errors import GatewayError, Reason
from server.domain.identity import Principal, Scope
from server.domain.ports import KeyStore

__all__ = ["Authenticate"]

MAX_HEADER_LENGTH: Final = 1024

_REFUSED: Final = "A valid API key is needed, in the header 'Authorization: Bearer <key>'."
"""The same whatever is wrong with the key: the answer must not tell a guess that was close from one that was not."""


class Authenticate:
    """Callable: `await authenticate(header, Scope.INFERENCE, "203.0.113.7")`. `used` is told the id of each key that it
    lets in.
    """

    def __init__(self, keys: KeyStore, used: Callable[[str], None] | None = None) -> None:
        self._keys = keys
        self._used = used

    async def __call__(self, authorization_header: str | None, required: Scope, client: str = "") -> Principal:
        """The caller, whose address is `client`.

        Raises GatewayError: `invalid_api_key`, `address_not_allowed`, `missing_scope`, `database_unavailable`.
        """
        token = bearer_token(authorization_header)
        principal = None if token is None else await self._keys.authenticate(token)
        if principal is None:
            raise GatewayError(Reason.INVALID_API_KEY, _REFUSED)
        if not principal.restrictions.allows_address(client):
            raise GatewayError(Reason.ADDRESS_NOT_ALLOWED, "This API key may not be used from where this request came.")
        if required not in principal.scopes:
            raise GatewayError(Reason.MISSING_SCOPE, f"This API key lacks the scope '{required.value}'.")
        if self._used is not None:
            self._used(principal.key_id)
        return principal


def bearer_token(authorization_header: str | None) -> str | None:
    """The token of `Bearer <token>`, whatever the case of the scheme; None where there is none."""
    if authorization_header is None or len(authorization_header) > MAX_HEADER_LENGTH:
        return None
    scheme, _, token = authorization_header.strip().partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token else None
