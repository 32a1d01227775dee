"""What the ledger asks the database, a whole group at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import Connection, bindparam, func, select

from server.domain.ledger import SpendLimit
from server.domain.periods import period_start_day
from server.domain.record import GenerationRecord
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
    rows = connection.execute(_LOCK, {"ids": padded(team_ids)})
    return {team_id: balance - reserved for team_id, balance, reserved in rows}


def open_reservations(connection: Connection, suffixes: Sequence[str]) -> dict[str, Reservation]:
    rows = connection.execute(_OPEN, {"ids": padded(suffixes)})
    return {row[0]: Reservation(*row) for row in rows}


def entry_kinds(connection: Connection, suffixes: Sequence[str]) -> dict[str, set[str]]:
    """The kinds of entries that there are of each reservation."""
    kinds: dict[str, set[str]] = {}
    for half in _PAST:
        for suffix, kind in connection.execute(half, {"ids": padded(suffixes)}):
            kinds.setdefault(suffix, set()).add(kind)
    return kinds


def recorded(connection: Connection, suffixes: Sequence[str]) -> set[str]:
    """Those that have a record already."""
    return set(connection.execute(_RECORDED, {"ids": padded(suffixes)}).scalars())


def spent_by_keys(connection: Connection, limits: Mapping[str, SpendLimit], now: float) -> dict[str, int]:
    """What each key has spent in the period of its limit, and has reserved."""
    spent = {key_id: int(held) for key_id, held in connection.execute(_RESERVED, {"ids": padded(list(limits))})}
    for reset in {limit.reset for limit in limits.values()}:
        keys = [key_id for key_id, limit in limits.items() if limit.reset == reset]
        since = period_start_day(reset, now)
        for key_id, cost in connection.execute(_SPENT, {"ids": padded(keys), "since": since}):
            spent[key_id] = spent.get(key_id, 0) + int(cost)
    return spent


def padded(values: Sequence[str]) -> list[str]:
    """As many as a power of two, by repeating the last: few lengths are few statements to prepare."""
    return [*values, *([values[-1]] * ((1 << (len(values) - 1).bit_length()) - len(values)))]


_ids: Final = bindparam("ids", expanding=True)
_LOCK: Final = (
    select(wallets.c.team_id, wallets.c.balance_nanos, wallets.c.reserved_nanos)
    .where(wallets.c.team_id.in_(_ids))
    .order_by(wallets.c.team_id)
    .with_for_update()
)
_OPEN: Final = select(
    reservations.c.id,
    reservations.c.team_id,
    reservations.c.key_id,
    reservations.c.held_nanos,
    reservations.c.opening_json,
).where(reservations.c.id.in_(_ids))
_PAST: Final = tuple(
    # Each as the index that makes it unique says it, or the index is not used.
    select(ledger_entries.c.reservation_id, ledger_entries.c.kind).where(ledger_entries.c.reservation_id.in_(_ids), one)
    for one in (
        ledger_entries.c.kind == "reserve",
        ledger_entries.c.kind.in_(["settle", "void", "expire"]),
        ledger_entries.c.kind == "adjust",
    )
)
_RECORDED: Final = select(generations.c.suffix).where(generations.c.suffix.in_(_ids))
_RESERVED: Final = (
    select(reservations.c.key_id, func.sum(reservations.c.held_nanos))
    .where(reservations.c.key_id.in_(_ids))
    .group_by(reservations.c.key_id)
)
_SPENT: Final = (
    select(daily_usage.c.key_id, func.sum(daily_usage.c.cost_nanos))
    .where(daily_usage.c.key_id.in_(_ids), daily_usage.c.day >= bindparam("since"))
    .group_by(daily_usage.c.key_id)
)
