"""Settings: what the environment says, as one frozen object. Every variable starts with `AISTATS_`.

A variable that is empty, or only spaces, counts as unset. What providers and models there are is not said
here but in the catalogue and in the file that `AISTATS_CONFIG` names.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import click
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.storage.content_address import ContentAddress, parse_content_address
from server.storage.valkey_url import ValkeyAddress, parse_valkey_url

PREFIX: Final = "AISTATS_"
MAX_WORKERS: Final = 128
METRICS_HOST: Final = "127.0.0.1"
DAY_S: Final = 86_400
MAX_DIRECTORY_BYTES: Final = 10 << 30
MAX_SOCKET_PATH_BYTES: Final = 100
"""Linux takes 107 bytes for the path of a Unix socket, others less."""

_DATABASE_SCHEMES: Final = ("sqlite:", "sqlite+aiosqlite:", "postgres:", "postgresql:", "postgresql+asyncpg:")
_LONGEST_SOCKET_NAME: Final = f"65535/worker-{MAX_WORKERS}.sock"
"""A second gateway on the same data directory has its sockets in a directory named by its port."""
_SECRET: Final = frozenset({"database_url", "valkey_url", "content_store"})
"""What may hold a password, and is never shown."""
_FOREIGN: Final = frozenset({"AISTATS_API_KEY", "AISTATS_BASE_URL"})
"""Variables that clients of the gateway use; not ours, and no misspelling of ours."""


class SettingsError(click.ClickException):
    """The environment holds something that the gateway cannot start with; the message says which variable."""

    exit_code = 2


def available_cores() -> int:
    """How many cores this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0))


class Settings(BaseSettings):
    """The environment of one gateway. `http_port` is AISTATS_HTTP_PORT; paths are absolute."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", str_strip_whitespace=True)

    host: Literal["grpc.aio", "in-envoy"] = "grpc.aio"
    """What carries the servicers: processes behind one Envoy, or an Envoy for each."""
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8080, ge=1, le=65535)
    """Where Envoy listens: REST, gRPC and gRPC-web on one port."""
    grpc_host: str = "127.0.0.1"
    grpc_port: int = Field(default=50051, ge=0, le=65535)
    """Where the workers listen for native gRPC without Envoy; 0 turns that off."""

    public_url: str | None = None
    """What clients know the gateway by, for addresses that it gives them; None: what each request was sent to."""

    data_dir: Path = Field(default=Path("data"), validate_default=True)
    database_url: str = Field(
        default_factory=lambda data: f"sqlite+aiosqlite:///{data['data_dir'] / 'gateway.db'}", repr=False
    )
    valkey_url: str | None = Field(default=None, repr=False)
    """Where workers tell each other how providers are; None: in the database."""
    config: Path | None = None
    content_store: str = Field(default_factory=lambda data: str(data["data_dir"] / "content"), repr=False)
    """Where the content of videos is kept: a directory, a bucket's URL, or `off`."""
    content_max_bytes: int = Field(default=1 << 30, ge=1)
    """Of one content: what is larger stays with its provider."""
    content_max_age_s: int = Field(default=7 * DAY_S, ge=60, le=30 * DAY_S)
    """No longer than jobs can be seen."""
    content_max_total_bytes: int | None = Field(default=None, ge=1)
    """Of all that is kept; None for `MAX_DIRECTORY_BYTES` in a directory, and for no limit in a bucket."""
    secrets_dir: Path | None = None
    """Where variables come from that are not in the environment, a file each; `server.secret_files` has read them."""

    workers: int = Field(default_factory=lambda: min(available_cores(), MAX_WORKERS), ge=1, le=MAX_WORKERS)
    local_model: bool = True
    local_model_url: str | None = None
    local_embeddings_url: str | None = None
    local_moderation_url: str | None = None
    local_media_url: str | None = None
    """Set by the supervisor for its workers: where what is embedded answers, up to and including `/v1`."""

    webhooks_allow_http: bool = False
    webhooks_allow_private: bool = False
    """Whether teams may have webhooks without TLS, and on this machine or in a private network."""

    picture_urls_allow_http: bool = False
    picture_urls_allow_private: bool = False
    """Whether pictures are fetched without TLS, and from this machine or a private network, where a client says so."""

    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    record_days: int | None = Field(default=None, ge=1, le=36_500)
    """How long the records of requests are kept; None for ever."""
    drain_timeout_s: float = Field(default=30.0, ge=0, le=3600)
    max_connection_age_s: float = Field(default=600.0, ge=1, le=86_400)
    """After how long a client is told to connect anew."""
    worker_lease_s: float = Field(default=30.0, ge=1, le=3600)
    """How long a worker may be silent before others end what it has reserved."""
    video_deadline_s: int = Field(default=3600, ge=1, le=7 * 86_400)
    """How long a video may take before it is `expired`."""

    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where the supervisor tells its figures, on the loopback only; None for nowhere."""

    tls_cert: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: int = Field(default=0, ge=0, le=10)
    """How many proxies stand before Envoy, each of which adds whom it was called by to `x-forwarded-for`."""

    @model_validator(mode="before")
    @classmethod
    def _drop_blank(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if not (isinstance(value, str) and not value.strip())}

    @field_validator("data_dir", "config", "secrets_dir", "tls_cert", "tls_key")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @field_validator("log_level", "log_format", "host", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        if not value.startswith(_DATABASE_SCHEMES):
            raise ValueError("it must be sqlite+aiosqlite:///<path> or postgresql+asyncpg://<user>@<host>/<database>")
        return value

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_whole = False
        if not is_whole or " " in value or parts.username is not None or parts.query or parts.fragment:
            raise ValueError("it must be http(s)://<host>, perhaps with a port and a path")
        return value.rstrip("/")

    @field_validator("valkey_url")
    @classmethod
    def _check_valkey_url(cls, value: str | None) -> str | None:
        if value is not None:
            parse_valkey_url(value)
        return value

    @field_validator("content_store")
    @classmethod
    def _check_content_store(cls, value: str) -> str:
        parse_content_address(value)
        return value

    @model_validator(mode="after")
    def _check_tls(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("AISTATS_TLS_CERT and AISTATS_TLS_KEY: set both, or neither")
        return self

    @property
    def run_dir(self) -> Path:
        """Where the Unix sockets of this data directory lie: a short path, the same for every command."""
        near = self.data_dir / "run"
        if len(os.fsencode(near / _LONGEST_SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES:
            return near
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        # Not $TMPDIR: commands started from different environments must find the same sockets.
        return Path(f"/tmp/aistats-{os.getuid()}-{digest}")  # noqa: S108 - made 0700 and checked before use

    @property
    def bootstrap_key_file(self) -> Path:
        """Where the first start leaves the default team's key, readable by its owner only."""
        return self.data_dir / "bootstrap-key"

    @property
    def valkey(self) -> ValkeyAddress | None:
        """What `valkey_url` says."""
        return None if self.valkey_url is None else parse_valkey_url(self.valkey_url)

    @property
    def content_address(self) -> ContentAddress | None:
        """What `content_store` says; None where nothing is kept."""
        return parse_content_address(self.content_store)

    @property
    def content_total_bytes(self) -> int | None:
        """The most that is kept in all; None where that is the bucket's affair."""
        address = self.content_address
        is_directory = address is not None and address.directory is not None
        return self.content_max_total_bytes or (MAX_DIRECTORY_BYTES if is_directory else None)

    @property
    def http_url(self) -> str:
        """How a client on this machine reaches Envoy, without a path."""
        scheme = "https" if self.tls_cert else "http"
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.http_host, self.http_host)  # noqa: S104 - compared
        return f"{scheme}://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{self.http_port}"


def load_settings() -> Settings:
    """Read the environment; warn on stderr of variables that look like ours and are not.

    Raises SettingsError naming every variable that is wrong and what it may be.
    """
    for warning in unknown_variables(os.environ):
        click.echo(f"warning: {warning}", err=True)
    try:
        return Settings()
    except ValidationError as invalid:
        lines = [_explain(error) for error in invalid.errors() if error["type"] != "default_factory_not_called"]
        raise SettingsError("\n".join(lines)) from None


_OF_THE_SUPERVISOR: Final = frozenset(
    {"local_model_url", "local_embeddings_url", "local_moderation_url", "local_media_url"}
)


def known_variables() -> tuple[str, ...]:
    """Every variable that a person may set."""
    return tuple(f"{PREFIX}{name.upper()}" for name in Settings.model_fields if name not in _OF_THE_SUPERVISOR)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """One sentence for each variable with our prefix that means nothing, with the likeliest intended one."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _FOREIGN
    warnings = []
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            known_endings = [variable.removeprefix(PREFIX) for variable in known_variables()]
            near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known_endings, n=1)
            hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
            warnings.append(f"{name} is set but means nothing to the gateway{hint}")
    return warnings


def _explain(error: ErrorDetails) -> str:
    """One line: the variable, what it holds where that may be shown, and what it may be."""
    text = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return text
    name = str(error["loc"][0])
    shown = "" if name in _SECRET else f"={error['input']!s:.60}"
    return f"{PREFIX}{name.upper()}{shown}: {text[0].lower()}{text[1:]}"
