"""Statements that are put into words once, not each time: where a transaction has many of them, that is most of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import BindParameter, Connection, CursorResult, Delete, Dialect, Insert, Select, bindparam

__all__ = ["Prepared", "PreparedForIds"]

_Text = tuple[str, Callable[[Mapping[str, Any]], tuple[Any, ...]]]


class Prepared:
    """An insert, for one row or many. `columns`: those that it names. Values go to the driver as they are."""

    def __init__(self, insert: Insert | Mapping[str, Insert], columns: Sequence[str] | None = None) -> None:
        self._insert = insert
        self._columns = columns
        self._texts: dict[str, _Text] = {}

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises what `Connection.execute` does."""
        dialect = connection.dialect
        if (known := self._texts.get(dialect.name)) is None:
            insert = self._insert if isinstance(self._insert, Insert) else self._insert[dialect.name]
            known = self._texts[dialect.name] = _put_into_words(insert, dialect, self._columns)
        text, values = known
        connection.exec_driver_sql(text, [values(row) for row in rows])


class PreparedForIds:
    """A statement about a list of ids: `make` is given the parameter that stands for them.

    Other parameters have a value from the beginning. Values go to the driver, and come from it, as they are.
    """

    def __init__(self, make: Callable[[BindParameter[Any]], Select[Any] | Delete]) -> None:
        self._make = make
        self._texts: dict[tuple[str, int], _Text] = {}

    def execute(self, connection: Connection, ids: Sequence[str], **others: Any) -> CursorResult[Any]:
        """Raises what `Connection.execute` does. There is at least one id."""
        ids = _padded(ids)
        key = connection.dialect.name, len(ids)
        if (known := self._texts.get(key)) is None:
            statement = self._make(bindparam("ids", ids, expanding=True))
            known = self._texts[key] = _put_into_words(statement, connection.dialect)
        text, values = known
        return connection.exec_driver_sql(
            text, values({f"ids_{number}": value for number, value in enumerate(ids, 1)} | others)
        )


def _put_into_words(
    statement: Insert | Delete | Select[Any], dialect: Dialect, columns: Sequence[str] | None = None
) -> _Text:
    compiled = statement.compile(
        dialect=dialect,
        column_keys=None if columns is None else list(columns),
        compile_kwargs={"render_postcompile": True},
    )
    names = list(compiled.positiontup or ())  # type: ignore[attr-defined]
    if len(names) == 1:
        [name] = names
        return str(compiled), lambda row: (row[name],)
    return str(compiled), itemgetter(*names)


def _padded(ids: Sequence[str]) -> list[str]:
    """As many as a power of two, by repeating the last: few lengths are few statements to prepare."""
    return [*ids, *([ids[-1]] * ((1 << (len(ids) - 1).bit_length()) - len(ids)))]
