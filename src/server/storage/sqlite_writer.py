"""SQLite's writing connection for work of many statements: a thread that runs a whole transaction at a time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from server.storage import sqlite

__all__ = ["SqliteWriter"]

T = TypeVar("T")


class SqliteWriter:
    """One thread and one connection, made when first used; `close` ends both."""

    def __init__(self, url: URL, *, busy_timeout_s: float) -> None:
        self._engine = _engine(url, busy_timeout_s)
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction that has the write lock from its beginning. Raises what it or the driver raises."""
        return await self._call(partial(_begin, self._engine, work))

    @property
    def log_bytes(self) -> int:
        """How large the write-ahead log is."""
        try:
            return os.stat(f"{self._engine.url.database}-wal").st_size
        except OSError:
            return 0

    async def empty_log(self) -> bool:
        """Put the write-ahead log into the database; whether that could be done at once. Raises as `run`."""
        return await self._call(partial(_empty_log, self._engine))

    async def close(self) -> None:
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        await asyncio.get_running_loop().run_in_executor(thread, self._engine.dispose)
        thread.shutdown(wait=False)

    async def _call(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sqlite-writer")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _empty_log(engine: Engine) -> bool:
    with engine.connect() as connection:
        wait_ms = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        # It would hold up every writer until the last reader has ended.
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        try:
            is_busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {wait_ms}")
    return not is_busy


def _begin(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return work(connection)


def _engine(url: URL, busy_timeout_s: float) -> Engine:
    engine = create_engine(url.set(drivername="sqlite+pysqlite"), pool_size=1, max_overflow=0, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        sqlite.prepare(connection, busy_timeout_s=busy_timeout_s, pause=time.sleep)

    return engine
