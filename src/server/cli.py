"""The command line. Each command loads what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from server.settings import Settings

__all__ = ["main"]

GROUPS: Final = {
    "keys": "server.cli_keys:keys",
    "teams": "server.cli_teams:teams",
    "generations": "server.cli_generations:generations",
    "catalog": "server.cli_catalog:catalog",
    "providers": "server.cli_providers:providers",
    "wallet": "server.cli_wallet:wallet",
    "ledger": "server.cli_wallet:ledger",
    "audit": "server.cli_audit:audit",
}
"""Commands that live in modules of their own, imported when they are named."""


class LazyGroup(click.Group):
    """A group that knows the names of `GROUPS` without importing what is behind them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *GROUPS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in GROUPS:
            return super().get_command(ctx, cmd_name)
        module, _, name = GROUPS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


def _epilog(variables: dict[str, tuple[str, str]], *examples: str) -> str:
    """What follows a command's description: the variables that matter, with defaults, and an example."""
    width = max(map(len, variables), default=0)
    said = max((len(text) for text, _ in variables.values()), default=0)
    table = [f"  {name:<{width}}  {text:<{said}}  [{default}]" for name, (text, default) in variables.items()]
    blocks = [["Variables:", *table]] if table else []
    blocks.append(["Example:", *(f"  {example}" for example in examples)])
    return "\n\n".join("\n".join(["\b", *block]) for block in blocks)


_HTTP: Final = {
    "AISTATS_HTTP_HOST": ("where REST and gRPC are served", "127.0.0.1"),
    "AISTATS_HTTP_PORT": ("its port", "8080"),
    "AISTATS_TLS_CERT, _TLS_KEY": ("PEM files, for HTTPS", "none"),
    "AISTATS_TRUSTED_PROXIES": ("proxies before it that tell clients' addresses", "0"),
    "AISTATS_MAX_CONNECTION_AGE_S": ("when clients are told to connect anew", "600"),
}
_GRPC: Final = {
    "AISTATS_GRPC_HOST": ("where gRPC is served without Envoy", "127.0.0.1"),
    "AISTATS_GRPC_PORT": ("its port; 0 for none", "50051"),
}
_DATA: Final = {
    "AISTATS_DATA_DIR": ("database, key file, sockets", "./data"),
    "AISTATS_DATABASE_URL": ("postgresql+asyncpg://…", "SQLite in the data directory"),
    "AISTATS_VALKEY_URL": ("valkey://…, where workers share health", "the database"),
    "AISTATS_CONFIG": ("your providers and models", "none"),
    "AISTATS_SECRETS_DIR": ("files that are variables by their names", "none"),
    "AISTATS_CONTENT_STORE": ("where videos are kept: a directory, s3://…, off", "./data/content"),
    "AISTATS_RECORD_DAYS": ("how long records of requests are kept", "for ever"),
}
_WORKERS: Final = {"AISTATS_WORKERS": ("how many worker processes", "one a core")}
_HOST: Final = {"AISTATS_HOST": ("grpc.aio, or in-envoy: workers inside Envoy", "grpc.aio")}
_LOGS: Final = {
    "AISTATS_LOG_FORMAT": ("console or json", "console"),
    "AISTATS_LOG_LEVEL": ("debug, info, warning or error", "info"),
}
_METRICS: Final = {"AISTATS_METRICS_PORT": ("where Prometheus reads figures, on 127.0.0.1", "none")}
_DRAIN: Final = {"AISTATS_DRAIN_TIMEOUT_S": ("how long streams may take to end", "30")}
_MODEL: Final = {"AISTATS_LOCAL_MODEL": ("0: without the embedded model", "1")}


def _version() -> str:
    return importlib.metadata.version("aistats-gateway")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="aistats-gateway")
def cli() -> None:
    """A self-hosted AI gateway: one key, one API, one bill, over REST and gRPC.

    Start everything with `aistats-gateway up`; `aistats-gateway doctor` says what is missing. Settings come from
    the environment, in variables that start with AISTATS_; each command's --help names those that matter to it.
    """
    from server.secret_files import read_secret_files

    read_secret_files(os.environ)


def _settings(*, with_logs: bool = False) -> Settings:
    from server.logs import configure_logging
    from server.settings import load_settings

    settings = load_settings()
    if with_logs:
        configure_logging(settings.log_format, settings.log_level)
    return settings


@cli.command(
    epilog=_epilog(
        _HTTP | _GRPC | _DATA | _WORKERS | _HOST | _MODEL | _DRAIN | _METRICS | _LOGS,
        "AISTATS_HTTP_PORT=9000 AISTATS_CONFIG=gateway.yaml aistats-gateway up",
    )
)
def up() -> None:
    """Start everything: migrations, the embedded model, workers and Envoy.

    Stays in the foreground. Ctrl-C (or SIGTERM) accepts nothing new, lets requests in flight end and exits 0; a
    second Ctrl-C does not wait for them. A part that crashes is started again. `aistats-gateway restart` replaces the
    workers while it serves.

    The first start makes the team `default` and its key, prints the key once and keeps it in
    <data dir>/bootstrap-key.
    """
    from server.up import run

    run(_settings(with_logs=True), _version())


@cli.command(
    epilog=_epilog(
        {"AISTATS_DATA_DIR": _DATA["AISTATS_DATA_DIR"], "AISTATS_HTTP_PORT": _HTTP["AISTATS_HTTP_PORT"]},
        "aistats-gateway restart",
    )
)
def restart() -> None:
    """Replace the workers of the gateway that runs here, one by one, without a failed request.

    Each new worker runs the code that is installed now; when it serves, it takes the place of an old one, whose
    requests have AISTATS_DRAIN_TIMEOUT_S to end. One that does not serve leaves all as it is. The gateway's log tells
    of each. The environment stays that of `up`, which also migrates the database: for a release that changes its
    schema, start anew.

    The same as SIGUSR1 to the process of `up`.
    """
    from server.preflight import running_supervisor
    from server.supervisor import REPLACE

    pid = running_supervisor(_settings())
    if pid is None:
        raise click.ClickException("no gateway runs on this data directory and port")
    os.kill(pid, REPLACE)
    click.echo(f"the gateway (process {pid}) replaces its workers; its log tells of each")


@cli.command(
    epilog=_epilog(
        _GRPC | _DATA | _DRAIN | _LOGS, "aistats-gateway worker --index 0 & aistats-gateway worker --index 1"
    )
)
@click.option("--index", default=0, show_default=True, type=click.IntRange(0, 127), help="Its number, from 0.")
@click.option(
    "--socket",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The Unix socket that Envoy reaches it by.  [default: <data dir>/run/worker-<index>.sock]",
)
@click.option("--supervised", is_flag=True, hidden=True, help="End when standard input does.")
def worker(index: int, socket: Path | None, supervised: bool) -> None:
    """Run one worker in the foreground, for containers that run Envoy beside it.

    It serves gRPC on a Unix socket for Envoy and on AISTATS_GRPC_HOST:AISTATS_GRPC_PORT for direct clients. The
    database's schema must be current: `aistats-gateway up` migrates it, a worker only checks.

    SIGTERM lets requests in flight end, for AISTATS_DRAIN_TIMEOUT_S seconds at most; SIGINT ends them at once.
    """
    from server.preflight import make_run_dir
    from server.processes import exit_when_parent_dies

    if supervised:
        exit_when_parent_dies()
    settings = _settings(with_logs=True)
    if socket is None:
        make_run_dir(settings.run_dir)
        socket = settings.run_dir / f"worker-{index}.sock"

    from server.tuning import prefer_grpc_polling, raise_file_limit

    raise_file_limit()
    prefer_grpc_polling()
    from server.bootstrap import run_worker

    sys.exit(run_worker(settings, socket_path=socket, grpc_port=settings.grpc_port or None, index=index))


@cli.command(
    epilog=_epilog(_HTTP | _WORKERS | {"AISTATS_DATA_DIR": _DATA["AISTATS_DATA_DIR"]}, "aistats-gateway envoy")
)
@click.option("--print", "only_print", is_flag=True, help="Print the configuration instead of running Envoy.")
def envoy(only_print: bool) -> None:
    """Run Envoy in the foreground, for containers that run workers beside it.

    Its configuration is envoy.yaml with the address, certificates and one endpoint for each of AISTATS_WORKERS
    workers filled in. Workers may start later or be restarted at any time.
    """
    from server.preflight import make_run_dir
    from server.up import envoy_argv, write_envoy_config

    settings = _settings()
    make_run_dir(settings.run_dir)
    sockets = [settings.run_dir / f"worker-{index}.sock" for index in range(settings.workers)]
    config = write_envoy_config(settings, settings.run_dir, sockets)
    if only_print:
        click.echo(config.read_text(encoding="utf-8"), nl=False)
        return
    argv = envoy_argv(settings, config)
    os.execv(argv[0], argv)  # noqa: S606 - the binary of our own dependency


@cli.command(epilog=_epilog({}, "AISTATS_CONFIG=gateway.yaml aistats-gateway doctor"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def doctor(as_json: bool) -> None:
    """Check that the gateway can run here, and say what to do where it can't.

    Looks at ports, binaries, the data directory, the database and its schema, the catalogue, each provider's
    address, and the embedded model. Changes nothing. Exits 1 if a check fails; warnings do not count.
    """
    from server.doctor import examine, report

    findings = asyncio.run(examine(_settings()))
    click.echo(report(findings, as_json=as_json))
    sys.exit(any(finding.level == "fail" for finding in findings))


def main(*args: Any) -> None:
    """The entry point of `aistats-gateway`."""
    cli(args or None, prog_name="aistats-gateway")
