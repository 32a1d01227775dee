"""The gateway's books as they lie in its database, read with queries of our own: the gateway's code is not asked."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import asyncpg
import msgspec

Row = Mapping[str, Any]


class Entry(msgspec.Struct, frozen=True):
    team: str
    kind: str
    suffix: str | None
    key_id: str | None
    balance: int
    reserved: int
    note: str | None = None


class Record(msgspec.Struct, frozen=True):
    """A row of `generations`: its columns, and `told`, the record that they were taken from."""

    suffix: str
    team: str
    key_id: str
    endpoint: str
    model: str
    provider: str | None
    status: int
    success: bool
    cost: int
    told: dict[str, Any]

    @property
    def usage(self) -> dict[str, Any]:
        return self.told.get("usage") or {}

    @property
    def pricing(self) -> dict[str, Any]:
        return self.usage.get("pricing") or {}

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return self.told.get("attempts") or []


class Wallet(msgspec.Struct, frozen=True):
    team: str
    balance: int
    reserved: int


class Spent(msgspec.Struct, frozen=True):
    """What a team's days add up to."""

    team: str
    requests: int
    cost: int


class Books(msgspec.Struct, frozen=True):
    """Everything that is about money. Teams stand here by name; `open_holds` are the suffixes of open reservations."""

    entries: tuple[Entry, ...]
    wallets: tuple[Wallet, ...]
    open_holds: tuple[str, ...]
    records: tuple[Record, ...]
    days: tuple[Spent, ...]


class Database(Protocol):
    """Where to read, beside the gateways that write."""

    @property
    def url(self) -> str: ...

    async def fetch(self, query: str) -> Sequence[Row]: ...


class SqliteFile:
    """The file of a gateway, opened for reading only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        return f"sqlite+aiosqlite:///{self.path}"

    async def fetch(self, query: str) -> Sequence[Row]:
        return await asyncio.to_thread(self._fetch, query)

    def _fetch(self, query: str) -> Sequence[Row]:
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10)
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]
        finally:
            connection.close()


class PostgresDatabase:
    """A database of a server that listens on a Unix socket in `directory`."""

    def __init__(self, url: str, directory: Path, name: str) -> None:
        self.url = url
        self._directory, self._name = directory, name

    async def fetch(self, query: str) -> Sequence[Row]:
        connection = await asyncpg.connect(host=str(self._directory), user="test", database=self._name)
        try:
            return [dict(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()


_ENTRIES: Final = """
    SELECT t.name AS team, e.kind, e.reservation_id, e.key_id, e.balance_nanos, e.reserved_nanos, e.note
    FROM ledger_entries e JOIN teams t ON t.id = e.team_id ORDER BY e.id"""
_WALLETS: Final = """
    SELECT t.name AS team, w.balance_nanos, w.reserved_nanos FROM wallets w JOIN teams t ON t.id = w.team_id"""
_OPEN: Final = "SELECT id FROM reservations"
_RECORDS: Final = """
    SELECT g.suffix, t.name AS team, g.key_id, g.endpoint, g.model_id, g.provider, g.status_code, g.success,
           g.cost_nanos, g.record_json
    FROM generations g JOIN teams t ON t.id = g.team_id"""
_DAYS: Final = """
    SELECT t.name AS team, SUM(d.requests) AS requests, SUM(d.cost_nanos) AS cost
    FROM daily_usage d JOIN teams t ON t.id = d.team_id GROUP BY t.name"""


async def read(database: Database) -> Books:
    """All of it; only right when nobody writes any more."""
    entries = [
        Entry(
            row["team"],
            row["kind"],
            row["reservation_id"],
            row["key_id"],
            row["balance_nanos"],
            row["reserved_nanos"],
            row["note"],
        )
        for row in await database.fetch(_ENTRIES)
    ]
    records = [
        Record(
            row["suffix"],
            row["team"],
            row["key_id"],
            row["endpoint"],
            row["model_id"],
            row["provider"],
            row["status_code"],
            bool(row["success"]),
            row["cost_nanos"],
            json.loads(bytes(row["record_json"])),
        )
        for row in await database.fetch(_RECORDS)
    ]
    return Books(
        entries=tuple(entries),
        wallets=tuple(
            Wallet(row["team"], row["balance_nanos"], row["reserved_nanos"]) for row in await database.fetch(_WALLETS)
        ),
        open_holds=tuple(row["id"] for row in await database.fetch(_OPEN)),
        records=tuple(records),
        days=tuple(Spent(row["team"], int(row["requests"]), int(row["cost"])) for row in await database.fetch(_DAYS)),
    )


async def open_holds(database: Database) -> int:
    """How many reservations have not ended."""
    rows = await database.fetch("SELECT COUNT(*) AS held FROM reservations")
    return int(rows[0]["held"])
