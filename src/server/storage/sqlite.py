"""How SQLite is used: write-ahead log, one writer that says so from the start, commits that survive a power cut."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import URL, Connection
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor

LOG_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""What the write-ahead log may grow to. Only a reader that does not end makes it longer, and only for as long."""

_SWITCH_ATTEMPTS: Final = 200
_SWITCH_PAUSE_S: Final = 0.05

WRITE: Final[dict[str, Any]] = {"aistats_write": True}
"""Execution option of a connection whose transaction will write."""

_PRAGMAS: Final = (
    "PRAGMA foreign_keys = ON",
    # NORMAL would lose the last commits in a power cut, and a client has already seen them as done.
    "PRAGMA synchronous = FULL",
    # What the log has grown to for want of a pause between readers, it gives back when it begins anew.
    f"PRAGMA journal_size_limit = {LOG_LIMIT_BYTES}",
)


def create_file(url: URL) -> None:
    """Make the file, and its directory, where there is none; what is new only its owner may read.

    Raises OSError.
    """
    database = url.database or ""
    if database.startswith("file:"):
        return
    path = Path(database)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The files that SQLite puts beside it get the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def prepare(connection: DBAPIConnection, *, busy_timeout_s: float, pause: Callable[[float], None]) -> str:
    """Set up a new connection; returns the journal mode that it really has, `wal` where all is well.

    A statement waits up to `busy_timeout_s` seconds for another process's write. `pause` sleeps for so many seconds.
    """
    # The driver's own BEGIN comes too late and is always deferred; `begin` below gives it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {int(busy_timeout_s * 1000)}")
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
        return _switch_to_wal(cursor, pause)
    finally:
        cursor.close()


def _switch_to_wal(cursor: DBAPICursor, pause: Callable[[float], None]) -> str:
    """Only the first connection ever to a file switches it; those that come meanwhile find it locked.

    The busy timeout does not cover that lock, so the wait is here.
    """
    for attempt in range(_SWITCH_ATTEMPTS):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            row = cursor.fetchone()
            return str(row[0]) if row else "unknown"
        except sqlite3.OperationalError as error:
            if attempt == _SWITCH_ATTEMPTS - 1 or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            pause(_SWITCH_PAUSE_S)
    raise AssertionError("the last attempt returns or raises")


def begin(connection: Connection) -> None:
    """Take the write lock at once: a transaction that reads first and writes later fails instead of waiting.

    A read needs no transaction: each statement sees one state of the database by itself.
    """
    if connection.get_execution_options().get("aistats_write"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
