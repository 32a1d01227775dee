"""What the commands on the database share: how they reach it, how they print, how amounts are written."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from server.domain.errors import GatewayError, Reason
from server.domain.money import nanos
from server.settings import load_settings
from server.storage.database import STATEMENT_TIMEOUT_S, Database, DatabaseUnusable
from server.storage.migrate import upgrade_if_empty
from server.storage.teams import DEFAULT_TEAM

__all__ = [
    "Dollars",
    "ShortText",
    "as_json",
    "date",
    "example",
    "print_json",
    "print_table",
    "unknown_team",
    "with_database",
]

T = TypeVar("T")

MAX_NOTE_LENGTH: Final = 200

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class Dollars(click.ParamType[int]):
    """An amount such as `5.00`, in nano-dollars; `is_signed`: or such as `-1.00`."""

    name = "usd"

    def __init__(self, *, is_signed: bool = False) -> None:
        self._sign = "-?" if is_signed else ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if re.fullmatch(rf"{self._sign}[0-9]{{1,9}}(\.[0-9]{{1,9}})?", value, re.ASCII) is None:
            self.fail("write dollars with at most nine decimals: 5.00", param, ctx)
        return nanos(value)


class ShortText(click.ParamType[str]):
    """A line of text: printable, and not blank."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if not 0 < len(text) <= MAX_NOTE_LENGTH or not text.isprintable():
            self.fail(f"write 1 to {MAX_NOTE_LENGTH} printable characters", param, ctx)
        return text


def example(*commands: str) -> str:
    return "\n".join(["\b", "Example:", *(f"  {command}" for command in commands)])


def with_database(use: Callable[[Database], Awaitable[T]], *, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> T:
    """Run `use` on the configured database, which is given its schema first where it has none."""
    url = load_settings().database_url

    async def run() -> T:
        await upgrade_if_empty(url)
        database = Database.open(url, pool_size=2, quiet=True, statement_timeout_s=statement_timeout_s)
        try:
            return await use(database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except DatabaseUnusable as error:
        raise click.ClickException(str(error)) from None
    except GatewayError as error:
        hint = " AISTATS_DATABASE_URL says where it is; `aistats-gateway doctor` looks closer."
        is_away = error.reason is Reason.DATABASE_UNAVAILABLE
        raise click.ClickException(f"{error.description}{hint if is_away else ''}") from None


def unknown_team(team: str, *, param_hint: str = "--team") -> click.ClickException:
    hint = f"`aistats-gateway teams create {team}` makes it" if team != DEFAULT_TEAM else "`up` makes it"
    return click.BadParameter(
        f"there is no team {team!r}. {hint}, `aistats-gateway teams list` shows those there are.",
        param_hint=param_hint,
    )


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        cells = zip(row, widths, strict=True)
        click.echo("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


def date(seconds: int | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
