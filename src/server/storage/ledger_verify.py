"""The audit: every wallet is the sum of its entries, every reservation ends once, every record costs what was charged.

It looks at one state of the database while others go on writing, and reads what disagrees, not what agrees.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import ColumnElement, Row, and_, case, func, or_, select, text, true
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.ledger import EntryKind
from server.domain.money import usd
from server.storage.database import Database, translate
from server.storage.tables import (
    IS_OPEN,
    JOBS_WORKER,
    generations,
    ledger_entries,
    reservations,
    teams,
    video_jobs,
    wallets,
)

__all__ = ["Problem", "Verification", "verify_ledger"]

ProblemKind = Literal[
    "wallet_differs",
    "reservation_began_not_once",
    "reservation_ended_twice",
    "reservation_lost",
    "reservation_open_and_ended",
    "reservation_not_in_ledger",
    "reserved_left_over",
    "cost_differs",
    "job_without_reservation",
    "reservation_without_job",
]


class Problem(msgspec.Struct, frozen=True):
    """Something that does not agree. `subject` is the id of a team or of a generation."""

    kind: ProblemKind
    subject: str
    text: str


class Verification(msgspec.Struct, frozen=True):
    """How much was looked at, and how many problems there are."""

    problems: int
    wallets: int
    entries: int
    reservations: int
    open: int
    generations: int


async def verify_ledger(database: Database, tell: Callable[[Problem], None]) -> Verification:
    """Tell of each problem as it is found. Raises GatewayError (`database_unavailable`)."""
    try:
        async with _snapshot(database) as connection:
            return await _verify(connection, tell)
    except Exception as error:  # the boundary to the drivers: what is not theirs goes on unchanged
        translated = translate(error)
        if translated is error:
            raise
        raise translated from error


@asynccontextmanager
async def _snapshot(database: Database) -> AsyncIterator[AsyncConnection]:
    """A connection that sees the database as it was at its first statement."""
    is_sqlite = database.engine.dialect.name == "sqlite"
    engine = database.engine if is_sqlite else database.engine.execution_options(isolation_level="REPEATABLE READ")
    async with engine.connect() as connection:
        if is_sqlite:
            await connection.exec_driver_sql("BEGIN")
        try:
            yield connection
        finally:
            await connection.rollback()


async def _verify(connection: AsyncConnection, tell: Callable[[Problem], None]) -> Verification:
    problems = 0
    for query, explain in (
        (_WALLETS, _wallet_problem),
        (_RESERVATIONS, _reservation_problem),
        (_STRAYS, _stray_problem),
        (_COSTS, _cost_problem),
        (_JOBS, _job_problem),
        (_JOBLESS, _jobless_problem),
    ):
        async for row in await connection.stream(query):
            problems += 1
            tell(explain(row))
    counts = (await connection.execute(_COUNTS)).one()
    return Verification(problems, *map(int, counts))


def _wallet_problem(row: Row[Any]) -> Problem:
    sums: tuple[int, ...] = tuple(map(int, row[1:]))
    balance, reserved, real_balance, real_reserved = map(usd, sums)
    return Problem(
        "wallet_differs",
        row.team_id,
        f"the wallet of team {row.team_id} says {balance} USD and {reserved} USD reserved,"
        f" its entries add up to {real_balance} USD and {real_reserved} USD reserved",
    )


def _reservation_problem(row: Row[Any]) -> Problem:
    subject = f"gen_{row.suffix}"
    begins, ends, reserved = int(row.begins), int(row.ends), int(row.reserved)
    if ends > 1:
        return Problem("reservation_ended_twice", subject, f"the reservation of {subject} ended {ends} times")
    if begins != 1:
        return Problem("reservation_began_not_once", subject, f"the reservation of {subject} began {begins} times")
    if ends and row.held is not None:
        return Problem(
            "reservation_open_and_ended", subject, f"the reservation of {subject} has ended and is still open"
        )
    if not ends and row.held is None:
        return Problem(
            "reservation_lost", subject, f"the reservation of {subject} has not ended, and nobody is left to end it"
        )
    return Problem(
        "reserved_left_over",
        subject,
        f"the entries of {subject} hold {usd(reserved)} USD, and should hold {usd(int(row.held or 0))} USD",
    )


def _stray_problem(row: Row[Any]) -> Problem:
    subject = f"gen_{row.suffix}"
    return Problem(
        "reservation_not_in_ledger", subject, f"{usd(row.held)} USD is open for {subject}, which no entry reserved"
    )


def _cost_problem(row: Row[Any]) -> Problem:
    subject = f"gen_{row.suffix}"
    return Problem(
        "cost_differs",
        subject,
        f"the record of {subject} says {usd(row.cost)} USD, its entries charged {usd(int(row.charged))} USD",
    )


def _job_problem(row: Row[Any]) -> Problem:
    subject = f"gen_{row.suffix}"
    return Problem("job_without_reservation", subject, f"video_{row.suffix} goes on, and nothing is held for it")


def _jobless_problem(row: Row[Any]) -> Problem:
    subject = f"gen_{row.suffix}"
    return Problem(
        "reservation_without_job",
        subject,
        f"{usd(row.held)} USD is open for video_{row.suffix}, which has ended or never was",
    )


_sums: Final = (
    select(
        ledger_entries.c.team_id,
        func.sum(ledger_entries.c.balance_nanos).label("balance"),
        func.sum(ledger_entries.c.reserved_nanos).label("reserved"),
    )
    .group_by(ledger_entries.c.team_id)
    .subquery()
)
_balance, _reserved = func.coalesce(wallets.c.balance_nanos, 0), func.coalesce(wallets.c.reserved_nanos, 0)
_real_balance, _real_reserved = func.coalesce(_sums.c.balance, 0), func.coalesce(_sums.c.reserved, 0)
_WALLETS: Final = (
    select(teams.c.id.label("team_id"), _balance, _reserved, _real_balance, _real_reserved)
    .select_from(
        teams.outerjoin(wallets, wallets.c.team_id == teams.c.id).outerjoin(_sums, _sums.c.team_id == teams.c.id)
    )
    .where(or_(_balance != _real_balance, _reserved != _real_reserved))
)


def _count(kinds: tuple[EntryKind, ...]) -> ColumnElement[int]:
    return func.sum(case((ledger_entries.c.kind.in_(kinds), 1), else_=0))


_lives: Final = (
    select(
        ledger_entries.c.reservation_id.label("suffix"),
        _count(("reserve",)).label("begins"),
        _count(("settle", "void", "expire")).label("ends"),
        func.sum(ledger_entries.c.reserved_nanos).label("reserved"),
        func.sum(ledger_entries.c.balance_nanos).label("balance"),
    )
    .where(ledger_entries.c.reservation_id.is_not(None))
    .group_by(ledger_entries.c.reservation_id)
    .subquery()
)
_RESERVATIONS: Final = (
    select(_lives.c.suffix, _lives.c.begins, _lives.c.ends, _lives.c.reserved, reservations.c.held_nanos.label("held"))
    .select_from(_lives.outerjoin(reservations, reservations.c.id == _lives.c.suffix))
    .where(
        or_(
            _lives.c.ends > 1,
            and_(_lives.c.begins != 1, _lives.c.begins + _lives.c.ends != 0),
            and_(_lives.c.ends == 1, reservations.c.id.is_not(None)),
            and_(_lives.c.begins == 1, _lives.c.ends == 0, reservations.c.id.is_(None)),
            _lives.c.reserved != func.coalesce(reservations.c.held_nanos, 0),
        )
    )
)
"""A generation that was charged without a reservation has an `adjust` entry alone, and is in order."""

_STRAYS: Final = (
    select(reservations.c.id.label("suffix"), reservations.c.held_nanos.label("held"))
    .select_from(
        reservations.outerjoin(
            ledger_entries, and_(ledger_entries.c.reservation_id == reservations.c.id, text("kind = 'reserve'"))
        )
    )
    .where(ledger_entries.c.id.is_(None))
)
_charged = -func.coalesce(_lives.c.balance, 0)
_COSTS: Final = (
    select(generations.c.suffix, generations.c.cost_nanos.label("cost"), _charged.label("charged"))
    .select_from(generations.outerjoin(_lives, _lives.c.suffix == generations.c.suffix))
    .where(generations.c.cost_nanos != _charged)
)
_JOBS: Final = (
    select(video_jobs.c.suffix)
    .select_from(video_jobs.outerjoin(reservations, reservations.c.id == video_jobs.c.suffix))
    .where(text(IS_OPEN), video_jobs.c.held_nanos.is_not(None), reservations.c.id.is_(None))
)
_JOBLESS: Final = (
    select(reservations.c.id.label("suffix"), reservations.c.held_nanos.label("held"))
    .select_from(reservations.outerjoin(video_jobs, and_(video_jobs.c.suffix == reservations.c.id, text(IS_OPEN))))
    .where(reservations.c.worker_id == JOBS_WORKER, video_jobs.c.suffix.is_(None))
)
_COUNTS: Final = select(
    *(
        select(func.count()).select_from(table).where(which).scalar_subquery()
        for table, which in (
            (wallets, true()),
            (ledger_entries, true()),
            (ledger_entries, text("kind = 'reserve'")),
            (reservations, true()),
            (generations, true()),
        )
    )
)
