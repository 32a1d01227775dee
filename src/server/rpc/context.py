"""The two seams around a servicer: what it may ask of its call, and what a host must provide for one.

Both are deliberately narrow, so that any host can carry the servicers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

from server.domain.errors import Reason
from server.domain.identity import Arrival, Call


class CallContext(Protocol):
    """One call, as its servicer sees it. Errors are raised (`GatewayError`), never set; cancellation arrives as
    `asyncio.CancelledError` the moment the caller goes or its deadline passes.
    """

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the caller sent: text values by lower-case name; of a repeated name the first."""
        ...

    @property
    def arrival(self) -> Arrival: ...

    @property
    def call(self) -> Call:
        """The authenticated call; only on methods that authenticate before the servicer is entered."""
        ...

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        """Send response headers now; at most once, and before the first message."""
        ...

    def answers_error(self, reason: Reason) -> None:
        """The reply tells of an error, though the call succeeds."""
        ...

    def announce_last_message(self) -> None:
        """The next message of the stream is its last: it goes with the status, and nothing is yielded after it."""
        ...


class HostCall(Protocol):
    """One call, as its host offers it to `server.rpc.interceptors`. One task carries it from beginning to end, and is
    cancelled when the caller goes or its deadline passes.
    """

    @property
    def metadata(self) -> Mapping[str, str]:
        """As in `CallContext`."""
        ...

    @property
    def peer(self) -> str:
        """The caller's address, without its port."""
        ...

    @property
    def suffix(self) -> str | None:
        """The id that Envoy has given to the call and tells the caller by itself; None where there is no Envoy."""
        ...

    def time_remaining_s(self) -> float | None:
        """Seconds until the caller's deadline; None where it set none."""
        ...

    def send_initial_metadata(self, metadata: Sequence[tuple[str, str]], /) -> Awaitable[None]: ...

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]], /) -> None:
        """What goes with the status of a call that succeeds."""
        ...

    def write(self, message: bytes, /) -> Awaitable[None]:
        """Send one message of a stream; returns when there is room for the next."""
        ...
