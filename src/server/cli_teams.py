"""The command `teams`. It works on the database itself, whether or not a gateway is running."""

from __future__ import annotations

import re
from typing import Any, Final, get_args

import click
import msgspec

from server.catalogue.files import REGION
from server.cli_shared import as_json, date, example, print_json, print_table, unknown_team, with_database
from server.clock import SystemClock, UuidV7
from server.domain.guardrail import MODES
from server.domain.request import Sort
from server.storage.database import Database
from server.storage.teams import InvalidName, NameTaken, Team, Teams

__all__ = ["teams"]

MAX_CONTENT_DAYS: Final = 3650
_PROVIDER: Final = "provider"
_BALANCE: Final = "balanced"
_ANY: Final = "any"
_OFF: Final = "off"


@click.group(epilog=example("aistats-gateway teams create acme", "aistats-gateway teams list"))
def teams() -> None:
    """Make, list and set up teams, which own keys, responses and money."""


@teams.command("create", epilog=example("aistats-gateway teams create acme"))
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
        team = with_database(lambda database: _teams(database).create(name))
    except InvalidName as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    except NameTaken as error:
        raise click.ClickException(f"{str(error).capitalize()}.") from None
    if as_json:
        print_json(_team_object(team))
        return
    click.echo(f"Made team {team.name} ({team.id}).")


@teams.command("list", epilog=example("aistats-gateway teams list --json"))
@as_json
def list_teams(as_json: bool) -> None:
    """List teams, oldest first."""
    found = with_database(lambda database: _teams(database).list())
    if as_json:
        print_json([_team_object(team) for team in found])
        return
    print_table(
        ("NAME", "ID", "CREATED", "CONTENT", "ON DISCONNECT", "SORT", "REGIONS", "MODERATION"),
        [_row(team) for team in found],
    )


@teams.command(
    "set",
    epilog=example(
        "aistats-gateway teams set acme --store-content on --content-days 7",
        "aistats-gateway teams set acme --on-disconnect drain",
        "aistats-gateway teams set acme --sort latency --regions eu,ch",
        "aistats-gateway teams set acme --moderation-input block --moderation-output flag",
    ),
)
@click.argument("name", metavar="NAME")
@click.option(
    "--store-content",
    type=click.Choice(("on", "off")),
    help="Whether its prompts and replies are kept. What is kept already stays for its time.",
)
@click.option(
    "--content-days", type=click.IntRange(1, MAX_CONTENT_DAYS), help="For how many days those are kept from now on."
)
@click.option(
    "--on-disconnect",
    type=click.Choice(("cancel", "drain", _PROVIDER)),
    help="When a client leaves: end the call, read it to its end, or do as the provider's entry says.",
)
@click.option(
    "--sort",
    type=click.Choice((_BALANCE, *get_args(Sort))),
    help="What its requests prefer of providers that serve them alike, where they say nothing themselves.",
)
@click.option(
    "--regions",
    metavar="REGION,…",
    help=f"The only regions of providers that may serve it, as their entries say; {_ANY!r} for all.",
)
@click.option(
    "--moderation-input",
    type=click.Choice((*MODES, _OFF)),
    help="What becomes of requests that a moderation model flags: tell of it, refuse them, or ask no such model.",
)
@click.option(
    "--moderation-output",
    type=click.Choice((*MODES, _OFF)),
    help="The same of answers; one that is blocked ends before what is flagged.",
)
@click.option(
    "--moderation-model",
    metavar="MODEL",
    help=f"Who judges; {_ANY!r} for one that works here.",
)
@as_json
def set_team(
    name: str,
    store_content: str | None,
    content_days: int | None,
    on_disconnect: str | None,
    sort: str | None,
    regions: str | None,
    moderation_input: str | None,
    moderation_output: str | None,
    moderation_model: str | None,
    as_json: bool,
) -> None:
    """Change how the requests of team NAME are treated. Running workers know within a second."""
    changes: dict[str, Any] = {}
    if store_content is not None:
        changes["store_content"] = store_content == "on"
    if content_days is not None:
        changes["content_days"] = content_days
    if on_disconnect is not None:
        changes["on_disconnect"] = None if on_disconnect == _PROVIDER else on_disconnect
    if sort is not None:
        changes["sort"] = None if sort == _BALANCE else sort
    if regions is not None:
        changes["regions"] = _regions(regions)
    if moderation_input is not None:
        changes["moderation_input"] = None if moderation_input == _OFF else moderation_input
    if moderation_output is not None:
        changes["moderation_output"] = None if moderation_output == _OFF else moderation_output
    if moderation_model is not None:
        changes["moderation_model"] = None if moderation_model == _ANY else moderation_model
    if not changes:
        raise click.UsageError(
            "Say what to change: --store-content, --content-days, --on-disconnect, --sort, --regions,"
            " --moderation-input, --moderation-output or --moderation-model."
        )
    team = with_database(lambda database: _teams(database).change(name, changes))
    if team is None:
        raise unknown_team(name, param_hint="NAME")
    if as_json:
        print_json(_team_object(team))
        return
    policy = team.policy
    click.echo(
        f"Team {team.name}: content {_content(team)}, on disconnect {policy.on_disconnect or _PROVIDER},"
        f" sort {policy.sort or _BALANCE}, regions {_listed(team)}, moderation {_moderation(team)}."
    )


def _teams(database: Database) -> Teams:
    return Teams(database, SystemClock(), UuidV7())


def _row(team: Team) -> tuple[str, ...]:
    policy = team.policy
    chosen = policy.on_disconnect or _PROVIDER, policy.sort or _BALANCE, _listed(team), _moderation(team)
    return team.name, team.id, date(team.created_at), _content(team), *chosen


def _regions(text: str) -> str | None:
    """As they are stored: None for any."""
    if text == _ANY:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch(REGION, name) for name in names):
        raise click.BadParameter("Give regions as in the catalogue, parted by commas: eu,ch", param_hint="--regions")
    return " ".join(dict.fromkeys(names))


def _listed(team: Team) -> str:
    return _ANY if team.policy.regions is None else ",".join(team.policy.regions)


def _moderation(team: Team) -> str:
    rail = team.policy.guardrail
    return _OFF if rail is None else f"in {rail.input or _OFF}, out {rail.output or _OFF}, by {rail.model or _ANY}"


def _content(team: Team) -> str:
    return f"kept {team.policy.content_days} days" if team.policy.store_content else "not kept"


def _team_object(team: Team) -> dict[str, Any]:
    return {
        "id": team.id,
        "name": team.name,
        "created_at": team.created_at,
        "store_content": team.policy.store_content,
        "content_days": team.policy.content_days,
        "on_disconnect": team.policy.on_disconnect or _PROVIDER,
        "sort": team.policy.sort or _BALANCE,
        "regions": None if team.policy.regions is None else list(team.policy.regions),
        "moderation": msgspec.to_builtins(team.policy.guardrail),
    }
