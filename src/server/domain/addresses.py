"""Where an upstream may be: what is never called, what only if its operator says so, and what is near by.

A host that is a private address or a name inside a network is as good as any: that is where models of one's own are.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, Literal, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

Danger = Literal["nowhere", "link_local"]
"""`nowhere`: no address of one machine. `link_local`: of this link only, or where clouds keep their metadata."""

_NOWHERE: Final = tuple(map(ip_network, ("0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "ff00::/8")))
_LINK_LOCAL: Final = tuple(map(ip_network, ("169.254.0.0/16", "fe80::/10")))
_METADATA: Final = tuple(
    map(ip_network, ("fd00:ec2::/32", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)
"""Of AWS, Google, Alibaba, Azure and Oracle, where they are not link-local."""
_METADATA_NAMES: Final = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.internal",
        "metadata.platformequinix.com",
        "metadata.tencentyun.com",
    }
)
_SHARED: Final = ip_network("100.64.0.0/10")
"""Private networks of carriers, and of overlays that use the same range."""
_HOLDS_IPV4: Final = tuple(map(ip_network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/48")))
_NEAR_ENDINGS: Final = (".localhost", ".local", ".internal", ".lan", ".svc", ".corp", ".home.arpa", ".intranet")


def danger_of(address: Address) -> Danger | None:
    """Why an address must not be called, None where nothing speaks against it."""
    address = _meant(address)
    if any(address in network for network in _NOWHERE):
        return "nowhere"
    if any(address in network for network in (*_LINK_LOCAL, *_METADATA)):
        return "link_local"
    return None


def danger_of_host(host: str) -> Danger | None:
    """As `danger_of`, for a host as a URL spells it; what a name resolves to must still be looked at."""
    address = spelled_address(host)
    if address is not None:
        return danger_of(address)
    return "link_local" if host.rstrip(".").lower() in _METADATA_NAMES else None


def may_call(address: str, *, allow_link_local: bool, allow_near: bool = True) -> bool:
    """Whether an upstream may be called at `address`, as a resolver writes it. `allow_near`: as `is_near` means it."""
    if not allow_near and is_near(address):
        return False
    danger = danger_of(ip_address(address))
    return danger is None or (danger == "link_local" and allow_link_local)


def is_near(host: str) -> bool:
    """Whether what is sent to `host` stays on this machine or in a private network, as far as the host itself tells."""
    address = spelled_address(host)
    if address is not None:
        address = _meant(address)
        return address.is_private or address.is_loopback or address.is_link_local or address in _SHARED
    name = host.rstrip(".").lower()
    return "." not in name or name.endswith(_NEAR_ENDINGS)


def spelled_address(host: str) -> Address | None:
    """The address that a resolver would take `host` for, be it `0xa9fea9fe` or `169.254.43518`; None for a name."""
    host = host.rstrip(".")
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to, where it is made of one."""
    if isinstance(address, IPv4Address) or address.is_loopback:
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is not None:
        return inner
    if any(address in network for network in _HOLDS_IPV4):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
