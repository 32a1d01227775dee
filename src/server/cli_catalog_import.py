"""`aistats-gateway catalog import`: the models that a provider lists, as entries for one's own file."""

from __future__ import annotations

import asyncio
import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import click
import yaml

from server.catalogue import CatalogError, load_catalog
from server.catalogue.adopt import Adopted, adopt
from server.catalogue.insert import insert
from server.catalogue.listed import Listed, read_list
from server.catalogue.prices import PriceError, read_price
from server.catalogue.problems import suggestion
from server.cli_shared import example
from server.domain.catalog import Catalog, Dialect, Provider
from server.domain.errors import ProviderFailure
from server.settings import load_settings
from server.transport.client import Transport

__all__ = ["import_"]

CONNECT_TIMEOUT_S: Final = 5.0
TIMEOUT_S: Final = 30.0
MAX_BYTES: Final = 16 << 20
MAX_NAMED: Final = 8
"""So many models that were left out are named; of more it is said how many."""

_PATHS: Final[dict[Dialect, str]] = {
    "openai": "/models",
    "anthropic": "/models?limit=1000",
    "gemini": "/models?pageSize=1000",
}


class Price(click.ParamType[tuple[str, str]]):
    """Two amounts such as `0.15/0.60`."""

    name = "in/out"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        halves = value.split("/")
        if len(halves) != 2:
            self.fail("write USD per million tokens of input, a slash, and those of output: 0.15/0.60", param, ctx)
        for half, dimension in zip(halves, ("input_text_tokens", "output_text_tokens"), strict=True):
            try:
                read_price(dimension, half)
            except PriceError as error:
                self.fail(f"{half!r} {error}", param, ctx)
        return halves[0], halves[1]


@click.command("import", epilog=example(
    "aistats-gateway catalog import --provider ollama",
    "aistats-gateway catalog import --provider groq --match 'qwen/*' --into my.yaml",
    "aistats-gateway catalog import --provider vllm --price 0.10/0.40 >> my.yaml",
))  # fmt: skip
@click.option("--provider", "provider_id", required=True, metavar="ID", help="Whose models: an id of `catalog list`.")
@click.option("--match", "patterns", multiple=True, metavar="GLOB", help="Only names that this fits, such as 'qwen*'.")
@click.option("--price", type=Price(), help="USD per million tokens, for models whose price is not known.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Add them to this file, which keeps everything else that is in it, instead of printing them.",
)
def import_(provider_id: str, patterns: tuple[str, ...], price: tuple[str, str] | None, into: Path | None) -> None:
    """Ask a provider which models it has, and write the entries that the catalogue lacks.

    The provider is one of the catalogue with its key in the environment; its list is asked for at <base_url>/models.
    Lengths of context and the like are taken from it as far as it says them, prices from the table that comes with the
    gateway. A model that the catalogue has is given one more offer. What a server near by has (Ollama, vLLM) is free
    of charge, unless --price says otherwise; elsewhere a model without a price that is known is left out, and named.

    What was left out, and why, is on standard error. With --into the file is only changed where all of it is right
    afterwards; a running gateway takes it over at once.
    """
    catalog = _load(into if into is not None and into.exists() else load_settings().config)
    provider = catalog.providers.get(provider_id)
    if provider is None:
        text = f'there is no provider "{provider_id}"; {suggestion(provider_id, sorted(catalog.providers))}'
        raise click.BadParameter(text, param_hint="--provider")
    if not provider.is_configured:
        raise click.ClickException(f'the provider "{provider_id}" is not configured: {provider.remedy}')
    if provider.dialect not in _PATHS:
        raise click.ClickException(
            f'the provider "{provider_id}" cannot be asked: the dialect {provider.dialect} has no list'
        )
    listed = asyncio.run(_ask(provider))
    fits = [one for one in listed if not patterns or any(fnmatchcase(one.id, pattern) for pattern in patterns)]
    adopted = adopt(catalog, provider, fits, price=price)
    _tell(adopted, len(listed), len(fits))
    if not adopted.models and not adopted.offers:
        return
    if into is None:
        click.echo(adopted.yaml(), nl=False)
        return
    _write(into, adopted)
    added = [
        f"{len(entries)} {word}" for entries, word in ((adopted.models, "new"), (adopted.offers, "of models there"))
    ]
    click.echo(f"{into}: offers added by {provider_id}: {', '.join(part for part in added if part[0] != '0')}")


def _load(path: Path | None) -> Catalog:
    try:
        return load_catalog(path, os.environ)
    except CatalogError as error:
        raise click.ClickException(f"the catalogue cannot be used:\n{error}") from None


async def _ask(provider: Provider) -> list[Listed]:
    headers = {"accept": "application/json", "user-agent": "aistats-gateway", **_credentials(provider)}
    url = f"{provider.base_url}{_PATHS[provider.dialect]}"
    try:
        async with asyncio.timeout(TIMEOUT_S), Transport() as transport:
            reply = await transport.request(
                "GET",
                url,
                headers=headers,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                allow_link_local=provider.allow_link_local,
            )
            async with reply:
                body = await reply.read(MAX_BYTES)
                status = reply.status
    except ProviderFailure as failure:
        raise click.ClickException(f"{provider.base_url} could not be reached: {failure.category.value}") from None
    except TimeoutError:
        raise click.ClickException(f"{provider.base_url} did not answer within {TIMEOUT_S:g} seconds") from None
    if status in (401, 403):
        raise click.ClickException(f"{provider.base_url} refused the key ({status})")
    if status != 200:
        raise click.ClickException(f"{provider.base_url} answered {status} where its models should be listed")
    try:
        return read_list(body)
    except ValueError as error:
        raise click.ClickException(f"{provider.base_url}: {error}") from None


def _credentials(provider: Provider) -> dict[str, str]:
    key = provider.api_key
    if provider.dialect == "anthropic":
        return {"anthropic-version": "2023-06-01"} | ({"x-api-key": key} if key is not None else {})
    if key is None:
        return {}
    return {"x-goog-api-key": key} if provider.dialect == "gemini" else {"authorization": f"Bearer {key}"}


def _tell(adopted: Adopted, listed: int, fits: int) -> None:
    if not listed:
        click.echo("it lists no models", err=True)
    elif not fits:
        click.echo(f"none of its {listed} models fits --match", err=True)
    for reason, names in adopted.left_out.items():
        shown = ", ".join(names[:MAX_NAMED])
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        click.echo(f"left out, {reason}: {shown}{more}", err=True)


def _write(path: Path, adopted: Adopted) -> None:
    """The file as it was, where what it would become cannot be used."""
    before = path.read_bytes().decode() if path.exists() else ""
    ends_in_crlf = 0 < before.count("\r\n") == before.count("\n")
    try:
        after = insert(
            before.replace("\r\n", "\n") if ends_in_crlf else before,
            {"models": adopted.models, "offers": adopted.offers},
        )
    except (ValueError, yaml.YAMLError) as error:
        raise click.ClickException(f"{path}: {error}") from None
    # A link stays one. What the file names is looked for beside the link, so that it is tried there.
    target = path.resolve()
    beside, new = (one.with_name(f".{one.name}.new") for one in (path, target))
    try:
        for one in (beside, new):
            one.write_text(after, encoding="utf-8", newline="\r\n" if ends_in_crlf else "")
            if path.exists():
                one.chmod(path.stat().st_mode & 0o777)
        load_catalog(beside, os.environ)
        new.replace(target)
    except CatalogError as error:
        told = re.sub(re.escape(str(beside)), str(path), str(error))
        raise click.ClickException(
            f"{path} is left as it was; with these entries it could not be used:\n{told}"
        ) from None
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None
    finally:
        for one in (beside, new):
            one.unlink(missing_ok=True)
