"""Addresses that clients choose and the gateway calls: judged by how they are spelled, before anybody is asked.

What a name resolves to is judged when a connection is made (`server.transport.resolve`).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from server.domain.addresses import danger_of_host, is_near
from server.domain.limits import check_length, invalid_value

__all__ = ["MAX_URL_CHARS", "check_client_url"]

MAX_URL_CHARS: Final = 2048


def check_client_url(url: str, param: str, *, allow_http: bool = False, allow_private: bool = False) -> None:
    """Raise GatewayError (`invalid_value`) naming `param` unless it may be called.

    `allow_http`: without TLS as well. `allow_private`: on this machine and in private networks as well.
    """
    check_length(url, MAX_URL_CHARS, param)
    schemes = ("https", "http") if allow_http else ("https",)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not url.isascii() or any(char <= " " or char in '\x7f"<>\\^`{|}' for char in url):
        raise invalid_value(param, "must be an absolute URL of ASCII characters")
    if parts.scheme not in schemes:
        raise invalid_value(param, f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if "@" in parts.netloc:
        raise invalid_value(param, "must have no user and no password")
    if "#" in url:
        raise invalid_value(param, "must have no fragment")
    if danger_of_host(host) is not None or (is_near(host) and not allow_private):
        raise invalid_value(param, "must not lead to this machine, a private network or a link-local address")
