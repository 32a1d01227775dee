"""SQLite's writing connection for work of many statements: a thread that runs a whole transaction at a time."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from server.storage.sqlite import prepare as prepare_connection

__all__ = ["SqliteWriter"]

T = TypeVar("T")

_BEGIN: Final = {
    True: "PRAGMA synchronous = FULL;BEGIN IMMEDIATE",
    False: "PRAGMA synchronous = NORMAL;BEGIN IMMEDIATE",
}


class _Job(NamedTuple):
    """Work for the thread, and where its outcome is waited for."""

    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    outcome: asyncio.Future[Any]


class SqliteWriter:
    """One thread and one connection, made when first used; `close` ends both."""

    def __init__(self, url: URL, *, busy_timeout_s: float) -> None:
        self._engine = _engine(url, busy_timeout_s)
        self._connection: Connection | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[[Connection], T], *, flush: bool = True) -> T:
        """`work` in one transaction that has the write lock from its beginning. Raises what it or the driver raises.

        `work` neither begins nor ends a transaction. Without `flush` the commit outlives this process but not the
        machine, until the next one that is flushed takes it along.
        """
        return await self._call(partial(self._transact, work, flush))

    @property
    def log_bytes(self) -> int:
        """How large the write-ahead log is."""
        try:
            return os.stat(f"{self._engine.url.database}-wal").st_size
        except OSError:
            return 0

    async def empty_log(self) -> bool:
        """Put the write-ahead log into the database; whether that could be done at once. Raises as `run`."""
        return await self._call(self._empty_log)

    async def close(self) -> None:
        if self._thread is None:
            return
        await self._call(self._disconnect)
        thread, self._thread = self._thread, None
        self._jobs.put(None)
        thread.join()

    async def _call(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = threading.Thread(target=_serve, args=(self._jobs,), name="sqlite-writer", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(work, loop, outcome))
        return await outcome

    def _transact(self, work: Callable[[Connection], T], flush: bool) -> T:
        """The driver is told of the transaction itself: by way of SQLAlchemy it takes longer than a small `work`."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            driver: Any = self._connection.connection.dbapi_connection
            driver.executescript(_BEGIN[flush])  # as a script: a pragma that is cached takes effect only once
            result = work(self._connection)
            driver.execute("COMMIT")
            if self._connection.in_transaction():  # as SQLAlchemy sees it, since it was asked for a statement
                self._connection.commit()
        except BaseException as error:
            self._disconnect()  # which undoes what has been done
            if isinstance(error, sqlite3.Error):
                raise exc.DBAPIError.instance(None, None, error, sqlite3.Error) from error
            raise
        return result

    def _empty_log(self) -> bool:
        with self._engine.connect() as connection:
            # It would hold up every writer until the last reader has ended.
            connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            is_busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        return not is_busy

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        _carry_out(job)
        del job  # with what it holds, which the next one may be long in coming to replace


def _carry_out(job: _Job) -> None:
    result, error = None, None
    try:
        result = job.work()
    except BaseException as raised:  # whatever it is, whoever waits is told
        error = raised
    with suppress(RuntimeError):  # the loop has ended meanwhile
        job.loop.call_soon_threadsafe(_tell, job.outcome, result, error)


def _tell(outcome: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if outcome.cancelled():
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)


def _engine(url: URL, busy_timeout_s: float) -> Engine:
    engine = create_engine(url.set(drivername="sqlite+pysqlite"), poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        prepare_connection(connection, busy_timeout_s=busy_timeout_s, pause=time.sleep)

    return engine
