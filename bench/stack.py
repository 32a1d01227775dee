"""What is measured, as running processes: the stand-in, the floor and the gateway. Each ends with its block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import msgspec
import psutil
import yaml

from bench.machine import Cores, cpu_s, rss_bytes, unused_port
from rest_bridge.envoy import EnvoyOptions, render
from server.settings import Settings
from server.up import envoy_argv

ROOT = Path(__file__).parents[1]
MODULE = (sys.executable, "-m")
START_TIMEOUT_S = 30.0
STREAM_EVENTS = 100
PACED_MS = 10
SHORT_EVENTS = 10
LATE = "late-60"
"""The stand-in's model that answers after 60 ms."""
DIMENSIONS = 576
PRICED = {"price": {"input_text_tokens": "0.15", "output_text_tokens": "0.60"}}
CREDIT_USD = "1000000"


class Part(msgspec.Struct, frozen=True):
    """One process of what is measured."""

    name: str
    pid: int


class Target(msgspec.Struct, frozen=True):
    """Something that answers on a port, and the processes that its cost is made of."""

    name: str
    port: int
    parts: tuple[Part, ...] = ()
    headers: dict[str, str] = {}
    grpc_port: int = 0

    def cpu_s(self) -> dict[str, float]:
        """Processor time so far, by part."""
        return self._by_part(cpu_s)

    def rss_bytes(self) -> int:
        return int(sum(self.rss_by_part().values()))

    def rss_by_part(self) -> dict[str, float]:
        """Bytes of resident memory."""
        return self._by_part(rss_bytes)

    def _by_part(self, figure: Callable[[int], float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for part in self.parts:
            found[part.name] = found.get(part.name, 0) + figure(part.pid)
        return found

    def pid(self, name: str) -> int:
        return next(part.pid for part in self.parts if part.name == name)


class Failed(Exception):
    """Something did not start, or ended."""


@contextmanager
def upstream(cores: Cores) -> Iterator[Target]:
    """The stand-in for a provider: it answers at once, from ready-made bytes."""
    argv = (*MODULE, "tests.fakes.instant_upstream", "--port", "0", "--events", str(STREAM_EVENTS))
    with running(argv, cores.load, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Failed("the stand-in did not start")
        yield Target("upstream", int(line))


@contextmanager
def floor(cores: Cores, directory: Path) -> Iterator[Target]:
    """Envoy as the gateway runs it, in front of a servicer that echoes."""
    directory.mkdir()
    socket_path = directory / "echo.sock"
    settings = _settings(directory)
    config = directory / "envoy.yaml"
    config.write_text(
        render(
            EnvoyOptions(
                worker_sockets=(str(socket_path),),
                admin_socket=str(directory / "admin.sock"),
                http_port=settings.http_port,
            )
        ),
        encoding="utf-8",
    )
    with (directory / "log").open("w+b") as log:
        echo = (*MODULE, "bench.echo_worker", str(socket_path))
        with (
            running(echo, cores.gateway, stdout=log) as worker,
            running(envoy_argv(settings, config), cores.gateway, stdout=log) as envoy,
        ):
            wait(socket_path.exists, (worker, envoy), log.name)
            wait(lambda: answers(settings.http_port, "/nowhere"), (worker, envoy), log.name)
            yield Target("floor", settings.http_port, (Part("envoy", envoy.pid), Part("worker", worker.pid)))


@contextmanager
def gateway(
    cores: Cores,
    directory: Path,
    upstream_port: int,
    slow_model: str = "instant",
    *,
    environ: Mapping[str, str] | None = None,
    module: str = "server",
    workers: int = 1,
    pinned: bool = True,
    paid_models: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Target]:
    """The gateway itself, with the stand-in as its provider and a team that has credit.

    `paid_models` are names and what the stand-in knows them by. Without `pinned` it may use every core.
    """
    directory.mkdir()
    settings = _settings(directory)
    grpc_port = unused_port()
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump(_catalogue(upstream_port, slow_model, paid_models)), encoding="utf-8")
    variables = {
        "AISTATS_HTTP_PORT": str(settings.http_port),
        "AISTATS_GRPC_PORT": str(grpc_port),
        "AISTATS_DATA_DIR": str(directory / "data"),
        "AISTATS_CONFIG": str(config),
        "AISTATS_WORKERS": str(workers),
        "AISTATS_LOCAL_MODEL": "0",
        "AISTATS_LOG_FORMAT": "json",
        **(environ or {}),
    }
    with (directory / "log").open("w+b") as log:
        argv = (*MODULE, module, "up")
        core = cores.gateway if pinned else None
        with running(argv, core, stdout=log, environ=variables) as supervisor:
            wait(lambda: answers(settings.http_port, "/healthz", 200), (supervisor,), log.name)
            _top_up(variables)
            key = (Path(variables["AISTATS_DATA_DIR"]) / "bootstrap-key").read_text().strip()
            yield Target(
                directory.name,
                settings.http_port,
                _children(supervisor.pid, workers),
                headers={"authorization": f"Bearer {key}"},
                grpc_port=grpc_port,
            )


def _settings(directory: Path) -> Settings:
    return Settings(
        http_port=unused_port(), data_dir=directory, workers=1, local_model=False, log_format="json", grpc_port=0
    )


def _top_up(variables: Mapping[str, str]) -> None:
    argv = (*MODULE, "server", "wallet", "top-up", "--team", "default", "--usd", CREDIT_USD)
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"no credit: {done.stderr}")


def _catalogue(upstream_port: int, slow_model: str, paid_models: Mapping[str, str]) -> dict[str, object]:
    """Models of one provider; a stand-in's model says how it answers. Those that cost something are for the ledger."""
    free = {"instant": "instant", "paced": f"slow-{STREAM_EVENTS}-{PACED_MS}", "slow": slow_model}
    paid = {"paid": "instant", "paid-short": f"slow-{SHORT_EVENTS}-0", "paid-late": LATE, **paid_models}
    models = [
        *((f"{name}:free", model, {}) for name, model in free.items()),
        *((*item, PRICED) for item in paid.items()),
    ]
    return {
        "replace_catalog": True,
        "providers": [
            {"id": "bench", "dialect": "openai", "base_url": f"http://127.0.0.1:{upstream_port}/v1"},
        ],
        "models": [
            *(
                {
                    "id": f"bench/{name}",
                    "offers": [
                        {"provider": "bench", "provider_model": model, "endpoints": ["chat", "responses"], **price}
                    ],
                }
                for name, model, price in models
            ),
            *(_embedding_model(encoding) for encoding in ("float", "base64")),
        ],
    }


def _embedding_model(encoding: str) -> dict[str, object]:
    """One whose provider is asked for this encoding."""
    offer = {
        "provider": "bench",
        "provider_model": f"embed-{DIMENSIONS}",
        "endpoints": ["embeddings"],
        "embeddings": {"encoding": encoding},
    }
    return {"id": f"bench/embed-{encoding}:free", "offers": [offer]}


def _children(supervisor_pid: int, workers: int) -> tuple[Part, ...]:
    children = psutil.Process(supervisor_pid).children()
    names = sorted("envoy" if child.name().startswith("envoy") else "worker" for child in children)
    if names not in (["envoy"] * workers, ["envoy", *["worker"] * workers]):
        raise Failed(f"expected Envoy and {workers} workers, or as many of both as one: found {names}")
    parts = [Part("envoy" if child.name().startswith("envoy") else "worker", child.pid) for child in children]
    return Part("supervisor", supervisor_pid), *parts


@contextmanager
def running(
    argv: Sequence[str],
    core: int | None,
    *,
    stdout: object,
    environ: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on that core, or on any, until the block is left."""
    process = subprocess.Popen(
        argv,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stdout,  # type: ignore[call-overload]  # a file or PIPE
        stderr=None if stdout == subprocess.PIPE else subprocess.STDOUT,
        env={**os.environ, **(environ or {})},
        # As the supervisor starts its children: where the kernel shares time out by session, all get the same share.
        start_new_session=True,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait()


def wait(
    is_ready: Callable[[], bool],
    processes: Sequence[subprocess.Popen[bytes]],
    log: str,
    limit_s: float = START_TIMEOUT_S,
) -> None:
    """Raises Failed, with the end of the log, where one of them ends first or the time is over."""
    give_up_at = time.monotonic() + limit_s
    while not is_ready():
        ended = any(process.poll() is not None for process in processes)
        if ended or time.monotonic() > give_up_at:
            raise Failed(f"it did not start:\n{Path(log).read_text(errors='replace')[-4000:]}")
        time.sleep(0.05)


def answers(port: int, path: str, status: int | None = None) -> bool:
    """Whether something answers there, with this status where one is given."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
            return status in (None, reply.status)
    except urllib.error.HTTPError as error:
        return status in (None, error.code)
    except OSError:
        return False
