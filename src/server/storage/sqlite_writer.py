"""SQLite's writing connection for work of many statements: a thread that runs a whole transaction at a time."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from server.storage.sqlite import prepare as prepare_connection

__all__ = ["SqliteWriter"]

T = TypeVar("T")


class SqliteWriter:
    """One thread and one connection, made when first used; `close` ends both."""

    def __init__(self, url: URL, *, busy_timeout_s: float) -> None:
        self._engine = _engine(url, busy_timeout_s)
        self._connection: Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction that has the write lock from its beginning. Raises what it or the driver raises.

        `work` neither begins nor ends a transaction.
        """
        return await self._call(partial(self._transact, work))

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
        thread, self._thread = self._thread, None
        await asyncio.get_running_loop().run_in_executor(thread, self._disconnect)
        thread.shutdown(wait=False)

    async def _call(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sqlite-writer")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """The driver is told of the transaction itself: by way of SQLAlchemy it takes longer than a small `work`."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            driver: Any = self._connection.connection.dbapi_connection
            driver.execute("BEGIN IMMEDIATE")
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


def _engine(url: URL, busy_timeout_s: float) -> Engine:
    engine = create_engine(url.set(drivername="sqlite+pysqlite"), poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        prepare_connection(connection, busy_timeout_s=busy_timeout_s, pause=time.sleep)

    return engine
