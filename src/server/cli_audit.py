"""The command `audit`. It works on the database itself, whether or not a gateway is running."""

from __future__ import annotations

import json
from typing import Any, get_args

import click

from server.cli_shared import as_json, date, example, print_json, print_table, unknown_team, with_database
from server.domain.keys import AuditAction, AuditEntry, AuditFilter
from server.storage.audit import read_audit
from server.storage.database import Database
from server.storage.teams import Team, find_team

__all__ = ["audit"]

MAX_ENTRIES = 1000


@click.group(epilog=example("aistats-gateway audit list --team default"))
def audit() -> None:
    """Read the log of what was done to keys and teams, over the API and by these commands."""


@audit.command(
    "list", epilog=example("aistats-gateway audit list --target 3f9c2b7a10de5482", "aistats-gateway audit list --json")
)
@click.option("--team", help="Only what was done in this team, by name.")
@click.option("--actor", help="Only what this key did, by its id; `cli` for these commands.")
@click.option("--action", help=f"Only this: {', '.join(get_args(AuditAction))}.")
@click.option("--target", help="Only what was done to this key, team or webhook, by its id.")
@click.option("--limit", type=click.IntRange(1, MAX_ENTRIES), default=50, show_default=True, help="How many at most.")
@as_json
def list_audit(
    team: str | None, actor: str | None, action: str | None, target: str | None, limit: int, as_json: bool
) -> None:
    """List entries, the newest first. They are kept for two years."""
    wanted = AuditFilter(actor=actor, action=action, target=target)

    async def read(database: Database) -> tuple[Team | None, list[AuditEntry]]:
        owner = None if team is None else await database.read(lambda connection: find_team(connection, team))
        if team is not None and owner is None:
            return None, []
        team_id = None if owner is None else owner.id
        return owner, list(await read_audit(database, team_id, wanted, before=None, limit=limit))

    owner, found = with_database(read)
    if team is not None and owner is None:
        raise unknown_team(team)
    if as_json:
        print_json([_entry_object(entry) for entry in found])
        return
    print_table(
        ("TIME", "ACTOR", "ACTION", "TARGET", "BEFORE", "AFTER"),
        [
            (date(entry.at), entry.actor, entry.action, entry.target, _shown(entry.before), _shown(entry.after))
            for entry in found
        ],
    )


def _shown(fields: Any) -> str:
    return "-" if fields is None else json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _entry_object(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": str(entry.id),
        "team_id": entry.team_id,
        "created_at": entry.at,
        "actor": entry.actor,
        "action": entry.action,
        "target": entry.target,
        "request_id": entry.request_id,
        "before": entry.before,
        "after": entry.after,
    }
