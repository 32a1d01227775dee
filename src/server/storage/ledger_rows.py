"""The rows that a group of ledger operations leaves, collected and then written table by table."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Insert, delete, insert
from sqlalchemy.dialects import postgresql, sqlite

from server.domain.ledger import EntryKind
from server.domain.periods import day_of
from server.domain.record import GenerationRecord, StoredContent
from server.storage.ledger_sql import Reservation
from server.storage.prepared import Prepared, PreparedForIds
from server.storage.tables import (
    daily_usage,
    generation_contents,
    generations,
    ledger_entries,
    reservations,
    wallets,
)

__all__ = ["Rows"]

DAY_S: Final = 86_400
MAX_TOKENS: Final = 10**12
"""What one request adds to a day at most: however often a provider is mistaken, the columns hold the sum."""

_encode = msgspec.json.Encoder().encode

_Row = dict[str, Any]
_UsageKey = tuple[str, int, str, str, str, str]


class Rows:
    """Rows of every table that the ledger writes. `now` is in whole seconds since 1970."""

    def __init__(self, worker_id: str, now: int) -> None:
        self._worker_id = worker_id
        self._now = now
        self._wallets: dict[str, list[int]] = {}
        self._entries: list[_Row] = []
        self._opened: list[_Row] = []
        self._closed: list[str] = []
        self._records: list[_Row] = []
        self._replacements: list[_Row] = []
        self._usage: dict[_UsageKey, list[int]] = {}
        self._contents: list[_Row] = []

    def entry(
        self,
        team_id: str,
        kind: EntryKind,
        *,
        balance: int = 0,
        reserved: int = 0,
        suffix: str | None = None,
        key_id: str | None = None,
        note: str | None = None,
        reference: str | None = None,
    ) -> None:
        """An entry, and what it does to the wallet."""
        self._entries.append(
            {
                "team_id": team_id,
                "kind": kind,
                "reservation_id": suffix,
                "key_id": key_id,
                "balance_nanos": balance,
                "reserved_nanos": reserved,
                "created_at": self._now,
                "note": note,
                "reference": reference,
            }
        )
        wallet = self._wallets.setdefault(team_id, [0, 0])
        wallet[0] += balance
        wallet[1] += reserved

    def reserve(self, opening: GenerationRecord, held: int) -> None:
        self.entry(opening.team_id, "reserve", reserved=held, suffix=opening.suffix, key_id=opening.key_id)
        self._opened.append(
            {
                "id": opening.suffix,
                "team_id": opening.team_id,
                "key_id": opening.key_id,
                "worker_id": self._worker_id,
                "held_nanos": held,
                "created_at": self._now,
                "opening_json": _encode(opening),
            }
        )

    def end(self, reservation: Reservation, kind: EntryKind, charge: int) -> None:
        """The entry that ends a reservation, and one more for what was not held."""
        held, suffix, team_id, key_id = (
            reservation.held_nanos,
            reservation.suffix,
            reservation.team_id,
            reservation.key_id,
        )
        self.entry(team_id, kind, balance=-min(charge, held), reserved=-held, suffix=suffix, key_id=key_id)
        if charge > held:
            self.entry(team_id, "adjust", balance=held - charge, suffix=suffix, key_id=key_id, note="overage")
        self._closed.append(suffix)

    def adjust(self, record: GenerationRecord, charge: int, note: str) -> None:
        self.entry(record.team_id, "adjust", balance=-charge, suffix=record.suffix, key_id=record.key_id, note=note)

    def record(self, record: GenerationRecord, *, replaces: bool = False) -> None:
        """The record of a generation; `replaces` the one that may be there."""
        (self._replacements if replaces else self._records).append(
            {
                "suffix": record.suffix,
                "team_id": record.team_id,
                "key_id": record.key_id,
                "created_at": record.created_at,
                "endpoint": record.endpoint,
                "model_id": _text(record.model_id),
                "provider": record.provider,
                "status_code": record.status_code,
                "success": record.success,
                "cost_nanos": record.cost_nanos,
                "record_json": _encode(record),
            }
        )

    def use(self, record: GenerationRecord, cost: int) -> None:
        """Count it into its day."""
        provider = record.provider or record.attempts[-1].provider
        key = (
            record.team_id,
            day_of(record.created_at),
            record.key_id,
            _text(record.model_id),
            record.endpoint,
            provider,
        )
        counts = self._usage.setdefault(key, [0, 0, 0, 0, 0])
        counts[0] += 1
        counts[4] += cost
        if record.usage is not None:
            counts[1] += min(record.usage.input_tokens, MAX_TOKENS)
            counts[2] += min(record.usage.output_tokens, MAX_TOKENS)
            counts[3] += min(record.usage.reasoning_tokens, MAX_TOKENS)

    def keep(self, record: GenerationRecord, content: StoredContent) -> None:
        self._contents.append(
            {
                "suffix": record.suffix,
                "team_id": record.team_id,
                "expires_at": record.created_at + content.days * DAY_S,
                "path": _text(content.path),
                "request_json": content.request,
                "reply_json": content.reply,
            }
        )

    @property
    def reserving_teams(self) -> set[str]:
        """Those that credit is held of."""
        return {row["team_id"] for row in self._opened}

    def write(self, connection: Connection) -> None:
        """Write all of it. Raises IntegrityError where what begins, ends or is recorded is there already.

        What other workers may want too comes last, for it is theirs only after the commit.
        """
        if self._entries:
            # In one order everywhere: two groups that end the same requests do not wait for each other.
            self._entries.sort(key=lambda row: row["reservation_id"] or "")
            _ENTRIES.execute(connection, self._entries)
        if self._opened:
            _RESERVATIONS.execute(connection, self._opened)
        if self._closed:
            _CLOSE.execute(connection, self._closed)
        if self._records:
            _RECORDS.execute(connection, self._records)
        if self._replacements:
            _REPLACE_RECORDS.execute(connection, self._replacements)
        if self._contents:
            _CONTENTS.execute(connection, self._contents)
        if self._wallets:
            deltas = [
                {"team_id": team_id, "balance_nanos": balance, "reserved_nanos": reserved}
                for team_id, (balance, reserved) in sorted(self._wallets.items())
            ]
            _WALLETS.execute(connection, deltas)
        if self._usage:
            used = [
                dict(zip(_USAGE_COLUMNS, (*key, *counts), strict=True)) for key, counts in sorted(self._usage.items())
            ]
            _USAGE.execute(connection, used)


def _text(value: str) -> str:
    """What a client wrote, as a text that PostgreSQL stores too."""
    return value.replace("\0", "\ufffd") if "\0" in value else value


def _adding(statement: sqlite.Insert | postgresql.Insert, key: list[str], added: list[str]) -> Insert:
    """An insert that adds to the row that may be there."""
    table = statement.table
    sums = {name: table.c[name] + statement.excluded[name] for name in added}
    return statement.on_conflict_do_update(index_elements=key, set_=sums).inline()


def _replacing(statement: sqlite.Insert | postgresql.Insert, key: str) -> Insert:
    """An insert that replaces the row that may be there."""
    values = {column.name: statement.excluded[column.name] for column in statement.table.c if column.name != key}
    return statement.on_conflict_do_update(index_elements=[key], set_=values).inline()


_USAGE_KEY: Final = ["team_id", "day", "key_id", "model_id", "endpoint", "provider"]
_USAGE_COUNTS: Final = ["requests", "input_tokens", "output_tokens", "reasoning_tokens", "cost_nanos"]
_USAGE_COLUMNS: Final = (*_USAGE_KEY, *_USAGE_COUNTS)
_BOTH: Final = (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))

_ENTRIES: Final = Prepared(
    insert(ledger_entries).inline(), [column.name for column in ledger_entries.c if column.name != "id"]
)
_RESERVATIONS: Final = Prepared(insert(reservations).inline())
_RECORDS: Final = Prepared(insert(generations).inline())
_CLOSE: Final = PreparedForIds(lambda ids: delete(reservations).where(reservations.c.id.in_(ids)))
_WALLETS: Final = Prepared(
    {name: _adding(make(wallets), ["team_id"], ["balance_nanos", "reserved_nanos"]) for name, make in _BOTH}
)
_USAGE: Final = Prepared({name: _adding(make(daily_usage), _USAGE_KEY, _USAGE_COUNTS) for name, make in _BOTH})
_REPLACE_RECORDS: Final = Prepared({name: _replacing(make(generations), "suffix") for name, make in _BOTH})
_CONTENTS: Final = Prepared({name: _replacing(make(generation_contents), "suffix") for name, make in _BOTH})
