"""The command `keys`. It works on the database itself, whether or not a gateway is running."""

from __future__ import annotations

from typing import Any, Literal

import click
from msgspec import UNSET, UnsetType

from server.cli_key_options import (
    RESETS,
    DollarsOrNone,
    KeyName,
    Lifetime,
    LifetimeOrNone,
    entries,
    restrictions,
    scope_option,
)
from server.cli_shared import Dollars, as_json, date, example, print_json, print_table, unknown_team, with_database
from server.clock import SystemClock
from server.domain.identity import Scope
from server.domain.keys import DEFAULT_OVERLAP_S, MAX_OVERLAP_S, KeyChanges, KeyInfo, NoLimit
from server.domain.ledger import LimitReset, SpendLimit
from server.domain.money import usd
from server.domain.restrictions import Restrictions
from server.storage import api_key
from server.storage.key_records import KeyRecords, UnknownTeam

__all__ = ["keys"]


@click.group(
    epilog=example(
        "aistats-gateway teams create acme", "aistats-gateway keys create --team acme --name laptop --scope inference"
    )
)
def keys() -> None:
    """Make, list, change, rotate and revoke API keys.

    A key belongs to a team and allows what its scopes say: `inference` to use models, `management` to administer
    keys. Its secret is shown once, when it is made, and is not kept. What is done here is in the log of `audit list`.
    """


@keys.command(
    "create",
    epilog=example(
        "aistats-gateway keys create --team default --name ci --scope inference --expires-in 30d",
        "aistats-gateway keys create --team default --name demo --scope inference --model '*:free' --cidr 10.0.0.0/8",
    ),
)
@click.option("--team", required=True, help="The team that will own it, by name.")
@click.option("--name", required=True, type=KeyName(), help="What you call it, to know it again in the list.")
@scope_option(required=True)
@click.option("--expires-in", type=Lifetime(), help="How long it works: 12h, 30d. Without this, until it is revoked.")
@click.option("--limit", type=Dollars(), help="What it may spend, in US dollars: 5.00. Without this, all there is.")
@click.option("--limit-reset", type=click.Choice(RESETS), help="What the limit is for. Without this, for ever.")
@restrictions("Without this, all.")
@click.option("--disabled", is_flag=True, help="It is refused until `keys set KID --enable`.")
@as_json
def create_key(
    team: str,
    name: str,
    scopes: tuple[str, ...],
    expires_in: int | None,
    limit: int | None,
    limit_reset: LimitReset | None,
    models: tuple[str, ...],
    providers: tuple[str, ...],
    cidrs: tuple[str, ...],
    disabled: bool,
    as_json: bool,
) -> None:
    """Make a key and print it, this once."""
    if limit is None and limit_reset is not None:
        raise click.UsageError("--limit-reset needs --limit.")
    clock = SystemClock()
    expires_at = None if expires_in is None else int(clock.now()) + expires_in
    try:
        key = with_database(
            lambda database: KeyRecords(database, clock).create(
                team=team,
                name=name,
                scopes=frozenset(Scope(scope) for scope in scopes),
                expires_at=expires_at,
                disabled=disabled,
                spend_limit=None if limit is None else SpendLimit(limit, limit_reset),
                restrictions=_restrictions(models, providers, cidrs),
            )
        )
    except UnknownTeam:
        raise unknown_team(team) from None
    if as_json:
        print_json({"key": key.key, **_settings_object(key.info)})
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
    clock = SystemClock()
    try:
        found = with_database(lambda database: KeyRecords(database, clock).list(team=team))
    except UnknownTeam:
        raise unknown_team(team or "") from None
    if as_json:
        print_json([_key_object(key, clock.now()) for key in found])
        return
    print_table(
        ("ID", "TEAM", "NAME", "SCOPES", "STATUS", "CREATED", "EXPIRES", "LAST USED", "LIMIT", "SPENT", "ONLY"),
        [
            (
                key.id,
                key.team,
                key.name,
                ",".join(sorted(key.scopes)),
                key.status(clock.now()),
                date(key.created_at),
                date(key.expires_at),
                date(key.last_used_at),
                _limit_text(key.spend_limit),
                f"${usd(key.spent_nanos)}",
                _restrictions_text(key.restrictions),
            )
            for key in found
        ],
    )


@keys.command(
    "set",
    epilog=example(
        "aistats-gateway keys set 3f9c2b7a10de5482 --limit 5.00 --limit-reset monthly",
        "aistats-gateway keys set 3f9c2b7a10de5482 --model 'openai/*' --model '*:free' --cidr none",
    ),
)
@click.argument("kid", metavar="KID")
@click.option("--name", type=KeyName(), help="What you call it.")
@scope_option(required=False)
@click.option("--expires-in", type=LifetimeOrNone(), help="How long it works from now on: 12h, 30d; `none` for ever.")
@click.option("--disable/--enable", "disabled", default=None, help="Whether it is refused for now.")
@click.option("--limit", type=DollarsOrNone(), help="What it may spend, in US dollars: 5.00. `none` for all there is.")
@click.option(
    "--limit-reset", type=click.Choice((*RESETS, "none")), help="What the limit is for; `none` for ever. UTC's days."
)
@restrictions("`none` for all.")
@as_json
def set_key(
    kid: str,
    name: str | None,
    scopes: tuple[str, ...],
    expires_in: int | Literal["none"] | None,
    disabled: bool | None,
    limit: int | Literal["none"] | None,
    limit_reset: LimitReset | Literal["none"] | None,
    models: tuple[str, ...],
    providers: tuple[str, ...],
    cidrs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Change what a key may do. What is not given stays; every worker knows within a second.

    KID is the id that `keys list` shows; the whole key does as well.
    """
    clock = SystemClock()
    if limit == "none" and limit_reset not in (None, "none"):
        raise click.UsageError("Without a limit there is nothing to reset.")
    expires_at: int | UnsetType | None = UNSET if expires_in is None else None
    if isinstance(expires_in, int):
        expires_at = int(clock.now()) + expires_in
    changes = KeyChanges(
        name=UNSET if name is None else name,
        scopes=frozenset(Scope(scope) for scope in scopes) or UNSET,
        expires_at=expires_at,
        disabled=UNSET if disabled is None else disabled,
        limit_nanos=UNSET if limit is None else None if limit == "none" else limit,
        limit_reset=UNSET if limit_reset is None else None if limit_reset == "none" else limit_reset,
        models=entries(models, "--model") if models else UNSET,
        providers=entries(providers, "--provider") if providers else UNSET,
        cidrs=entries(cidrs, "--cidr") if cidrs else UNSET,
    )
    if changes == KeyChanges():
        raise click.UsageError(
            "Say what to change: --name, --scope, --expires-in, --disable, --enable, --limit, --limit-reset, --model,"
            " --provider, --cidr."
        )
    try:
        key = with_database(lambda database: KeyRecords(database, clock).change(_kid(kid), changes))
    except NoLimit:
        raise click.UsageError("The key has no limit yet: give it one with --limit.") from None
    if key is None:
        raise _unknown_key()
    if as_json:
        print_json(_settings_object(key))
        return
    click.echo(
        f"Key {key.id}: {key.status(clock.now())}, scopes {','.join(sorted(key.scopes))}, expires"
        f" {date(key.expires_at)}, limit {_limit_text(key.spend_limit)}, only {_restrictions_text(key.restrictions)}."
    )


@keys.command(
    "rotate",
    epilog=example(
        "aistats-gateway keys rotate 3f9c2b7a10de5482", "aistats-gateway keys rotate 3f9c2b7a10de5482 --overlap 0s"
    ),
)
@click.argument("kid", metavar="KID")
@click.option(
    "--overlap",
    type=Lifetime(least=0, most=MAX_OVERLAP_S, most_text="30d"),
    default=DEFAULT_OVERLAP_S,
    show_default="24h",
    help="How long the secret that it has now goes on working; 0s ends it at once.",
)
@as_json
def rotate_key(kid: str, overlap: int, as_json: bool) -> None:
    """Give a key a new secret and print it, this once. Its id, limits and history stay.

    A secret from before the last rotation ends at once. KID is the id that `keys list` shows; the whole key does as
    well.
    """
    key = with_database(lambda database: KeyRecords(database, SystemClock()).rotate(_kid(kid), overlap_s=overlap))
    if key is None:
        raise _unknown_key()
    until = key.info.previous_expires_at
    if as_json:
        print_json({"key": key.key, "previous_key_expires_at": until, **_settings_object(key.info)})
        return
    click.echo(key.key)
    ends = "has ended" if until is None else f"works until {date(until)}"
    click.echo(f"The one before {ends}. Keep this one now: it will not be shown again.", err=True)


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
    return click.ClickException(
        "There is no key of that id that still lives. `aistats-gateway keys list` shows all ids."
    )


def _kid(text: str) -> str:
    """The id of a key, of its id or of all of it."""
    token = api_key.parse(text)
    return text if token is None else token.kid


def _restrictions(models: tuple[str, ...], providers: tuple[str, ...], cidrs: tuple[str, ...]) -> Restrictions:
    return Restrictions(entries(models, "--model"), entries(providers, "--provider"), entries(cidrs, "--cidr"))


def _restrictions_text(held_to: Restrictions) -> str:
    parts = (("models", held_to.models), ("providers", held_to.providers), ("from", held_to.cidrs))
    return "; ".join(f"{name} {','.join(entries)}" for name, entries in parts if entries is not None) or "-"


def _limit_text(limit: SpendLimit | None) -> str:
    if limit is None:
        return "none"
    return f"${usd(limit.limit_nanos)} {limit.reset or 'for ever'}"


def _settings_object(key: KeyInfo) -> dict[str, Any]:
    """What was chosen for a key, and whose it is."""
    limit, held_to = key.spend_limit, key.restrictions
    return {
        "id": key.id,
        "team": key.team,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "expires_at": key.expires_at,
        "disabled": key.disabled,
        "limit_nanos": None if limit is None else limit.limit_nanos,
        "limit_reset": None if limit is None else limit.reset,
        "allowed_models": held_to.models,
        "allowed_providers": held_to.providers,
        "allowed_cidrs": held_to.cidrs,
    }


def _key_object(key: KeyInfo, now: float) -> dict[str, Any]:
    return {
        **_settings_object(key),
        "prefix": key.prefix,
        "status": key.status(now),
        "created_at": key.created_at,
        "updated_at": key.updated_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
        "previous_key_expires_at": key.previous_expires_at,
        "spent_nanos": key.spent_nanos,
    }
