"""Who holds a key: authentication against the database, with a memory of less than a second."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.identity import Principal
from server.domain.ports import Clock
from server.storage import api_key
from server.storage.database import Database
from server.storage.key_rows import KeyRecord, select_key

__all__ = ["SqlKeyStore"]

CACHE_TTL_S: Final = 0.8
"""How old a row may be when it decides, counted from before it was read. A revoked key must fail within 1 s."""

MAX_KNOWN: Final = 10_000
MAX_UNKNOWN: Final = 10_000
"""Unknown ids are kept apart, so that guesses can't push valid keys out."""


class _Lookup(msgspec.Struct, frozen=True):
    """What the database said of one id, and the monotonic time just before it was asked."""

    asked_s: float
    record: KeyRecord | None

    def key(self, secret: str, now: float) -> KeyRecord | None:
        """The record, where the secret is the key's."""
        return self.record if self.record is not None and self.record.opens(secret, now) else None


class SqlKeyStore:
    """Implements `server.domain.ports.KeyStore`.

    Rows are remembered by key id and hold the hash, so a token is compared with the stored hash each time, however
    often it was right before. Simultaneous lookups of one id share one query. A secret that a remembered row does not
    know may be newer than the row: the database is asked again before it is refused.
    """

    def __init__(
        self, database: Database, clock: Clock, *, max_known: int = MAX_KNOWN, max_unknown: int = MAX_UNKNOWN
    ) -> None:
        self._database = database
        self._clock = clock
        self._max_known = max_known
        self._max_unknown = max_unknown
        self._known: OrderedDict[str, _Lookup] = OrderedDict()
        self._unknown: OrderedDict[str, _Lookup] = OrderedDict()
        self._flights: dict[str, tuple[float, asyncio.Task[_Lookup]]] = {}

    async def authenticate(self, token: str) -> Principal | None:
        """The principal of a valid key, else None. Text that can't be a key never reaches the database.

        Raises GatewayError (`database_unavailable`).
        """
        parts = api_key.parse(token)
        if parts is None:
            return None
        arrived_s = self._clock.monotonic()
        lookup = self._recall(parts.kid) or await self._look_up(parts.kid)
        record = lookup.key(parts.secret, self._clock.now())
        if record is None and lookup.record is not None and lookup.asked_s < arrived_s:
            lookup = await self._look_up(parts.kid, since_s=arrived_s)
            record = lookup.key(parts.secret, self._clock.now())
        if record is None or not record.key.is_valid(self._clock.now()):
            return None
        key = record.key
        return Principal(
            team_id=key.team_id,
            key_id=key.id,
            scopes=key.scopes,
            spend_limit=key.spend_limit,
            policy=record.policy,
            restrictions=key.restrictions,
        )

    def _recall(self, kid: str) -> _Lookup | None:
        lookup = self._known.get(kid) or self._unknown.get(kid)
        return lookup if lookup is not None and self._is_fresh(lookup.asked_s) else None

    def _is_fresh(self, asked_s: float) -> bool:
        return self._clock.monotonic() - asked_s < CACHE_TTL_S

    async def _look_up(self, kid: str, *, since_s: float = -math.inf) -> _Lookup:
        """What the database says of this id, asked after `since_s`; there is one query for it at a time.

        Join the one under way, unless it began too long ago; else ask.
        """
        while True:
            flight = self._flights.get(kid)
            if flight is None or not self._is_fresh(flight[0]):
                asked_s = self._clock.monotonic()
                task = asyncio.create_task(self._ask(kid, asked_s))
                flight = self._flights[kid] = (asked_s, task)
                task.add_done_callback(lambda done: self._land(kid, done))
            lookup = await asyncio.shield(flight[1])
            if lookup.asked_s >= since_s:
                return lookup

    async def _ask(self, kid: str, asked_s: float) -> _Lookup:
        async def work(connection: AsyncConnection) -> KeyRecord | None:
            return await select_key(connection, kid)

        lookup = _Lookup(asked_s=asked_s, record=await self._database.read(work))
        self._remember(kid, lookup)
        return lookup

    def _land(self, kid: str, task: asyncio.Task[_Lookup]) -> None:
        if self._flights.get(kid, (0.0, None))[1] is task:
            del self._flights[kid]

    def _remember(self, kid: str, lookup: _Lookup) -> None:
        self._known.pop(kid, None)
        self._unknown.pop(kid, None)
        cache, limit = (self._unknown, self._max_unknown) if lookup.record is None else (self._known, self._max_known)
        cache[kid] = lookup
        if len(cache) > limit:
            cache.popitem(last=False)
