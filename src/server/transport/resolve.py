"""From a host to the addresses that may be called. What is checked here is what is connected to: no second look-up."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

from server.domain.addresses import may_call
from server.transport.faults import Fault, failure


async def callable_addresses(host: str, port: int, *, allow_link_local: bool, allow_near: bool = True) -> list[str]:
    """The addresses of a name, or the one that `host` is, without those that are never called.

    Raises ProviderFailure where none is left; OSError and UnicodeError where there are none at all.
    """
    try:
        found = {str(ip_address(host)): None}
    except ValueError:
        looked_up = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = dict.fromkeys(str(address[0]) for *_, address in looked_up)
    allowed = [
        address for address in found if may_call(address, allow_link_local=allow_link_local, allow_near=allow_near)
    ]
    if not allowed:
        raise failure(Fault.FORBIDDEN)
    return allowed
