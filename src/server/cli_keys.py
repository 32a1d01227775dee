"""The commands `keys` and `teams`. They work on the database itself, whether or not a gateway is running."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from server.clock import SystemClock, UuidV7
from server.domain.errors import GatewayError
from server.domain.identity import Scope
from server.settings import load_settings
from server.storage import api_key
from server.storage.database import Database, DatabaseUnusable
from server.storage.key_records import KeyInfo, KeyRecords, UnknownTeam
from server.storage.migrate import upgrade_if_empty
from server.storage.teams import DEFAULT_TEAM, InvalidName, NameTaken, Teams

__all__ = ["keys", "teams"]

T = TypeVar("T")

MAX_KEY_NAME_LENGTH: Final = 100
MAX_LIFETIME_S: Final = 3650 * 86_400
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Lifetime(click.ParamType[int]):
    """A length of time such as `30d`, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,9})([smhdw])", value.strip().lower(), re.ASCII)
        seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
        if not 0 < seconds <= MAX_LIFETIME_S:
            self.fail("write a number and s, m, h, d or w, at most 3650d: 12h, 30d", param, ctx)
        return seconds


class KeyName(click.ParamType[str]):
    """What a person calls a key: printable, and not blank."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = str(value).strip()
        if not 0 < len(name) <= MAX_KEY_NAME_LENGTH or not name.isprintable():
            self.fail(f"write 1 to {MAX_KEY_NAME_LENGTH} printable characters", param, ctx)
        return name


def _example(*commands: str) -> str:
    return "\n".join(["\b", "Example:", *(f"  {command}" for command in commands)])


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.group(
    epilog=_example(
        "aistats-gateway teams create acme", "aistats-gateway keys create --team acme --name laptop --scope inference"
    )
)
def keys() -> None:
    """Make, list and revoke API keys.

    A key belongs to a team and allows what its scopes say: `inference` to use models, `management` to administer
    keys and money. Its secret is shown once, when it is made, and is not kept.
    """


@keys.command(
    "create", epilog=_example("aistats-gateway keys create --team default --name ci --scope inference --expires-in 30d")
)
@click.option("--team", required=True, help="The team that will own it, by name.")
@click.option("--name", required=True, type=KeyName(), help="What you call it, to know it again in the list.")
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What it may do; give the option twice for both.",
)
@click.option("--expires-in", type=Lifetime(), help="How long it works: 12h, 30d. Without this, until it is revoked.")
@as_json
def create_key(team: str, name: str, scopes: tuple[str, ...], expires_in: int | None, as_json: bool) -> None:
    """Make a key and print it, this once."""
    clock = SystemClock()
    expires_at = None if expires_in is None else int(clock.now()) + expires_in
    wanted = frozenset(Scope(scope) for scope in scopes)
    try:
        key = _with_database(
            lambda database: KeyRecords(database, clock).create(
                team=team, name=name, scopes=wanted, expires_at=expires_at
            )
        )
    except UnknownTeam:
        raise _unknown_team(team) from None
    if as_json:
        _print_json(
            {
                "id": key.id,
                "key": key.key,
                "team": key.team,
                "name": key.name,
                "scopes": list(key.scopes),
                "expires_at": key.expires_at,
            }
        )
        return
    click.echo(key.key)
    until = "until it is revoked" if expires_at is None else f"until {_date(expires_at)}"
    click.echo(f"Key {key.id} of team {team} works {until}. Keep it now: it will not be shown again.", err=True)


@keys.command("list", epilog=_example("aistats-gateway keys list --team default"))
@click.option("--team", help="Only the keys of this team, by name.")
@as_json
def list_keys(team: str | None, as_json: bool) -> None:
    """List keys, oldest first; never their secrets."""
    try:
        found = _with_database(lambda database: KeyRecords(database, SystemClock()).list(team=team))
    except UnknownTeam:
        raise _unknown_team(team or "") from None
    if as_json:
        _print_json([_key_object(key) for key in found])
        return
    _print_table(
        ("ID", "TEAM", "NAME", "SCOPES", "STATUS", "CREATED", "EXPIRES"),
        [
            (
                key.id,
                key.team,
                key.name,
                ",".join(key.scopes),
                key.status,
                _date(key.created_at),
                _date(key.expires_at),
            )
            for key in found
        ],
    )


@keys.command("revoke", epilog=_example("aistats-gateway keys revoke 3f9c2b7a10de5482"))
@click.argument("kid", metavar="KID")
def revoke_key(kid: str) -> None:
    """End a key for good. Every worker refuses it within a second; streams that are under way finish.

    KID is the id that `keys list` shows; the whole key does as well.
    """
    token = api_key.parse(kid)
    wanted = kid if token is None else token.kid
    if not _with_database(lambda database: KeyRecords(database, SystemClock()).revoke(wanted)):
        raise click.ClickException("There is no key of that id. `aistats-gateway keys list` shows all ids.")
    click.echo(f"Revoked {wanted}.")


@click.group(epilog=_example("aistats-gateway teams create acme", "aistats-gateway teams list"))
def teams() -> None:
    """Make and list teams, which own keys, responses and money."""


@teams.command("create", epilog=_example("aistats-gateway teams create acme"))
@click.argument("positional_name", metavar="NAME", required=False)
@click.option("--name", "name_option", help="The same as NAME.")
@as_json
def create_team(positional_name: str | None, name_option: str | None, as_json: bool) -> None:
    """Make a team called NAME."""
    if positional_name and name_option and positional_name != name_option:
        raise click.UsageError("Give the name once, as NAME or as --name.")
    name = positional_name or name_option
    if name is None:
        raise click.UsageError("Give the new team a name: aistats-gateway teams create acme")
    try:
        team = _with_database(lambda database: Teams(database, SystemClock(), UuidV7()).create(name))
    except InvalidName as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    except NameTaken as error:
        raise click.ClickException(f"{str(error).capitalize()}.") from None
    if as_json:
        _print_json({"id": team.id, "name": team.name, "created_at": team.created_at})
        return
    click.echo(f"Made team {team.name} ({team.id}).")


@teams.command("list", epilog=_example("aistats-gateway teams list --json"))
@as_json
def list_teams(as_json: bool) -> None:
    """List teams, oldest first."""
    found = _with_database(lambda database: Teams(database, SystemClock(), UuidV7()).list())
    if as_json:
        _print_json([{"id": team.id, "name": team.name, "created_at": team.created_at} for team in found])
        return
    _print_table(("NAME", "ID", "CREATED"), [(team.name, team.id, _date(team.created_at)) for team in found])


def _with_database(use: Callable[[Database], Awaitable[T]]) -> T:
    """Run `use` on the configured database, which is given its schema first where it has none."""
    url = load_settings().database_url

    async def run() -> T:
        await upgrade_if_empty(url)
        database = Database.open(url, pool_size=2, quiet=True)
        try:
            return await use(database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except DatabaseUnusable as error:
        raise click.ClickException(str(error)) from None
    except GatewayError as error:
        raise click.ClickException(
            f"{error.description} AISTATS_DATABASE_URL says where it is; `aistats-gateway doctor` looks closer."
        ) from None


def _unknown_team(team: str) -> click.ClickException:
    hint = f"`aistats-gateway teams create {team}` makes it" if team != DEFAULT_TEAM else "`up` makes it"
    return click.BadParameter(
        f"there is no team {team!r}. {hint}, `aistats-gateway teams list` shows those there are.",
        param_hint="--team",
    )


def _key_object(key: KeyInfo) -> dict[str, Any]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "team": key.team,
        "name": key.name,
        "scopes": list(key.scopes),
        "status": key.status,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def _print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        cells = zip(row, widths, strict=True)
        click.echo("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


def _date(seconds: int | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
