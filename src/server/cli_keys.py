"""The command `keys`. It works on the database itself, whether or not a gateway is running."""

from __future__ import annotations

import re
from typing import Any, Final, Literal, get_args

import click
from msgspec import UNSET

from server.cli_shared import Dollars, as_json, date, example, print_json, print_table, unknown_team, with_database
from server.clock import SystemClock
from server.domain.identity import Scope
from server.domain.ledger import LimitReset, SpendLimit
from server.domain.money import usd
from server.storage import api_key
from server.storage.key_records import KeyInfo, KeyRecords, NoLimit, UnknownTeam

__all__ = ["keys"]

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


class DollarsOrNone(Dollars):
    """As Dollars, or `none`."""

    def convert(  # type: ignore[override]
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["none"]:
        return "none" if value == "none" else super().convert(value, param, ctx)


RESETS: Final[tuple[LimitReset, ...]] = get_args(LimitReset)


@click.group(
    epilog=example(
        "aistats-gateway teams create acme", "aistats-gateway keys create --team acme --name laptop --scope inference"
    )
)
def keys() -> None:
    """Make, list, limit and revoke API keys.

    A key belongs to a team and allows what its scopes say: `inference` to use models, `management` to administer
    keys and money. Its secret is shown once, when it is made, and is not kept.
    """


@keys.command(
    "create", epilog=example("aistats-gateway keys create --team default --name ci --scope inference --expires-in 30d")
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
@click.option("--limit", type=Dollars(), help="What it may spend, in US dollars: 5.00. Without this, all there is.")
@click.option("--limit-reset", type=click.Choice(RESETS), help="What the limit is for. Without this, for ever.")
@as_json
def create_key(
    team: str,
    name: str,
    scopes: tuple[str, ...],
    expires_in: int | None,
    limit: int | None,
    limit_reset: LimitReset | None,
    as_json: bool,
) -> None:
    """Make a key and print it, this once."""
    if limit is None and limit_reset is not None:
        raise click.UsageError("--limit-reset needs --limit.")
    spend_limit = None if limit is None else SpendLimit(limit, limit_reset)
    clock = SystemClock()
    expires_at = None if expires_in is None else int(clock.now()) + expires_in
    wanted = frozenset(Scope(scope) for scope in scopes)
    try:
        key = with_database(
            lambda database: KeyRecords(database, clock).create(
                team=team, name=name, scopes=wanted, expires_at=expires_at, spend_limit=spend_limit
            )
        )
    except UnknownTeam:
        raise unknown_team(team) from None
    if as_json:
        print_json(
            {
                "id": key.id,
                "key": key.key,
                "team": key.team,
                "name": key.name,
                "scopes": list(key.scopes),
                "expires_at": key.expires_at,
                **_limit_object(key.spend_limit),
            }
        )
        return
    click.echo(key.key)
    until = "until it is revoked" if expires_at is None else f"until {date(expires_at)}"
    click.echo(f"Key {key.id} of team {team} works {until}. Keep it now: it will not be shown again.", err=True)


@keys.command("list", epilog=example("aistats-gateway keys list --team default"))
@click.option("--team", help="Only the keys of this team, by name.")
@as_json
def list_keys(team: str | None, as_json: bool) -> None:
    """List keys, oldest first; never their secrets.

    SPENT is what was charged in the day, week or month that the limit is for, and ever where nothing is reset.
    """
    try:
        found = with_database(lambda database: KeyRecords(database, SystemClock()).list(team=team))
    except UnknownTeam:
        raise unknown_team(team or "") from None
    if as_json:
        print_json([_key_object(key) for key in found])
        return
    print_table(
        ("ID", "TEAM", "NAME", "SCOPES", "STATUS", "CREATED", "EXPIRES", "LIMIT", "SPENT"),
        [
            (
                key.id,
                key.team,
                key.name,
                ",".join(key.scopes),
                key.status,
                date(key.created_at),
                date(key.expires_at),
                _limit_text(key.spend_limit),
                f"${usd(key.spent_nanos)}",
            )
            for key in found
        ],
    )


@keys.command("set", epilog=example("aistats-gateway keys set 3f9c2b7a10de5482 --limit 5.00 --limit-reset monthly"))
@click.argument("kid", metavar="KID")
@click.option("--limit", type=DollarsOrNone(), help="What it may spend, in US dollars: 5.00. `none` for all there is.")
@click.option(
    "--limit-reset", type=click.Choice((*RESETS, "none")), help="What the limit is for; `none` for ever. UTC's days."
)
@as_json
def set_key(
    kid: str, limit: int | Literal["none"] | None, limit_reset: LimitReset | Literal["none"] | None, as_json: bool
) -> None:
    """Change what a key may spend. What is not given stays; every worker knows within a second.

    KID is the id that `keys list` shows; the whole key does as well.
    """
    if limit is None and limit_reset is None:
        raise click.UsageError("Say what to change: --limit, --limit-reset.")
    if limit == "none" and limit_reset not in (None, "none"):
        raise click.UsageError("Without a limit there is nothing to reset.")
    wanted = _kid(kid)
    if limit == "none":
        found, spend_limit = (
            with_database(lambda database: KeyRecords(database, SystemClock()).lift_limit(wanted)),
            None,
        )
    else:
        nanos_or_unset = UNSET if limit is None else limit
        reset = UNSET if limit_reset is None else None if limit_reset == "none" else limit_reset
        try:
            spend_limit = with_database(
                lambda database: KeyRecords(database, SystemClock()).set_limit(
                    wanted, limit_nanos=nanos_or_unset, reset=reset
                )
            )
        except NoLimit:
            raise click.UsageError("The key has no limit yet: give it one with --limit.") from None
        found = spend_limit is not None
    if not found:
        raise _unknown_key()
    if as_json:
        print_json({"id": wanted, **_limit_object(spend_limit)})
        return
    click.echo(f"Limit of {wanted}: {_limit_text(spend_limit)}.")


@keys.command("revoke", epilog=example("aistats-gateway keys revoke 3f9c2b7a10de5482"))
@click.argument("kid", metavar="KID")
def revoke_key(kid: str) -> None:
    """End a key for good. Every worker refuses it within a second; streams that are under way finish.

    KID is the id that `keys list` shows; the whole key does as well.
    """
    wanted = _kid(kid)
    if not with_database(lambda database: KeyRecords(database, SystemClock()).revoke(wanted)):
        raise _unknown_key()
    click.echo(f"Revoked {wanted}.")


def _unknown_key() -> click.ClickException:
    return click.ClickException("There is no key of that id. `aistats-gateway keys list` shows all ids.")


def _kid(text: str) -> str:
    """The id of a key, of its id or of all of it."""
    token = api_key.parse(text)
    return text if token is None else token.kid


def _limit_object(limit: SpendLimit | None) -> dict[str, Any]:
    return {
        "limit_nanos": None if limit is None else limit.limit_nanos,
        "limit_reset": None if limit is None else limit.reset,
    }


def _limit_text(limit: SpendLimit | None) -> str:
    if limit is None:
        return "none"
    return f"${usd(limit.limit_nanos)} {limit.reset or 'for ever'}"


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
        **_limit_object(key.spend_limit),
        "spent_nanos": key.spent_nanos,
    }
