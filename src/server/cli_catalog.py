"""`aistats-gateway catalog`: check the catalogue's files, show what they amount to, and add to them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from msgspec.structs import replace

from server.catalogue import CatalogError, load_catalog
from server.catalogue.problems import suggestion
from server.cli_catalog_import import import_
from server.cli_shared import print_table
from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.money import usd
from server.domain.pricing import PriceTier, Rates
from server.domain.request import Endpoint
from server.settings import load_settings

_SHOWN: Final = ("input_text_tokens", "output_text_tokens")


class CatalogProblems(click.ClickException):
    """The catalogue cannot be used; one line a problem."""

    def __init__(self, error: CatalogError) -> None:
        super().__init__(str(error))

    def show(self, file: Any = None) -> None:
        """The lines as they are: each begins with its file, as editors and scripts expect."""
        click.echo(self.message, err=True)


def _load(path: Path | None) -> Catalog:
    try:
        return load_catalog(path, os.environ)
    except CatalogError as error:
        raise CatalogProblems(error) from None


@click.group("catalog")
def catalog() -> None:
    """Check, show and extend the catalogue: the providers and models that requests may name."""


catalog.add_command(import_)


@catalog.command("check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
def check(path: Path | None) -> None:
    """Check the configuration file at PATH (AISTATS_CONFIG without one) with all that ships.

    Exits with 0 and a summary, or with 1 and one line a problem: file:line: key: what to mend. Unknown keys,
    parameters, providers and models are told with the nearest that is known, offers without a price by their model.
    What works but should not stay is a warning on standard error.
    """
    path = path or load_settings().config
    loaded = _load(path)
    for warning in warnings(loaded, _load(None) if path is not None else loaded):
        click.echo(f"warning: {warning}", err=True)
    waiting = [provider for provider in loaded.providers.values() if not provider.is_configured]
    ready = sum(_is_ready(model) for model in loaded.models.values())
    click.echo(
        f"{_count(len(loaded.providers), 'provider')} ({len(loaded.providers) - len(waiting)} configured), ", nl=False
    )
    click.echo(f"{_count(len(loaded.models), 'model')} ({ready} can be called)")
    for provider in waiting:
        click.echo(f"  {provider.id}: {provider.remedy}")


def warnings(loaded: Catalog, shipped: Catalog) -> Iterator[str]:
    """What works but should not stay. `shipped`: the catalogue as it is without a file of one's own."""
    for provider in loaded.providers.values():
        if provider.sends_key_in_clear:
            yield f'provider "{provider.id}": its key is sent without TLS; use https'
    names: dict[tuple[str, str, Endpoint], str] = {}
    for model in loaded.models.values():
        for offer in model.offers:
            for endpoint in sorted(offer.endpoints):
                first = names.setdefault((offer.provider.id, offer.provider_model, endpoint), model.id)
                if first != model.id:
                    yield f'"{first}" and "{model.id}" are both "{offer.provider_model}" of "{offer.provider.id}"'
                    break
    for id_, model in loaded.models.items():
        before = shipped.models.get(id_)
        lost = {offer.provider.id for offer in before.offers} if before is not None else set()
        lost -= {offer.provider.id for offer in model.offers}
        if lost:
            whose = ", ".join(sorted(lost))
            yield f'model "{id_}" takes the place of the shipped one, and is no longer offered by {whose}; see `offers`'


@catalog.command("list")
@click.option("--provider", "provider_id", metavar="ID", help="Only this provider and its models.")
@click.option("--endpoint", type=click.Choice([endpoint.value for endpoint in Endpoint]), help="Only models with it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def list_(provider_id: str | None, endpoint: str | None, as_json: bool) -> None:
    """Show every model with its providers, and what a provider still needs before it can be called.

    Prices are USD per million tokens, of the provider that asks the least. A filled circle: it can be called now.
    """
    loaded = _load(load_settings().config)
    if provider_id is not None and provider_id not in loaded.providers:
        hint = suggestion(provider_id, sorted(loaded.providers))
        raise click.BadParameter(f'there is no provider "{provider_id}"; {hint}', param_hint="--provider")
    loaded = _narrowed(loaded, provider_id, endpoint)
    if as_json:
        click.echo(json.dumps(_as_json(loaded), indent=2))
        return
    rows = [_row(model) for model in loaded.models.values()]
    print_table(("", "MODEL", "PROVIDERS", "ENDPOINTS", "CONTEXT", "IN", "OUT", "STATUS"), rows)
    click.echo()
    states: list[tuple[str, ...]] = [
        (_mark(one.is_configured), one.id, "configured" if one.is_configured else f"not configured: {one.remedy}")
        for one in loaded.providers.values()
    ]
    print_table(("", "PROVIDER", "STATUS"), states)


def _narrowed(loaded: Catalog, provider_id: str | None, endpoint: str | None) -> Catalog:
    """What one provider has for one endpoint, or all have for any."""
    models: dict[str, Model] = {}
    for id_, model in loaded.models.items():
        offers = tuple(
            offer
            for offer in model.offers
            if provider_id in (None, offer.provider.id) and (endpoint is None or endpoint in offer.endpoints)
        )
        if offers:
            models[id_] = replace(model, offers=offers)
    offering = {offer.provider.id for model in models.values() for offer in model.offers}
    providers = {
        id_: provider
        for id_, provider in loaded.providers.items()
        if id_ == provider_id or (provider_id is None and (endpoint is None or id_ in offering))
    }
    return replace(loaded, models=models, providers=providers)


def _row(model: Model) -> tuple[str, ...]:
    endpoints = {endpoint for offer in model.offers for endpoint in offer.endpoints}
    return (
        _mark(_is_ready(model)),
        model.id,
        ", ".join(offer.provider.id for offer in model.offers),
        ", ".join(endpoint.value for endpoint in Endpoint if endpoint in endpoints),
        f"{model.context_length:,}" if model.context_length is not None else "-",
        *("free" if model.is_free else _least(model, dimension) for dimension in _SHOWN),
        model.status,
    )


def _least(model: Model, dimension: str) -> str:
    rates = [offer.prices.rates[dimension] for offer in model.offers if dimension in offer.prices.rates]
    return usd(min(rates), decimals=2) if rates else "-"


def _is_ready(model: Model) -> bool:
    return any(offer.provider.is_configured for offer in model.offers)


def _mark(is_ready: bool) -> str:
    return "●" if is_ready else "○"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _as_json(loaded: Catalog) -> dict[str, Any]:
    return {
        "providers": [_provider(provider) for provider in loaded.providers.values()],
        "models": [_model(model) for model in loaded.models.values()],
        "routing": msgspec.to_builtins(loaded.routing),
    }


def _provider(provider: Provider) -> dict[str, Any]:
    """Never the key."""
    return {
        "id": provider.id,
        "name": provider.name,
        "dialect": provider.dialect,
        "base_url": provider.base_url or None,
        "configured": provider.is_configured,
        "missing_key_env": provider.missing_key_env,
        "remedy": provider.remedy,
    }


def _model(model: Model) -> dict[str, Any]:
    endpoints = {endpoint.value for offer in model.offers for endpoint in offer.endpoints}
    return {
        "id": model.id,
        "name": model.name,
        "status": model.status,
        "aliases": list(model.aliases),
        "endpoints": sorted(endpoints),
        "context_length": model.context_length,
        "configured": _is_ready(model),
        "offers": list(_offers(model.offers)),
    }


def _offers(offers: tuple[Offer, ...]) -> Iterator[dict[str, Any]]:
    for offer in offers:
        yield {
            "provider": offer.provider.id,
            "provider_model": offer.provider_model,
            "endpoints": sorted(endpoint.value for endpoint in offer.endpoints),
            "params": None if offer.params is None else sorted(offer.params),
            "price": _price(offer.prices.rates),
            "price_tiers": [_price_tier(tier) for tier in offer.prices.tiers],
            "price_source": offer.price_source,
            "configured": offer.provider.is_configured,
        }


def _price(rates: Rates) -> dict[str, str]:
    """USD per million, as the catalogue's files say it."""
    return {dimension: usd(rate, decimals=2) for dimension, rate in rates.items()}


def _price_tier(tier: PriceTier) -> dict[str, Any]:
    when: dict[str, int | str] = {}
    if tier.input_tokens_above:
        when["input_tokens_above"] = tier.input_tokens_above
    if tier.service_tier is not None:
        when["service_tier"] = tier.service_tier
    return {"when": when, "price": _price(tier.rates)}
