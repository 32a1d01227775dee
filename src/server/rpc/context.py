"""What a servicer may ask of the host that carries it. Deliberately narrow, so that any host can provide it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from server.domain.identity import Arrival, Call


class CallContext(Protocol):
    """One call, as its servicer sees it. Errors are raised (`GatewayError`), never set; cancellation arrives as
    `asyncio.CancelledError` the moment the caller goes or its deadline passes."""

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
