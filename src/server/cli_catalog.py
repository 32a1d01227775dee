"""`aistats-gateway catalog`: check the catalogue's files, and show what they amount to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from server.catalogue import CatalogError, load_catalog
from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.money import usd
from server.domain.pricing import PriceTier, Rates
from server.settings import load_settings


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
    """Check and show the catalogue: the providers and models that requests may name."""


@catalog.command("check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
def check(path: Path | None) -> None:
    """Check the configuration file at PATH (AISTATS_CONFIG without one) with all that ships.

    Exits with 0 and a summary, or with 1 and one line a problem: file:line: key: what to mend. What works but should
    not stay is a warning on standard error.
    """
    loaded = _load(path or load_settings().config)
    for provider in loaded.providers.values():
        if provider.sends_key_in_clear:
            click.echo(f'warning: provider "{provider.id}": its key is sent without TLS; use https', err=True)
    configured = sum(provider.is_configured for provider in loaded.providers.values())
    click.echo(f"{_count(len(loaded.providers), 'provider')} ({configured} configured), ", nl=False)
    click.echo(_count(len(loaded.models), "model"))


@catalog.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def list_(as_json: bool) -> None:
    """Show every model with its providers, and what a provider still needs before it can be called."""
    loaded = _load(load_settings().config)
    if as_json:
        click.echo(json.dumps(_as_json(loaded), indent=2))
        return
    width = max((len(id_) for id_ in (*loaded.models, *loaded.providers)), default=0)
    click.secho("Models", bold=True)
    for model in loaded.models.values():
        ready = any(offer.provider.is_configured for offer in model.offers)
        offers = ", ".join(offer.provider.id for offer in model.offers)
        click.echo(f"  {'●' if ready else '○'} {model.id:{width}}  {offers}")
    click.secho("Providers", bold=True)
    for provider in loaded.providers.values():
        state = "configured" if provider.is_configured else f"not configured: {provider.remedy}"
        click.echo(f"  {'●' if provider.is_configured else '○'} {provider.id:{width}}  {state}")


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
        "configured": any(offer.provider.is_configured for offer in model.offers),
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
