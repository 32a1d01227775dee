"""Wallets as their operators see them: paid into, corrected, read."""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec
from sqlalchemy import Connection, exc, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.ledger import EntryKind
from server.domain.money import NANOS_PER_USD, usd
from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.key_records import UnknownTeam
from server.storage.ledger_rows import Rows
from server.storage.ledger_sql import lock_wallets
from server.storage.tables import ledger_entries, wallets
from server.storage.teams import find_team

__all__ = ["AmountRefused", "Entry", "Payment", "ReferenceUsed", "Wallet", "Wallets"]

MAX_BALANCE_NANOS: Final = 1_000_000_000 * NANOS_PER_USD
"""What a wallet may hold; the database's integers take nine times as much."""


class AmountRefused(ValueError):
    """The wallet can't take, or give, this amount. The text says why."""


class ReferenceUsed(ValueError):
    """The reference belongs to a top-up of another amount."""


class Wallet(msgspec.Struct, frozen=True):
    """What a team has, in nano-dollars."""

    balance_nanos: int = 0
    reserved_nanos: int = 0

    @property
    def available_nanos(self) -> int:
        return self.balance_nanos - self.reserved_nanos


class Payment(msgspec.Struct, frozen=True):
    """A top-up or a correction. `is_new`: False where the reference had been counted before."""

    wallet: Wallet
    is_new: bool


class Entry(msgspec.Struct, frozen=True):
    """One line of a statement. `suffix` is of the request that caused it, `created_at` in seconds since 1970."""

    id: int
    kind: EntryKind
    suffix: str | None
    key_id: str | None
    balance_nanos: int
    reserved_nanos: int
    created_at: int
    note: str | None
    reference: str | None


class Wallets:
    """The wallets of all teams, which are named by their names. Every method raises UnknownTeam."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def show(self, team: str) -> Wallet:
        async def work(connection: AsyncConnection) -> Wallet:
            team_id = await _team_id(connection, team)
            query = select(wallets.c.balance_nanos, wallets.c.reserved_nanos).where(wallets.c.team_id == team_id)
            row = (await connection.execute(query)).one_or_none()
            return Wallet() if row is None else Wallet(*row)

        return await self._database.read(work)

    async def statement(self, team: str, limit: int) -> list[Entry]:
        """The latest entries, newest first."""
        columns = [ledger_entries.c.reservation_id if name == "suffix" else ledger_entries.c[name] for name in _FIELDS]

        async def work(connection: AsyncConnection) -> list[Entry]:
            team_id = await _team_id(connection, team)
            query = select(*columns).where(ledger_entries.c.team_id == team_id)
            rows = await connection.execute(query.order_by(ledger_entries.c.id.desc()).limit(limit))
            return [Entry(*row) for row in rows]

        return await self._database.read(work)

    async def top_up(self, team: str, nanos: int, *, reference: str | None = None) -> Payment:
        """Pay in; a reference counts once. Raises AmountRefused, ReferenceUsed."""
        if nanos <= 0:
            raise AmountRefused("a top-up is more than nothing; `wallet adjust` takes back")
        return await self._pay(team, "top_up", nanos, None, reference)

    async def adjust(self, team: str, nanos: int, note: str) -> Payment:
        """Correct the balance, up or down. Raises AmountRefused."""
        return await self._pay(team, "adjust", nanos, note, None)

    async def _pay(self, team: str, kind: EntryKind, nanos: int, note: str | None, reference: str | None) -> Payment:
        async def find(connection: AsyncConnection) -> str:
            return await _team_id(connection, team)

        team_id = await self._database.read(find)
        pay = partial(
            _pay, team_id=team_id, kind=kind, nanos=nanos, note=note, reference=reference, now=int(self._clock.now())
        )
        try:
            return await self._database.transact(pay)
        except exc.IntegrityError:
            if reference is None:
                raise
            return await self._database.transact(pay)  # another paid it in meanwhile, and now it can be seen


def _pay(
    connection: Connection,
    *,
    team_id: str,
    kind: EntryKind,
    nanos: int,
    note: str | None,
    reference: str | None,
    now: int,
) -> Payment:
    available = lock_wallets(connection, [team_id]).get(team_id, 0)
    if reference is not None:
        query = select(ledger_entries.c.kind, ledger_entries.c.balance_nanos)
        row = connection.execute(
            query.where(ledger_entries.c.team_id == team_id, ledger_entries.c.reference == reference)
        ).one_or_none()
        if row is not None:
            if tuple(row) != (kind, nanos):
                raise ReferenceUsed(f"the reference belongs to a top-up of {usd(row.balance_nanos)} USD")
            return Payment(_read(connection, team_id), is_new=False)
    if nanos < 0 and available + nanos < 0:
        raise AmountRefused(f"the team has {usd(available)} USD available, and cannot have less than nothing")
    if available + nanos > MAX_BALANCE_NANOS:
        raise AmountRefused(f"a wallet holds {usd(MAX_BALANCE_NANOS)} USD at most")
    rows = Rows("", now)
    rows.entry(team_id, kind, balance=nanos, note=note, reference=reference)
    rows.write(connection)
    return Payment(_read(connection, team_id), is_new=True)


def _read(connection: Connection, team_id: str) -> Wallet:
    query = select(wallets.c.balance_nanos, wallets.c.reserved_nanos).where(wallets.c.team_id == team_id)
    return Wallet(*connection.execute(query).one())


async def _team_id(connection: AsyncConnection, name: str) -> str:
    team = await find_team(connection, name)
    if team is None:
        raise UnknownTeam(name)
    return team.id


_FIELDS: Final = Entry.__struct_fields__
