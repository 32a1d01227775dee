"""Where a Valkey or Redis server is, as a URL says it."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

__all__ = ["FORMS", "ValkeyAddress", "parse_valkey_url"]

FORMS: Final = (
    "valkey://[[<user>]:<password>@]<host>[:<port>][/<number>], valkeys://… for TLS, or unix://<path>[?db=<number>]"
)
DEFAULT_PORT: Final = 6379

_TCP: Final = {"valkey": False, "redis": False, "valkeys": True, "rediss": True}


class ValkeyAddress(msgspec.Struct, frozen=True):
    """A server, by `host` and `port` or by the `path` of its socket, and who calls it. `user` may be empty."""

    host: str = ""
    port: int = 0
    path: str = ""
    is_tls: bool = False
    user: str = ""
    password: str | None = None
    database: int = 0

    def __repr__(self) -> str:
        return f"ValkeyAddress({self.place!r}, database={self.database})"

    @property
    def place(self) -> str:
        """What may be shown: without user and password."""
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_valkey_url(url: str) -> ValkeyAddress:
    """Raises ValueError with what the URL may be; its text holds nothing of the URL."""
    try:
        parts = urlsplit(url)
        port, options = parts.port or DEFAULT_PORT, parse_qs(parts.query, keep_blank_values=True)
        if parts.scheme == "unix":
            path, database = unquote(parts.path), options.pop("db", ["0"])[-1]
            is_placed = path.startswith("/") and not parts.hostname
        else:
            path, database = "", parts.path.strip("/") or "0"
            is_placed = parts.scheme in _TCP and bool(parts.hostname)
        number = int(database)
    except ValueError:
        raise ValueError(f"it must be {FORMS}") from None
    if not is_placed or options or parts.fragment or number < 0:
        raise ValueError(f"it must be {FORMS}")
    return ValkeyAddress(
        host="" if path else parts.hostname or "",
        port=0 if path else port,
        path=path,
        is_tls=_TCP.get(parts.scheme, False),
        user=unquote(parts.username or ""),
        password=None if parts.password is None else unquote(parts.password),
        database=number,
    )
