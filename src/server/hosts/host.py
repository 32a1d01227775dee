"""What every host of the servicers keeps to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from server.rpc.interceptors import MAX_CONCURRENT_CALLS

__all__ = ["Host", "ListenError"]

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024 + 64 * 1024
"""A body of 64 MiB and the message around it."""
SPARE_CALLS: Final = 512
"""Health checks, reflection and refusals under way beyond the guard's own limit, which answers first."""
MAX_CALLS: Final = MAX_CONCURRENT_CALLS + SPARE_CALLS
EMPTY_BODY: Final = b""
"""The HttpBody that adds nothing, for a stream whose last message has gone before it was known to be the last."""
SUFFIX_KEY: Final = "x-gw-suffix"
CLIENT_KEY: Final = "x-gw-client"
UNWIND_TIMEOUT_S: Final = 5.0
"""How long cancelled calls may take to close their upstreams after a stop."""


class ListenError(Exception):
    """An address cannot be listened on; the message says which and what to do."""


class Host(Protocol):
    """Carries the servicers of one worker, in the running event loop. Start it once, stop it once."""

    async def start(self) -> None:
        """Serve. Raises ListenError."""
        ...

    def tell_ready(self, is_ready: Callable[[str], bool], /) -> None:
        """Tell `grpc.health.v1` which services can do their work; by `start` all of them can."""
        ...

    def leave(self) -> None:
        """Tell `grpc.health.v1`, for good, that nothing takes calls; those that come are served all the same."""
        ...

    async def stop(self, grace_s: float, /) -> None:
        """Take no more calls, give those under way `grace_s` seconds, then cancel them and wait for their ends."""
        ...
