"""What a key is held to beyond its scopes: models, providers, addresses that it may be used from.

A restriction is None where there is none, and never empty. Entries are text as their owner wrote them, addresses and
networks in their canonical spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, TypeAlias

import msgspec

from server.domain.catalog import Model

__all__ = ["MAX_ENTRIES", "Restrictions", "canonical_cidr", "check_model_pattern", "check_provider_id", "is_pattern"]

Network: TypeAlias = IPv4Network | IPv6Network

MAX_ENTRIES: Final = 100
"""Of each restriction."""
MAX_MODEL_CHARS: Final = 128
MAX_CIDR_CHARS: Final = 64
_MAPPED_BITS: Final = 96

_MODEL: Final = re.compile(r"(?=.)[A-Za-z0-9._/-]*\*?[A-Za-z0-9._/-]*(:free)?")
_PROVIDER: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Restrictions(msgspec.Struct, frozen=True):
    """`models` are ids or patterns with one `*`; `cidrs` addresses and networks; None everywhere: all there are."""

    models: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None
    cidrs: tuple[str, ...] | None = None

    def allows_model(self, model: Model) -> bool:
        """Whether one of the model's names is among those allowed."""
        if self.models is None:
            return True
        names = (model.id, *model.aliases)
        return any(_covers(pattern, name) for pattern in self.models for name in names)

    def allows_provider(self, provider_id: str) -> bool:
        return self.providers is None or provider_id in self.providers

    def allows_address(self, address: str) -> bool:
        """Whether a call may come from there; what is no address is nowhere."""
        caller = address.strip("[]").partition("%")[0]
        return self.cidrs is None or any(_holds(cidr, caller) for cidr in self.cidrs)

    def exceeding(self, own: Restrictions) -> str | None:
        """The first field in which this allows anything that `own` does not; None where there is none."""
        if not _within(self.models, own.models, _covers):
            return "allowed_models"
        if not _within(self.providers, own.providers, str.__eq__):
            return "allowed_providers"
        if not _within(self.cidrs, own.cidrs, _holds):
            return "allowed_cidrs"
        return None


def canonical_cidr(text: str) -> str:
    """The one spelling of an address or a network; IPv4 inside IPv6 is IPv4. Raises ValueError saying what is wrong."""
    try:
        network = _network(text)
    except ValueError:
        try:
            whole = _parsed(text, strict=False)
        except ValueError:
            raise ValueError(
                "must be an address or a network such as 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32,"
                f' not "{text[:MAX_CIDR_CHARS]}"'
            ) from None
        raise ValueError(f"has bits beyond the prefix in {text}: the network is {whole}") from None
    return str(network) if "/" in text else str(network.network_address)


def check_model_pattern(text: str) -> str:
    """`text` itself. Raises ValueError where it can be no model's id and no pattern of ids."""
    if len(text) > MAX_MODEL_CHARS or _MODEL.fullmatch(text) is None:
        raise ValueError("must be a model's id, or a pattern with one asterisk: openai/gpt-4o, openai/*, *:free")
    return text


def check_provider_id(text: str) -> str:
    """`text` itself. Raises ValueError where it can be no provider's id."""
    if _PROVIDER.fullmatch(text) is None:
        raise ValueError("must be the id of a provider, such as openai")
    return text


def is_pattern(text: str) -> bool:
    """Whether it may stand for several models."""
    return "*" in text


def _within(inner: Sequence[str] | None, outer: Sequence[str] | None, covers: Callable[[str, str], bool]) -> bool:
    """Whether each entry of one restriction is covered by one of the other."""
    if outer is None:
        return True
    return inner is not None and all(any(covers(of, entry) for of in outer) for entry in inner)


def _covers(outer: str, inner: str) -> bool:
    """Whether every name that fits the pattern `inner`, or is it, fits `outer` as well."""
    head, star, tail = outer.partition("*")
    if not star:
        return outer == inner
    if not is_pattern(inner):
        return len(inner) >= len(head) + len(tail) and inner.startswith(head) and inner.endswith(tail)
    inner_head, _, inner_tail = inner.partition("*")
    return inner_head.startswith(head) and inner_tail.endswith(tail)


def _holds(outer: str, inner: str) -> bool:
    """What is no network holds nothing and is nowhere."""
    try:
        return _contains(_network(outer), _network(inner))
    except ValueError:
        return False


def _contains(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def _parsed(text: str, *, strict: bool = True) -> Network:
    """Raises ValueError, for a zone too: Python takes any text for one, and no network is told apart by it."""
    if len(text) > MAX_CIDR_CHARS or "%" in text:
        raise ValueError
    return ip_network(text, strict=strict)


@lru_cache(maxsize=4096)
def _network(text: str) -> Network:
    """Raises ValueError."""
    network = _parsed(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        inner = network.network_address.ipv4_mapped
        if inner is not None:
            return IPv4Network((inner, network.prefixlen - _MAPPED_BITS))
    return network
