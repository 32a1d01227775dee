"""Credit: what a request holds before a provider is called, and how that ends, once.

`Ledger` is the port. A reservation is named by the suffix of its request, and ends as exactly one of settle, void and
expire. What a request cost beyond what it held is an `adjust` entry of its own, and so is the cost of a reservation
that had expired before its settlement came.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Literal, Protocol

import msgspec

from server.domain.money import NANOS_PER_USD
from server.domain.record import GenerationRecord, StoredContent

MINIMUM_NANOS: Final = 1 * NANOS_PER_USD
"""What must be available before any request that costs something."""

EntryKind = Literal["reserve", "settle", "void", "expire", "top_up", "adjust"]
LimitReset = Literal["daily", "weekly", "monthly"]


class SpendLimit(msgspec.Struct, frozen=True):
    """What a key may spend; in a day, week (from Monday) or month of UTC, or ever where `reset` is None."""

    limit_nanos: int
    reset: LimitReset | None = None


class Hold(msgspec.Struct, frozen=True):
    """Credit to be reserved for one request. `opening` is its record as far as it is known, for the case of a crash."""

    held_nanos: int
    opening: GenerationRecord
    spend_limit: SpendLimit | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What was answered to a request with an idempotency key; kept with the settlement, in one transaction.

    `body` is None where it was too large to be kept.
    """

    key: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes | None


class Settlement(msgspec.Struct, frozen=True):
    """How a request ended. `held`: whether it has a reservation; `charge_nanos` None voids that.

    A charge of 0 settles all the same. `record` is written in the same transaction, and so are `outcome` and `content`.
    """

    record: GenerationRecord
    held: bool
    charge_nanos: int | None = None
    content: StoredContent | None = None
    outcome: Outcome | None = None


class Ledger(Protocol):
    async def reserve(self, hold: Hold) -> None:
        """Hold credit: only what also ends the call that it is for can lose it once this returns.

        Raises GatewayError, and then holds nothing: `insufficient_funds`, `key_limit_reached`, `database_unavailable`,
        `overloaded`, `shutting_down`.
        """
        ...

    def settle(self, settlement: Settlement) -> Awaitable[None]:
        """Take the settlement over at once, without an await; the awaitable returns when it is durable.

        It is carried out however long the database is away, and whoever stops waiting for it.
        """
        ...
