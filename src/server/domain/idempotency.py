"""Idempotency keys: a request that came with one is carried out once, and its outcome told as often as it is asked."""

from __future__ import annotations

from typing import Protocol

import msgspec

from server.domain.ledger import Outcome


class Claim(msgspec.Struct, frozen=True):
    """A request with an idempotency key. `fingerprint` is the SHA-256 of what it asks for; `suffix` its own."""

    team_id: str
    key: str
    fingerprint: bytes
    suffix: str


class Earlier(msgspec.Struct, frozen=True):
    """The request that had a key first; `outcome` is None while it is under way."""

    fingerprint: bytes
    suffix: str
    outcome: Outcome | None = None


class IdempotencyStore(Protocol):
    """What one worker knows and says of idempotency keys. All raise GatewayError (`database_unavailable`).

    A key is free where it has never been used, has expired, or is held by the same request without an outcome in a
    worker that is dead, or in this worker: the caller knows what itself is working on.
    """

    async def begin(self, claim: Claim) -> Earlier | None:
        """Take the key for this request; durable when this returns. None where it was free, else who has it."""
        ...

    async def look(self, claim: Claim) -> Earlier | None:
        """Who has the key; None where it is free. Changes nothing."""
        ...

    async def finish(self, claim: Claim, outcome: Outcome) -> None:
        """Keep the outcome of a request that settles nothing; where it does, the ledger keeps both at once."""
        ...

    async def forget(self, claim: Claim) -> None:
        """Let go of the key, so that a retry is a fresh attempt."""
        ...
