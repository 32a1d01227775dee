"""What a group of ledger operations does to the database: one transaction, a fixed handful of statements.

The same code serves SQLite and PostgreSQL. Every operation may be carried out a second time, since a commit whose
answer was lost may have happened: the second time changes nothing. Locks are taken in one order, wallets first and by
team, so that no two groups wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["Expire", "Operation", "Release", "Unrecorded", "apply", "suffix_of"]

RETRY_AFTER_S: Final = 1.0
_ENDS: Final = frozenset({"settle", "void", "expire"})


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
    connection: Connection, operations: Sequence[Operation], *, worker_id: str, now: float, again: bool = False
) -> list[GatewayError | None]:
    """Carry operations out, in order; for each why it was refused, or None. No two are about one request.

    `again`: some may have been carried out before. Where that is not said and yet true, raises IntegrityError and the
    transaction must be undone.
    """
    group = _Group(connection, worker_id, now)
    group.load(operations, again)
    outcomes = [group.take(operation) for operation in operations]
    group.rows.write(connection)
    if group.outcomes:
        write_outcomes(connection, sorted(group.outcomes, key=lambda row: (row.team_id, row.outcome.key)))
    return outcomes


class _Group:
    """What the operations of one group need to know, and what comes of them."""

    def __init__(self, connection: Connection, worker_id: str, now: float) -> None:
        self.rows = Rows(worker_id, int(now))
        self.outcomes: list[OutcomeRow] = []
        self._connection = connection
        self._now = now
        self._available: dict[str, int] = {}
        self._open: dict[str, sql.Reservation] = {}
        self._past: dict[str, set[str]] = {}
        self._recorded: set[str] = set()
        self._spent: dict[str, int] = {}

    def load(self, operations: Sequence[Operation], again: bool) -> None:
        """Lock the wallets that matter and read what is known of the requests."""
        teams: set[str] = set()
        ended: list[str] = []
        records: list[str] = []
        limits: dict[str, SpendLimit] = {}
        repeated: list[str] = []
        for operation in operations:
            match operation:
                case Hold(opening=opening, spend_limit=limit):
                    teams.add(opening.team_id)
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
        if teams:
            self._available = sql.lock_wallets(self._connection, sorted(teams))
        if ended or repeated:
            self._open = sql.open_reservations(self._connection, ended + repeated)
        unknown = repeated + [suffix for suffix in ended if suffix not in self._open]
        if unknown:
            self._past = sql.entry_kinds(self._connection, unknown)
        records += unknown
        if records:
            self._recorded = sql.recorded(self._connection, records)
        if limits:
            self._spent = sql.spent_by_keys(self._connection, limits, self._now)

    def take(self, operation: Operation) -> GatewayError | None:
        match operation:
            case Hold():
                return self._reserve(operation)
            case Settlement():
                if self._settle(operation):
                    self._record(operation)
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
            return _insufficient(available, held)
        spent = self._spent.get(opening.key_id, 0)
        if hold.spend_limit is not None:
            if spent + held > hold.spend_limit.limit_nanos:
                return _limit_reached(hold.spend_limit, spent, held)
            self._spent[opening.key_id] = spent + held
        self._available[opening.team_id] = available - held
        self.rows.reserve(opening, held)
        return None

    def _settle(self, settlement: Settlement) -> bool:
        """Whether this is the first time."""
        record, charge = settlement.record, settlement.charge_nanos or 0
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
        self.rows.adjust(record, charge, "late settlement" if past else "settlement without a reservation")
        self._give_back(record.team_id, -charge)
        return True

    def _end(self, suffix: str, kind: EntryKind, charge: int) -> None:
        reservation = self._open.pop(suffix, None)
        if reservation is not None:
            self.rows.end(reservation, kind, charge)
            self._give_back(reservation.team_id, reservation.held_nanos - charge)

    def _give_back(self, team_id: str, nanos: int) -> None:
        self._available[team_id] = self._available.get(team_id, 0) + nanos

    def _expire(self, suffix: str) -> None:
        reservation = self._open.get(suffix)
        if reservation is not None:
            self._end(suffix, "expire", 0)
            self.rows.record(_abandoned(reservation))

    def _record(self, settlement: Settlement) -> None:
        record = settlement.record
        self.rows.record(record, replaces=record.suffix in self._past or record.suffix in self._recorded)
        if record.attempts:
            self.rows.use(record, settlement.charge_nanos or 0)
        if settlement.content is not None:
            self.rows.keep(record, settlement.content)
        if settlement.outcome is not None:
            self.outcomes.append(OutcomeRow(record.team_id, record.suffix, settlement.outcome))


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
