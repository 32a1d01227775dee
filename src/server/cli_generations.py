"""The command `generations`: the records of requests, from the database itself; and their replay, over HTTP."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

import click

from rest_bridge.generations import encode_generation
from server.cli_shared import as_json, date, example, print_json, print_table, unknown_team, with_database
from server.clock import SystemClock
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Arrival, Call, Principal
from server.domain.limits import MAX_PAGE
from server.domain.money import usd
from server.domain.record import GenerationRecord
from server.domain.records import Found, RecordFilter
from server.pipeline.generations import Generations, Page
from server.settings import load_settings
from server.storage.database import Database
from server.storage.generations import SqlRecords
from server.storage.group_commit import GroupCommit
from server.storage.key_records import UnknownTeam
from server.storage.teams import find_team

__all__ = ["generations"]

T = TypeVar("T")

REPLAY_TIMEOUT_S: Final = 600.0
"""How long a reply may be silent."""
MAX_PIECE_BYTES: Final = 64 * 1024

the_team = click.option("--team", required=True, help="The team whose request it was, by name.")


@click.group(
    epilog=example(
        "aistats-gateway generations list --team default --limit 5",
        "aistats-gateway generations show gen_0199a1b2c3d4e5f60718293a4b5c6d7e --team default",
    )
)
def generations() -> None:
    """See what became of requests, send one again, forget those that are old.

    ID is any id of a request: gen_…, resp_…, chatcmpl-…, or what they have in common.
    """


@generations.command(
    "show", epilog=example("aistats-gateway generations show gen_0199a1b2c3d4e5f60718293a4b5c6d7e --team default")
)
@click.argument("generation_id", metavar="ID")
@the_team
@as_json
def show(generation_id: str, team: str, as_json: bool) -> None:
    """Print the record of one request, with its content where that is kept."""
    told = encode_generation(_find(generation_id, team))
    if as_json:
        click.echo(told)
        return
    for name, value in json.loads(told).items():
        click.echo(f"{name + ':':<20}{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


@generations.command("list", epilog=example("aistats-gateway generations list --team default --status-code 404"))
@the_team
@click.option("--model", help="Only those for this model.")
@click.option("--provider", help="Only those that this provider served.")
@click.option("--key", "key_id", metavar="KID", help="Only those with this key.")
@click.option("--status-code", type=int, help="Only those that were answered so.")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE), default=20, show_default=True, help="How many.")
@click.option("--after", metavar="ID", help="Only those before this one.")
@as_json
def list_generations(
    team: str,
    model: str | None,
    provider: str | None,
    key_id: str | None,
    status_code: int | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List the records of a team, newest first, without their content."""
    wanted = RecordFilter(model=model, provider=provider, key_id=key_id, status_code=status_code)
    page: Page = _ask(team, lambda records, call: records.list(call, wanted, after=after, limit=limit))
    if as_json:
        print_json([json.loads(encode_generation(found)) for found in page.data])
        return
    print_table(
        ("ID", "CREATED", "ENDPOINT", "MODEL", "PROVIDER", "STATUS", "ERROR", "USD", "REPLAY"), _rows(page.data)
    )


@generations.command(
    "replay",
    epilog=example("aistats-gateway generations replay gen_0199a1b2c3d4e5f60718293a4b5c6d7e --team default > reply"),
)
@click.argument("generation_id", metavar="ID")
@the_team
@click.option("--key", envvar="AISTATS_API_KEY", required=True, help="The key to send it with.  [AISTATS_API_KEY]")
@click.option("--url", help="Where the gateway is.  [default: as AISTATS_HTTP_HOST and _PORT say]")
def replay(generation_id: str, team: str, key: str, url: str | None) -> None:
    """Send a request again whose body is kept, and print the reply as it comes. It is charged like any other.

    Bodies are kept from when `teams set NAME --store-content on` was given. Exits 1 where the reply is an error.
    """
    content = _find(generation_id, team).content
    if content is None or content.request is None:
        raise click.ClickException(
            f"The body of this request is not kept. `aistats-gateway teams set {team} --store-content on` keeps those"
            " of requests to come."
        )
    gateway = urlsplit(url or load_settings().http_url)
    if gateway.scheme not in ("http", "https") or not gateway.hostname:
        raise click.BadParameter("write http://HOST:PORT", param_hint="--url")
    try:
        status = _post(gateway, content.path, content.request, key.strip())
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(
            f"The gateway at {gateway.netloc} did not answer to the end ({error or type(error).__name__})."
        ) from None
    sys.exit(status >= http.client.BAD_REQUEST)


@generations.command("purge", epilog=example("AISTATS_RECORD_DAYS=90 aistats-gateway generations purge"))
@as_json
def purge(as_json: bool) -> None:
    """Forget at once what workers forget about once an hour.

    Contents are forgotten when their team's days are over, records after AISTATS_RECORD_DAYS days: without that,
    never. What they cost stays in the ledger and in the sums by day.
    """
    contents, records = with_database(_purge)
    if as_json:
        print_json({"contents": contents, "records": records})
        return
    click.echo(f"Forgot the content of {contents} requests, and {records} records.")


async def _purge(database: Database) -> tuple[int, int]:
    async with _records(database) as records:
        return await _until_none(records.purge_contents), await _until_none(records.purge_records)


async def _until_none(purge: Callable[[], Awaitable[int]]) -> int:
    total = 0
    while count := await purge():
        total += count
    return total


@asynccontextmanager
async def _records(database: Database) -> AsyncGenerator[SqlRecords, None]:
    commits = GroupCommit(database)
    try:
        yield SqlRecords(database, commits, SystemClock(), record_days=load_settings().record_days)
    finally:
        await commits.close()


def _find(generation_id: str, team: str) -> Found:
    return _ask(team, lambda records, call: records.get(call, generation_id))


def _ask(team: str, question: Callable[[Generations, Call], Awaitable[T]]) -> T:
    """Ask as a key of the team would; what is refused there is refused here."""

    async def use(database: Database) -> T:
        found = await database.read(lambda connection: find_team(connection, team))
        if found is None:
            raise UnknownTeam(team)
        call = Call(Arrival("", "", 0.0, 0), Principal(found.id, "", frozenset()))
        async with _records(database) as records:
            try:
                return await question(Generations(records), call)
            except GatewayError as error:
                if error.reason is Reason.DATABASE_UNAVAILABLE:
                    raise
                raise click.ClickException(error.description) from None

    try:
        return with_database(use)
    except UnknownTeam:
        raise unknown_team(team) from None


def _post(gateway: SplitResult, path: str, body: bytes, key: str) -> int:
    """Send the body and pass the reply on to stdout; its status."""
    assert gateway.hostname, "the address has been checked"
    is_tls = gateway.scheme == "https"
    make: type[http.client.HTTPConnection] = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
    connection = make(gateway.hostname, gateway.port, timeout=REPLAY_TIMEOUT_S)
    try:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", gateway.path.rstrip("/").removesuffix("/v1") + path, body, headers)
        reply = connection.getresponse()
        click.echo(f"HTTP {reply.status}, {reply.getheader('x-generation-id')}", err=True)
        while piece := reply.read1(MAX_PIECE_BYTES):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return reply.status
    finally:
        connection.close()


def _rows(found: Sequence[Found]) -> list[tuple[str, ...]]:
    return [_row(one.record, is_replayable=one.replayable) for one in found]


def _row(record: GenerationRecord, *, is_replayable: bool) -> tuple[str, ...]:
    return (
        record.id,
        date(record.created_at),
        record.endpoint,
        record.model_id,
        record.provider or "-",
        str(record.status_code),
        record.error_code or "-",
        usd(record.cost_nanos),
        "yes" if is_replayable else "no",
    )
