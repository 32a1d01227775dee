"""What the ledger asks the database, a whole group at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import BindParameter, Connection, Select, TextClause, bindparam, func, select, text, union_all

from server.domain.ledger import SpendLimit
from server.domain.periods import FIRST_DAY, period_start_day
from server.domain.record import GenerationRecord
from server.storage.prepared import PreparedForIds
from server.storage.tables import daily_usage, generations, ledger_entries, reservations, wallets

_decode_opening = msgspec.json.Decoder(GenerationRecord).decode


class Reservation(msgspec.Struct, frozen=True):
    """One that has not ended."""

    suffix: str
    team_id: str
    key_id: str
    held_nanos: int
    opening_json: bytes

    @property
    def opening(self) -> GenerationRecord:
        return _decode_opening(self.opening_json)


def lock_wallets(connection: Connection, team_ids: Sequence[str]) -> dict[str, int]:
    """Keep all others from the money of these teams until the transaction ends; what each has available."""
    return _by_team(_LOCK.execute(connection, team_ids))


def available(connection: Connection, team_ids: Sequence[str]) -> dict[str, int]:
    """What each has available as this is asked, with what this transaction has written."""
    return _by_team(_AVAILABLE.execute(connection, team_ids))


def _by_team(rows: Sequence[Sequence[Any]]) -> dict[str, int]:
    return {team_id: balance - reserved for team_id, balance, reserved in rows}


def open_reservations(connection: Connection, suffixes: Sequence[str]) -> dict[str, Reservation]:
    rows = _OPEN.execute(connection, suffixes)
    return {row[0]: Reservation(*row) for row in rows}


def entry_kinds(connection: Connection, suffixes: Sequence[str]) -> dict[str, set[str]]:
    """The kinds of entries that there are of each reservation."""
    kinds: dict[str, set[str]] = {}
    for statement in _PAST:
        for suffix, kind in statement.execute(connection, suffixes):
            kinds.setdefault(suffix, set()).add(kind)
    return kinds


def recorded(connection: Connection, suffixes: Sequence[str]) -> set[str]:
    """Those that have a record already."""
    return {suffix for (suffix,) in _RECORDED.execute(connection, suffixes)}


def spent_by_keys(connection: Connection, limits: Mapping[str, SpendLimit], now: float) -> dict[str, int]:
    """What each key has spent in the period of its limit, and has reserved.

    Both at one moment: what ends meanwhile is in the one or the other, never in both.
    """
    spent: dict[str, int] = {}
    for reset in {limit.reset for limit in limits.values()}:
        keys = [key_id for key_id, limit in limits.items() if limit.reset == reset]
        since = period_start_day(reset, now)
        spent.update((key_id, int(nanos)) for key_id, nanos in _SPENT.execute(connection, keys, since=since))
    return spent


def _wallets(ids: BindParameter[Any]) -> Select[Any]:
    columns = wallets.c.team_id, wallets.c.balance_nanos, wallets.c.reserved_nanos
    return select(*columns).where(wallets.c.team_id.in_(ids)).order_by(wallets.c.team_id)


_LOCK: Final = PreparedForIds(lambda ids: _wallets(ids).with_for_update())
_AVAILABLE: Final = PreparedForIds(_wallets)
_OPEN: Final = PreparedForIds(
    lambda ids: select(
        reservations.c.id,
        reservations.c.team_id,
        reservations.c.key_id,
        reservations.c.held_nanos,
        reservations.c.opening_json,
    ).where(reservations.c.id.in_(ids))
)


def _past(kind: TextClause) -> PreparedForIds:
    return PreparedForIds(
        lambda ids: select(ledger_entries.c.reservation_id, ledger_entries.c.kind).where(
            ledger_entries.c.reservation_id.in_(ids), kind
        )
    )


_PAST: Final = tuple(
    map(_past, (text("kind = 'reserve'"), text("kind IN ('settle', 'void', 'expire')"), text("kind = 'adjust'")))
)
"""Each in the words of the index that makes it unique, or the index is not used."""
_RECORDED: Final = PreparedForIds(lambda ids: select(generations.c.suffix).where(generations.c.suffix.in_(ids)))


def _spent(ids: BindParameter[Any]) -> Select[Any]:
    held = select(reservations.c.key_id, reservations.c.held_nanos.label("nanos")).where(reservations.c.key_id.in_(ids))
    cost = select(daily_usage.c.key_id, daily_usage.c.cost_nanos).where(
        daily_usage.c.key_id.in_(ids), daily_usage.c.day >= bindparam("since", FIRST_DAY)
    )
    both = union_all(held, cost).subquery()
    return select(both.c.key_id, func.sum(both.c.nanos)).group_by(both.c.key_id)


_SPENT: Final = PreparedForIds(_spent)
