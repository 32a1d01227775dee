"""The database: one engine, and the only two ways to use it, `read` and `write`.

Both hold for SQLite and PostgreSQL alike:

- The work of a call runs in a task of its own. A caller that is cancelled leaves at once, and the connection goes back
  to the pool when the work has ended; no cancellation ever reaches a driver in the middle of its protocol.
- No more work is started than there are connections, so the pool itself is never waited for.
- A database that is down or too busy is `database_unavailable` with a time to come back, whatever the driver calls it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import Connection, event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from server.domain.errors import GatewayError, Reason
from server.storage import pooler, sqlite
from server.storage.sqlite_writer import SqliteWriter

__all__ = ["Database", "DatabaseUnusable", "Work", "parse_url", "translate"]

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

POOL_SIZE: Final = 5
SLOT_WAIT_S: Final = 5.0
"""How long a call waits for its turn before it is refused."""
RETRY_AFTER_S: Final = 1.0
OUTAGE_LOG_S: Final = 60.0
RELAPSE_LOG_S: Final = 1.0
"""While the database does not answer each cause is logged once a minute, however many calls it fails; where it comes
and goes, once a second.
"""
CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 15.0
"""How long a statement may take, waiting for another process's locks included."""
CLOSE_TIMEOUT_S: Final = 10.0

_DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
# A violated constraint means something to the caller, the others are mistakes of ours: no time will mend them.
_BUGS = (exc.IntegrityError, exc.DataError, exc.ProgrammingError, exc.NotSupportedError)
_BUG_STATES: Final = frozenset({"21", "22", "54"})
"""Classes of SQLSTATE that SQLAlchemy does not tell apart from an outage: PostgreSQL cannot do this with such data."""
_OUTAGES = (exc.DBAPIError, exc.TimeoutError, exc.DisconnectionError, exc.PendingRollbackError, OSError)


class DatabaseUnusable(Exception):
    """The database can't be used as it is configured. The text says what to change, for the operator."""


class Database:
    """An open database. Make it with `Database.open`; `close` it, or threads and sockets stay.

    `first` runs once, on the first connection that is had, before any other work: the check of the schema, which can
    not be made while the database is down. So does the check that no pooler stands between that forgets statements:
    with `first` either is `database_unavailable` and logged, for a worker; without, DatabaseUnusable, for a command.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        pool_size: int,
        slot_wait_s: float,
        statement_timeout_s: float,
        first: Work[None] | None,
        quiet: bool,
    ) -> None:
        self.engine = engine
        self._writer: SqliteWriter | None
        self._slot_wait_s = slot_wait_s
        if engine.dialect.name == "sqlite":
            # SQLite has one writer at a time: queueing for it here is fair, its own waiting is not.
            self._reading, self._writing = engine, engine.execution_options(**sqlite.WRITE)
            self._write_slots = asyncio.Semaphore(1)
            self._read_slots = asyncio.Semaphore(pool_size - 1)
            self._writer = SqliteWriter(engine.url, busy_timeout_s=statement_timeout_s)
        else:
            # A single statement is its own transaction; BEGIN and ROLLBACK would be two more round trips.
            self._reading, self._writing = engine.execution_options(isolation_level="AUTOCOMMIT"), engine
            self._write_slots = asyncio.Semaphore(pool_size // 2)
            self._read_slots = asyncio.Semaphore(pool_size - pool_size // 2)
            self._writer = None
        self._first = first
        self._is_proven = engine.dialect.name == "sqlite"
        self._first_lock = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self.is_up = True
        self.failures = 0
        """Reads and transactions that failed because the database did not answer."""
        self._outage = 0
        self._told: dict[str, tuple[int, float]] = {}
        self._log = None if quiet else structlog.get_logger("server.storage")

    @classmethod
    def open(
        cls,
        url: str,
        *,
        pool_size: int = POOL_SIZE,
        slot_wait_s: float = SLOT_WAIT_S,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
        first: Work[None] | None = None,
        quiet: bool = False,
    ) -> Database:
        """Prepare to use the database at `url`; connects when first used. Raises DatabaseUnusable.

        `quiet`: log no outages, for commands, which tell of them in their own way.
        """
        if pool_size < 2:
            raise ValueError("a pool has at least two connections: one to read and one to write")
        parsed = parse_url(url)
        options: dict[str, Any] = {
            "pool_size": pool_size,
            "max_overflow": 0,
            "pool_timeout": slot_wait_s,
            "hide_parameters": True,  # of error texts: they may reach a log
        }
        if parsed.get_backend_name() == "sqlite":
            _create_sqlite_file(parsed)
        else:
            options["pool_pre_ping"] = True
            options["connect_args"] = {"timeout": CONNECT_TIMEOUT_S, "command_timeout": statement_timeout_s}
        try:
            engine = create_async_engine(parsed, **options)
        except ModuleNotFoundError as error:
            raise DatabaseUnusable(
                "PostgreSQL needs the driver that comes with the extra: pip install 'aistats-gateway[postgres]'"
            ) from error
        if parsed.get_backend_name() == "sqlite":
            event.listen(engine.sync_engine, "connect", partial(_prepare_sqlite, busy_timeout_s=statement_timeout_s))
            event.listen(engine.sync_engine, "begin", sqlite.begin)
        return cls(
            engine,
            pool_size=pool_size,
            slot_wait_s=slot_wait_s,
            statement_timeout_s=statement_timeout_s,
            first=first,
            quiet=quiet,
        )

    async def read(self, work: Work[T]) -> T:
        """Run `work`, which only selects. Each statement sees what is committed when it runs; no writer is waited for.

        Raises GatewayError (`database_unavailable`).
        """
        return await self._run(self._read_slots, partial(_begin, self._reading, work))

    async def write(self, work: Work[T]) -> T:
        """Run `work` in one transaction: committed and on disk when this returns, undone where it raises.

        Raises GatewayError (`database_unavailable`), and whatever `work` raises.
        """
        return await self._run(self._write_slots, partial(_begin, self._writing, work))

    async def transact(self, work: Callable[[Connection], T], *, flush: bool = True) -> T:
        """Like `write`, for work of many statements: to SQLite they all go in one change of threads, not in one each.

        There `work` runs in another thread: it touches nothing but its connection. And there, without `flush`, what
        is committed outlives this process, but not a power cut before the next commit that is flushed.
        """
        if self._writer is None:
            return await self.write(lambda connection: connection.run_sync(work))
        return await self._run(self._write_slots, partial(self._writer.run, work, flush=flush))

    async def trim(self) -> None:
        """Give back what SQLite's write-ahead log has grown to beyond its limit, or warn that a reader needs it still.

        Raises GatewayError (`database_unavailable`).
        """
        if self._writer is None or (size := self._writer.log_bytes) <= sqlite.LOG_LIMIT_BYTES:
            return
        if not await self._run(self._write_slots, self._writer.empty_log) and self._log is not None:
            self._log.warning(
                "write_ahead_log_is_long",
                bytes=size,
                limit_bytes=sqlite.LOG_LIMIT_BYTES,
                remedy="end the program that has been reading the database file for long",
            )

    async def close(self) -> None:
        """Let the work under way end, then close every connection and the threads behind them."""
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_TIMEOUT_S)
        if self._writer is not None:
            await self._writer.close()
        await self.engine.dispose()

    async def _run(self, slots: asyncio.Semaphore, transaction: Callable[[], Awaitable[T]]) -> T:
        if not slots.locked():
            await slots.acquire()  # at once
        else:
            try:
                async with asyncio.timeout(self._slot_wait_s):
                    await slots.acquire()
            except TimeoutError as error:
                self._note(error)
                raise _unavailable() from None
        # From here to the task there is no await: whoever is cancelled has no slot, or a task that gives it back.
        task = asyncio.create_task(self._carry_out(transaction))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: slots.release())
        return await asyncio.shield(task)

    async def _carry_out(self, transaction: Callable[[], Awaitable[T]]) -> T:
        try:
            if self._first is not None or not self._is_proven:
                await self._run_first()
            result = await transaction()
        except Exception as error:  # the boundary to the drivers: what is not theirs goes on unchanged
            translated = translate(error)
            if translated is not error:
                self._note(error)
                raise translated from error
            raise
        if not self.is_up:
            self.is_up = True
            if self._log is not None:
                self._log.info("database_available_again")
        return result

    async def _run_first(self) -> None:
        async with self._first_lock:
            first = self._first
            try:
                if not self._is_proven:
                    if await pooler.forgets_statements(self._reading):
                        raise DatabaseUnusable(pooler.REFUSAL)
                    self._is_proven = True
                if first is not None:
                    async with self._reading.begin() as connection:
                        await first(connection)
            except DatabaseUnusable as error:
                if first is None:
                    raise
                self._note(error)
                raise _unavailable() from error
            self._first = None

    def _note(self, error: Exception) -> None:
        """Count it, and log it where its cause has not been logged lately."""
        self.failures += 1
        if self.is_up:
            self.is_up = False
            self._outage += 1
        if self._log is None:
            return
        cause = (error.orig if isinstance(error, exc.DBAPIError) else None) or error
        name, now_s = type(cause).__name__, asyncio.get_running_loop().time()
        outage, told_s = self._told.get(name, (0, -math.inf))
        if now_s - told_s >= (OUTAGE_LOG_S if outage == self._outage else RELAPSE_LOG_S):
            self._told[name] = self._outage, now_s
            self._log.error("database_unavailable", cause=name, text=str(cause), failures=self.failures)


async def _begin(engine: AsyncEngine, work: Work[T]) -> T:
    async with engine.begin() as connection:
        return await work(connection)


def translate(error: Exception) -> Exception:
    """The GatewayError for a database that is down, too busy or broken; any other error as it is."""
    if isinstance(error, _OUTAGES) and not isinstance(error, _BUGS) and not _is_about_data(error):
        return _unavailable()
    return error


def _is_about_data(error: Exception) -> bool:
    """Whether PostgreSQL refuses a statement's values, or its driver does so before it sends them."""
    if not isinstance(error, exc.DBAPIError) or error.statement is None:
        return False
    if state := getattr(error.orig, "sqlstate", None):
        return state[:2] in _BUG_STATES
    return isinstance(getattr(error.orig, "__cause__", None), ValueError)


def parse_url(url: str) -> URL:
    """The URL with the driver that is used here. Raises DatabaseUnusable."""
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise DatabaseUnusable("The database URL can't be read: " + _URL_FORMS) from error
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise DatabaseUnusable(f"{parsed.drivername!r} databases are not supported: " + _URL_FORMS)
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        raise DatabaseUnusable("SQLite must be given a file, since several processes share it: " + _URL_FORMS)
    return parsed.set(drivername=driver)


_URL_FORMS = (
    "use sqlite+aiosqlite:///<path of a file> or postgresql+asyncpg://<user>:<password>@<host>:<port>/<database>"
)


def _create_sqlite_file(url: URL) -> None:
    try:
        sqlite.create_file(url)
    except OSError as error:
        raise DatabaseUnusable(
            f"The database file {url.database} can't be opened for writing ({error.strerror})."
            " AISTATS_DATA_DIR or AISTATS_DATABASE_URL chooses another place."
        ) from error


def _pause(seconds: float) -> None:
    await_only(asyncio.sleep(seconds))


def _prepare_sqlite(dbapi_connection: DBAPIConnection, _: ConnectionPoolEntry, *, busy_timeout_s: float) -> None:
    mode = sqlite.prepare(dbapi_connection, busy_timeout_s=busy_timeout_s, pause=_pause)
    if mode != "wal":
        raise DatabaseUnusable(
            f"SQLite can't switch this database to write-ahead logging: it stays in journal mode {mode!r}. Put the"
            " database on a local disk that can be written to and supports shared memory (not a network share)."
        )


def _unavailable() -> GatewayError:
    return GatewayError(
        Reason.DATABASE_UNAVAILABLE,
        "The gateway's database does not answer at the moment. Try again shortly.",
        retry_after_s=RETRY_AFTER_S,
    )
