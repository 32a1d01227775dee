"""Statements that are put into words once, not each time: where a transaction has many of them, that is most of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Delete, Dialect, Insert, Select, bindparam

__all__ = ["Prepared", "PreparedForIds"]

MAX_ROWS: Final = 64
"""In one statement to SQLite."""

_Text = tuple[str, Callable[[Mapping[str, Any]], tuple[Any, ...]]]


class Prepared:
    """An insert, for one row or many. `columns`: those that it names. Values go to the driver as they are."""

    def __init__(self, insert: Insert | Mapping[str, Insert], columns: Sequence[str] | None = None) -> None:
        self._insert = insert
        self._columns = columns
        self._texts: dict[tuple[str, int], _Text] = {}

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises what `Connection.execute` does, or to a `SqliteWriter` what its driver raises."""
        driver = _sqlite_driver(connection)
        if driver is None:
            text, values = self._known(connection.dialect, 1)
            connection.exec_driver_sql(text, [values(row) for row in rows])
            return
        # A row at a time would be a change of threads at a time: the driver lets the others run for each.
        values = self._known(connection.dialect, 1)[1]
        for chunk in _chunks(rows):
            text, _ = self._known(connection.dialect, len(chunk))
            driver.execute(text, [value for row in chunk for value in values(row)])

    def _known(self, dialect: Dialect, rows: int) -> _Text:
        """The statement for so many rows, and what takes the values of one out of it."""
        if (known := self._texts.get((dialect.name, rows))) is None:
            insert = self._insert if isinstance(self._insert, Insert) else self._insert[dialect.name]
            known = _put_into_words(insert, dialect, self._columns)
            known = self._texts[dialect.name, rows] = _repeated(known[0], rows), known[1]
        return known


class PreparedForIds:
    """A statement about a list of ids: `make` is given the parameter that stands for them.

    Other parameters have a value from the beginning. Values go to the driver, and come from it, as they are.
    """

    def __init__(self, make: Callable[[BindParameter[Any]], Select[Any] | Delete]) -> None:
        self._make = make
        self._texts: dict[tuple[str, int], _Text] = {}

    def execute(self, connection: Connection, ids: Sequence[str], **others: Any) -> Sequence[Sequence[Any]]:
        """What it finds. Raises as `Prepared.execute`. There is at least one id."""
        ids = _padded(ids)
        key = connection.dialect.name, len(ids)
        if (known := self._texts.get(key)) is None:
            statement = self._make(bindparam("ids", ids, expanding=True))
            known = self._texts[key] = _put_into_words(statement, connection.dialect)
        text, values = known
        parameters = values({f"ids_{number}": value for number, value in enumerate(ids, 1)} | others)
        if (driver := _sqlite_driver(connection)) is not None:
            return driver.execute(text, parameters).fetchall()
        result = connection.exec_driver_sql(text, parameters)
        return result.fetchall() if result.returns_rows else ()


def _sqlite_driver(connection: Connection) -> sqlite3.Connection | None:
    """The driver's own connection where it can be asked at once: SQLAlchemy takes longer than most statements do."""
    driver: Any = connection.connection.dbapi_connection
    return driver if isinstance(driver, sqlite3.Connection) else None


def _put_into_words(
    statement: Insert | Delete | Select[Any], dialect: Dialect, columns: Sequence[str] | None = None
) -> _Text:
    compiled = statement.compile(
        dialect=dialect,
        column_keys=None if columns is None else list(columns),
        compile_kwargs={"render_postcompile": True},
    )
    names = list(compiled.positiontup or ())
    if len(names) == 1:
        [name] = names
        return str(compiled), lambda row: (row[name],)
    return str(compiled), itemgetter(*names)


def _repeated(text: str, rows: int) -> str:
    """The insert of one row as one of several."""
    if rows == 1:
        return text
    before, _, after = text.partition("VALUES (")
    row, _, after = after.partition(")")
    return before + "VALUES " + ", ".join([f"({row})"] * rows) + after


def _chunks(rows: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Powers of two, so that there are few statements to prepare."""
    start = 0
    while left := len(rows) - start:
        size = min(MAX_ROWS, 1 << (left.bit_length() - 1))
        yield rows[start : start + size]
        start += size


def _padded(ids: Sequence[str]) -> list[str]:
    """As many as a power of two, by repeating the last: few lengths are few statements to prepare."""
    return [*ids, *([ids[-1]] * ((1 << (len(ids) - 1).bit_length()) - len(ids)))]
