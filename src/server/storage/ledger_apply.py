"""What a group of ledger operations does to the database: one transaction, a fixed handful of statements.

The same code serves SQLite and PostgreSQL. Every operation may be carried out a second time, since a commit whose
answer was lost may have happened: the second time changes nothing.

A team's wallet is one row, which all workers want. On PostgreSQL a group takes it last, so that it keeps others from it
for little more than its commit: a settlement only adds to it, and a reservation is made on what it was a moment ago
where that leaves enough in any case, and looks again once it has the row. Where it does not, or a key may spend only so
much, the group takes the row first. Nobody is refused by a wallet that others can change meanwhile. Rows that groups of
several workers want, wallets and then usage, are taken in one order, so that no two wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import Connection

from server.domain.errors import GatewayError, Reason
from server.domain.ledger import MINIMUM_NANOS, EntryKind, Hold, Settlement, SpendLimit
from server.domain.money import usd
from server.domain.record import GenerationRecord
from server.storage import ledger_sql as sql
from server.storage.idempotency import OutcomeRow, write_outcomes
from server.storage.ledger_rows import Rows
from server.storage.wallets import MAX_BALANCE_NANOS

__all__ = ["Expire", "Operation", "Overdrawn", "Release", "Unrecorded", "apply", "suffix_of"]

RETRY_AFTER_S: Final = 1.0
_ENDS: Final = frozenset({"settle", "void", "expire"})


class Overdrawn(Exception):
    """A team may not have what it had when its wallet could still be changed by others."""


class Release(msgspec.Struct, frozen=True):
    """Void a reservation if there is one: whoever asked for it has stopped waiting."""

    suffix: str
    team_id: str


class Unrecorded(msgspec.Struct, frozen=True):
    """The money of a settlement whose record the database refuses."""

    settlement: Settlement


class Expire(msgspec.Struct, frozen=True):
    """End a reservation whose worker is gone, unless it has ended meanwhile."""

    suffix: str
    team_id: str


Operation = Hold | Settlement | Release | Unrecorded | Expire


def suffix_of(operation: Operation) -> str:
    """The request that an operation is about."""
    match operation:
        case Hold(opening=opening):
            return opening.suffix
        case Settlement(record=record) | Unrecorded(settlement=Settlement(record=record)):
            return record.suffix
        case _:
            return operation.suffix


def apply(
    connection: Connection,
    operations: Sequence[Operation],
    *,
    worker_id: str,
    now: float,
    again: bool = False,
    locked: bool = False,
) -> list[GatewayError | None]:
    """Carry operations out, in order; for each why it was refused, or None. No two are about one request.

    `again`: some may have been carried out before. Where that is not said and yet true, raises IntegrityError and the
    transaction must be undone. `locked`: take the wallets first. Without, may raise Overdrawn: undo it, and then with.
    """
    group = _Group(connection, worker_id, now)
    group.load(operations, again, locked)
    outcomes = [group.take(operation) for operation in operations]
    group.write()
    return outcomes


class _Group:
    """What the operations of one group need to know, and what comes of them."""

    def __init__(self, connection: Connection, worker_id: str, now: float) -> None:
        self._rows = Rows(worker_id, int(now))
        self._outcomes: list[OutcomeRow] = []
        self._connection = connection
        self._now = now
        # SQLite has one transaction at a time that writes, from its beginning.
        self._is_alone = connection.dialect.name == "sqlite"
        self._available: dict[str, int] = {}
        self._returned: dict[str, int] = {}
        self._open: dict[str, sql.Reservation] = {}
        self._past: dict[str, set[str]] = {}
        self._recorded: set[str] = set()
        self._spent: dict[str, int] = {}

    def load(self, operations: Sequence[Operation], again: bool, locked: bool) -> None:
        """Read what is known of the requests, and of the wallets where credit is asked for."""
        teams: set[str] = set()
        wanted: dict[str, int] = {}
        ended: list[str] = []
        records: list[str] = []
        limits: dict[str, SpendLimit] = {}
        repeated: list[str] = []
        for operation in operations:
            match operation:
                case Hold(opening=opening, spend_limit=limit):
                    teams.add(opening.team_id)
                    wanted[opening.team_id] = wanted.get(opening.team_id, 0) + operation.held_nanos
                    if limit is not None:
                        limits[opening.key_id] = limit
                    if again:
                        repeated.append(opening.suffix)
                case Settlement() | Unrecorded():
                    settlement = operation.settlement if isinstance(operation, Unrecorded) else operation
                    if settlement.held or settlement.charge_nanos:
                        teams.add(settlement.record.team_id)
                        ended.append(settlement.record.suffix)
                    elif again:
                        records.append(settlement.record.suffix)
                case _:
                    teams.add(operation.team_id)
                    ended.append(operation.suffix)
        if wanted:
            self._look_into_wallets(teams, wanted, locked or bool(limits))
        if ended or repeated:
            self._open = sql.open_reservations(self._connection, ended + repeated)
        unknown = repeated + [suffix for suffix in ended if suffix not in self._open]
        if unknown:
            self._past = sql.entry_kinds(self._connection, unknown)
        records += unknown
        if records:
            self._recorded = sql.recorded(self._connection, records)
        if limits:
            self._spent = dict.fromkeys(limits, 0) | sql.spent_by_keys(self._connection, limits, self._now)

    def _look_into_wallets(self, teams: set[str], wanted: Mapping[str, int], locked: bool) -> None:
        if not self._is_alone and not locked:
            self._available = sql.available(self._connection, sorted(wanted))
            if all(self._available.get(team, 0) - held >= MINIMUM_NANOS for team, held in wanted.items()):
                return
        self._available = sql.lock_wallets(self._connection, sorted(teams))
        self._is_alone = True

    def write(self) -> None:
        """Write what came of it. Raises Overdrawn."""
        if self._outcomes:
            write_outcomes(self._connection, sorted(self._outcomes, key=lambda row: (row.team_id, row.outcome.key)))
        self._rows.write(self._connection)
        if teams := self._rows.reserving_teams if not self._is_alone else ():
            left = sql.available(self._connection, sorted(teams))
            # What was given back in this group may have come after what it held: leave it out.
            if any(left[team] - self._returned.get(team, 0) < MINIMUM_NANOS for team in teams):
                raise Overdrawn

    def take(self, operation: Operation) -> GatewayError | None:
        match operation:
            case Hold():
                return self._reserve(operation)
            case Settlement(record=record, outcome=outcome):
                if self._settle(operation):
                    self._record(operation)
                if outcome is not None:  # of a request whose record is that of its job, too
                    self._outcomes.append(OutcomeRow(record.team_id, record.suffix, outcome))
            case Unrecorded():
                self._settle(operation.settlement)
            case Release():
                self._end(operation.suffix, "void", 0)
            case Expire():
                self._expire(operation.suffix)
        return None

    def _reserve(self, hold: Hold) -> GatewayError | None:
        opening, held = hold.opening, hold.held_nanos
        if "reserve" in self._past.get(opening.suffix, ()):
            return None if opening.suffix in self._open else _expired()
        available = self._available.get(opening.team_id, 0)
        if available < MINIMUM_NANOS or available < held:
            if not self._is_alone:
                raise Overdrawn
            return _insufficient(available, held)
        if hold.spend_limit is not None:
            spent = self._spent[opening.key_id]
            if spent + held > hold.spend_limit.limit_nanos:
                return _limit_reached(hold.spend_limit, spent, held)
            self._spent[opening.key_id] = spent + held
        self._available[opening.team_id] = available - held
        self._rows.reserve(opening, held)
        return None

    def _settle(self, settlement: Settlement) -> bool:
        """Whether this is the first time."""
        record, charge = settlement.record, settlement.charge_nanos or 0
        if charge > MAX_BALANCE_NANOS:
            raise ValueError("no wallet ever held what is charged")
        if not settlement.held and not charge:
            return record.suffix not in self._recorded
        if record.suffix in self._open:
            self._end(record.suffix, "void" if settlement.charge_nanos is None else "settle", charge)
            return True
        past = self._past.get(record.suffix, set())
        if not charge and "expire" not in past:
            return record.suffix not in self._recorded
        if "adjust" in past or past & _ENDS - {"expire"}:
            return False
        self._rows.adjust(record, charge, "late settlement" if past else "settlement without a reservation")
        self._give_back(record, -charge)
        return True

    def _end(self, suffix: str, kind: EntryKind, charge: int) -> None:
        reservation = self._open.pop(suffix, None)
        if reservation is not None:
            self._rows.end(reservation, kind, charge)
            self._give_back(reservation, reservation.held_nanos - charge)

    def _give_back(self, to: sql.Reservation | GenerationRecord, nanos: int) -> None:
        self._available[to.team_id] = self._available.get(to.team_id, 0) + nanos
        self._returned[to.team_id] = self._returned.get(to.team_id, 0) + max(nanos, 0)
        if to.key_id in self._spent:
            # A charge of an earlier period counts here too, until this group is written.
            self._spent[to.key_id] -= nanos

    def _expire(self, suffix: str) -> None:
        reservation = self._open.get(suffix)
        if reservation is not None:
            self._end(suffix, "expire", 0)
            self._rows.record(_abandoned(reservation))

    def _record(self, settlement: Settlement) -> None:
        record = settlement.record
        self._rows.record(record, replaces=record.suffix in self._past or record.suffix in self._recorded)
        if record.attempts:
            self._rows.use(record, settlement.charge_nanos or 0)
        if settlement.content is not None:
            self._rows.keep(record, settlement.content)


def _abandoned(reservation: sql.Reservation) -> GenerationRecord:
    """The record of a request that ended with its worker."""
    return msgspec.structs.replace(
        reservation.opening,
        status_code=500,
        success=False,
        error_code="gateway_restarted",
        error_message="The gateway was restarted while it handled this request, which was not charged.",
        cost_nanos=0,
    )


_PERIODS: Final = {None: "", "daily": " a day", "weekly": " a week", "monthly": " a month"}
_REMEDIES: Final = {
    None: "Have the key's limit raised",
    "daily": "Wait until the day ends (UTC), have the key's limit raised",
    "weekly": "Wait until Monday (UTC), have the key's limit raised",
    "monthly": "Wait until the month ends (UTC), have the key's limit raised",
}


def _insufficient(available: int, held: int) -> GatewayError:
    return GatewayError(
        Reason.INSUFFICIENT_FUNDS,
        f"The team has {usd(available)} USD available. This request needs {usd(max(held, MINIMUM_NANOS))} USD: it may"
        f" cost up to {usd(held)} USD, and {usd(MINIMUM_NANOS)} USD is the least that must be available. Top up"
        " (`aistats-gateway wallet top-up`), ask for fewer output tokens, or use a model whose name ends in `:free`.",
    )


def _limit_reached(limit: SpendLimit, spent: int, held: int) -> GatewayError:
    return GatewayError(
        Reason.KEY_LIMIT_REACHED,
        f"This key may spend {usd(limit.limit_nanos)} USD{_PERIODS[limit.reset]}. {usd(spent)} USD is spent or"
        f" reserved, and this request may cost up to {usd(held)} USD. {_REMEDIES[limit.reset]}, ask for fewer output"
        " tokens, or use a model whose name ends in `:free`.",
    )


def _expired() -> GatewayError:
    return GatewayError(
        Reason.DATABASE_UNAVAILABLE,
        "The gateway's database did not answer in time. Try again shortly.",
        retry_after_s=RETRY_AFTER_S,
    )
