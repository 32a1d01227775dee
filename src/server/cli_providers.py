"""The command `providers`. It works on the database itself, whether or not a gateway is running."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import structlog
from msgspec.structs import replace

from server.catalogue.load import load_catalog
from server.catalogue.problems import CatalogError, suggestion
from server.cli_shared import ShortText, as_json, date, example, print_json, print_table, with_database
from server.clock import SystemClock
from server.domain.catalog import Catalog
from server.domain.errors import GatewayError
from server.domain.health import BreakerHealth, DrainedProvider, ProviderHealth
from server.domain.ports import Clock
from server.pipeline.health.offers import Health
from server.pipeline.health.share import Sharing
from server.pipeline.health.view import MeasuredHealth
from server.settings import load_settings
from server.storage.database import Database
from server.storage.drained import SqlDrained
from server.storage.group_commit import GroupCommit
from server.storage.health_reports import SqlHealthExchange
from server.storage.valkey_health import ValkeyHealthExchange

__all__ = ["providers"]

_NOBODY: Final = "cli"
"""The worker that this program is, which reports nothing."""
_STAND_IN: Final = "http://unset.invalid"
"""As good a key as an address; nothing is sent to it, or with it."""


class _Fixed:
    """A `CatalogSource`."""

    def __init__(self, catalog: Catalog) -> None:
        self.current = catalog


class Known(msgspec.Struct, frozen=True):
    """What is told of providers: as `GET /v1/health` does, and what is drained, by provider.

    `has_reports`: whether the figures could be read; from Valkey, where the gateway uses that.
    """

    health: tuple[ProviderHealth, ...]
    drained: dict[str, DrainedProvider]
    has_reports: bool


the_id = click.argument("provider_id", metavar="ID")


@click.group(
    epilog=example(
        "aistats-gateway providers status", 'aistats-gateway providers drain openai --reason "they are down"'
    )
)
def providers() -> None:
    """See how providers are, take one out of service, bring it back."""


@providers.command("status", epilog=example("aistats-gateway providers status --json"))
@as_json
def status(as_json: bool) -> None:
    """Show how each provider is, by what all workers have reported.

    The same as `GET /v1/health`. Of the shipped providers those count as configured that were called lately, or whose
    key is in this shell's environment.
    """
    catalog = _catalog()
    with _silence():
        known = with_database(lambda database: _read(database, catalog))
    if not known.has_reports:
        click.echo("warning: Valkey does not answer: no worker's figures, and no breakers, are known.", err=True)
    if as_json:
        print_json([_as_object(one, known.drained.get(one.id)) for one in known.health])
        return
    print_table(
        ("PROVIDER", "STATUS", "SCORE", "SUCCESS", "P50", "P95", "IN FLIGHT", "LAST MINUTE", "WHY"),
        [_row(one, known.drained.get(one.id)) for one in known.health],
    )


@providers.command(
    "drain", epilog=example('aistats-gateway providers drain openai --reason "their incident of this morning"')
)
@the_id
@click.option("--reason", type=ShortText(), help="Why; `providers status` shows it.")
@as_json
def drain(provider_id: str, reason: str | None, as_json: bool) -> None:
    """Take provider ID out of service, until it is brought back with `undrain`.

    Within two seconds no worker sends it another request; those under way end in peace. It stays drained through
    restarts.
    """
    catalog = _catalog()
    _check(catalog, provider_id, {*catalog.providers})

    async def work(database: Database) -> tuple[bool, set[str]]:
        table = SqlDrained(database, SystemClock())
        is_new = await table.drain(provider_id, reason or "")
        return is_new, {one.provider for one in await table.list()}

    is_new, drained = with_database(work)
    lost = _lost(catalog, provider_id, drained)
    if as_json:
        print_json({"id": provider_id, "drained": True, "changed": is_new, "models_lost": lost})
        return
    click.echo(f"Drained {provider_id}." if is_new else f"{provider_id} was drained already.")
    if lost:
        click.echo(f"Nobody serves now: {', '.join(lost)}.")


@providers.command("undrain", epilog=example("aistats-gateway providers undrain openai"))
@the_id
@as_json
def undrain(provider_id: str, as_json: bool) -> None:
    """Bring provider ID back: within two seconds it gets requests again, a few at first, its share within a minute."""
    catalog = _catalog()

    async def work(database: Database) -> bool:
        table = SqlDrained(database, SystemClock())
        _check(catalog, provider_id, {*catalog.providers, *(one.provider for one in await table.list())})
        return await table.undrain(provider_id)

    was_drained = with_database(work)
    if as_json:
        print_json({"id": provider_id, "drained": False, "changed": was_drained})
        return
    click.echo(f"{provider_id} is back." if was_drained else f"{provider_id} was not drained.")


def _catalog() -> Catalog:
    """The catalogue, also where the gateway has keys that this shell has not."""
    config = load_settings().config
    try:
        return load_catalog(
            config, {**_named_in(config), **{name: value for name, value in os.environ.items() if value}}
        )
    except CatalogError as error:
        raise click.ClickException(str(error)) from None


def _named_in(config: Path | None) -> dict[str, str]:
    """A stand-in for each variable that the operator's file names: without them the gateway would not have started."""
    try:
        text = config.read_text(encoding="utf-8", errors="replace") if config else ""
    except OSError:
        return {}  # which `load_catalog` tells of
    return dict.fromkeys(re.findall(r"\b[A-Z_][A-Z0-9_]*\b", text), _STAND_IN)


def _check(catalog: Catalog, provider_id: str, known: set[str]) -> None:
    if provider_id not in known:
        text = f"there is no provider {provider_id!r}; {suggestion(provider_id, sorted(known))}"
        raise click.BadParameter(text, param_hint="ID")


def _lost(catalog: Catalog, provider_id: str, drained: set[str]) -> list[str]:
    """Models of this provider that nobody serves now."""
    offering = {
        model.id: {offer.provider.id for offer in model.offers if offer.provider.is_configured}
        for model in catalog.models.values()
        if model.status != "retired"
    }
    return sorted(id_ for id_, found in offering.items() if provider_id in found and found <= drained)


async def _read(database: Database, catalog: Catalog) -> Known:
    clock = SystemClock()
    health = Health(clock, lambda: 0.5)
    drained = {one.provider: one for one in await SqlDrained(database, clock).list()}
    health.drained = frozenset(drained)
    has_reports = await _take_in_reports(health, database, catalog, clock)
    view = MeasuredHealth(_Fixed(_as_called(catalog, health)), health, clock)
    return Known(view.providers(), drained, has_reports)


async def _take_in_reports(health: Health, database: Database, catalog: Catalog, clock: Clock) -> bool:
    """Whether what the workers share could be read. Raises GatewayError (`database_unavailable`)."""
    valkey = load_settings().valkey
    if valkey is None:
        reports = SqlHealthExchange(database, GroupCommit(database), clock, _NOBODY)
        await Sharing(health, reports, _Fixed(catalog), clock).exchange()
        return True
    exchange = ValkeyHealthExchange(valkey, database, clock, _NOBODY)
    try:
        await Sharing(health, exchange, _Fixed(catalog), clock).exchange()
    except GatewayError:
        return False
    finally:
        exchange.close()
    return True


@contextmanager
def _silence() -> Iterator[None]:
    """Without the log of a worker, which tells of breakers that it learns of."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _as_called(catalog: Catalog, health: Health) -> Catalog:
    """Who has been called is configured, whatever this shell's environment lacks."""
    called = {entry.key.provider for entry in health.entries()}
    found = {
        id_: replace(provider, missing_key_env=None, unavailable_reason=None) if id_ in called else provider
        for id_, provider in catalog.providers.items()
    }
    return replace(catalog, providers=found)


def _row(one: ProviderHealth, drained: DrainedProvider | None) -> tuple[str, ...]:
    measured = (
        f"{one.score:.2f}",
        f"{one.success_rate:.1%}",
        f"{one.latency_p50_ms:.0f} ms",
        f"{one.latency_p95_ms:.0f} ms",
        str(one.in_flight),
        str(one.requests_1m),
    )
    return one.id, one.status, *(measured if one.status != "not_configured" else ["-"] * 6), _why(one.breaker, drained)


def _why(breaker: BreakerHealth, drained: DrainedProvider | None) -> str:
    said = []
    if drained is not None:
        since = f"drained {date(drained.drained_at)}"
        said.append(f"{since}: {drained.reason}" if drained.reason else since)
    if breaker.state != "closed":
        retry = "" if breaker.retry_at is None else f", to be tried {date(int(breaker.retry_at))}"
        said.append(f"breaker {breaker.state}: {breaker.reason}{retry}")
    return "; ".join(said)


def _as_object(one: ProviderHealth, drained: DrainedProvider | None) -> dict[str, Any]:
    """As in `GET /v1/health`, and `drained`."""
    fields: dict[str, Any] = msgspec.to_builtins(one)
    fields["latency_ms"] = {"p50": fields.pop("latency_p50_ms"), "p95": fields.pop("latency_p95_ms")}
    fields["drained"] = None if drained is None else {"since": drained.drained_at, "reason": drained.reason}
    return fields
