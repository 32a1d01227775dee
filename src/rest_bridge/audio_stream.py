"""Sound as the body of a response: its bytes as they come, no faster than the client takes them."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from server.domain.errors import GatewayError, internal_error
from server.domain.events import AudioDelta, Settled
from server.pipeline.speak import Sound

__all__ = ["SoundBody"]

_log = structlog.get_logger(__name__)


class SoundBody:
    """A `rest_bridge.http.ByteStream` of a speech whose `first` batch has been read. Closing it closes the speech.

    Nothing is read ahead. Where the sound breaks off it raises GatewayError: bytes of sound can tell of no error. The
    end comes when the speech is paid for and on record.
    """

    def __init__(self, first: Sequence[AudioDelta | Settled], rest: Sound) -> None:
        self._first = first
        self._rest = rest
        self._is_begun = False
        self._is_settled = False

    def __aiter__(self) -> SoundBody:
        return self

    async def __anext__(self) -> bytes:
        """Raises GatewayError."""
        if not self._is_begun:
            self._is_begun = True
            return self._bytes(self._first)
        try:
            async for batch in self._rest:
                if data := self._bytes(batch):
                    return data
        except GatewayError:
            raise
        except Exception:
            _log.exception("speech_failed")
            raise internal_error() from None
        if not self._is_settled:
            raise internal_error()
        raise StopAsyncIteration

    @property
    def ended(self) -> bool:
        return self._is_settled

    async def aclose(self) -> None:
        await self._rest.aclose()

    def _bytes(self, batch: Sequence[AudioDelta | Settled]) -> bytes:
        self._is_settled = isinstance(batch[-1], Settled)
        pieces = [event.data for event in batch if isinstance(event, AudioDelta)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
