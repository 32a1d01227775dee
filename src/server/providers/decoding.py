"""What all decoders share: where they put events, and the numbering of parts."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from server.domain.events import PartEnded, PartKind, PartStarted, ProviderEvent

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding may raise, at once or when a part that was kept raw is read."""

MAX_CHOICES: Final = 128
MAX_PARTS: Final = 4096
"""Parts of one choice; an upstream that opens more has gone mad."""


class StreamDecoder(Protocol):
    """Turns what one upstream says into events, which it appends to `out`. All methods raise ProviderFailure.

    What was appended before a failure stands.
    """

    @property
    def done(self) -> bool:
        """Whether the terminator has come: nothing after it counts."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the answer is whole even if the connection ends without a terminator."""
        ...

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        """One event of the stream."""
        ...

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        """A body that is not a stream; `finish` is called by itself."""
        ...

    def finish(self, out: list[ProviderEvent]) -> None:
        """The stream is over, by its terminator or its end: close everything, or fail where it was cut."""
        ...


class Parts:
    """Numbers the parts of one choice, and remembers which are open."""

    __slots__ = ("_next", "choice", "open")

    def __init__(self, choice: int) -> None:
        self.choice = choice
        self.open: dict[int, PartKind] = {}
        self._next = 0

    @property
    def any(self) -> bool:
        """Whether any part was ever opened."""
        return self._next > 0

    @property
    def full(self) -> bool:
        return self._next >= MAX_PARTS

    def start(
        self, kind: PartKind, out: list[ProviderEvent], *, call_id: str = "", name: str = "", phase: str = ""
    ) -> int:
        part = self._next
        self._next += 1
        self.open[part] = kind
        out.append(PartStarted(self.choice, part, kind, call_id, name, phase))
        return part

    def end(self, part: int, out: list[ProviderEvent]) -> None:
        """Close a part; nothing where it is closed already."""
        if self.open.pop(part, None) is not None:
            out.append(PartEnded(self.choice, part))

    def end_all(self, out: list[ProviderEvent]) -> None:
        for part in list(self.open):
            self.end(part, out)
