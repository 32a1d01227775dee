"""Sound that comes as the body of a reply, as it is: no framing, no account of what it cost, and its end is the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from server.domain.events import AudioDelta, Completed, ProviderEvent, Started
from server.providers.http_port import HttpResponse
from server.providers.openai_errors import protocol_failure

__all__ = ["is_sound", "no_sound", "sound"]

_BYTES: Final = frozenset({"application/octet-stream", "binary/octet-stream", "application/ogg"})
"""What sound is declared as, where it is not declared as sound."""


def is_sound(response: HttpResponse, wants_events: bool) -> bool:
    """Whether the body is sound, as it declares; what declares nothing is what was asked for."""
    declared = (response.headers.get("content-type") or "").partition(";")[0].strip().lower()
    return declared.startswith("audio/") or declared in _BYTES or not (declared or wants_events)


def no_sound() -> Exception:
    return protocol_failure("The provider sent a sound of no length.")


async def sound(response: HttpResponse, limit: int) -> AsyncGenerator[list[ProviderEvent], None]:
    """A batch a network read. Raises ProviderFailure: where it is cut, is empty, or has more than `limit` bytes."""
    size = 0
    async with aclosing(response.chunks()) as chunks:
        async for data in chunks:
            batch: list[ProviderEvent] = [AudioDelta(data)] if size else [Started(), AudioDelta(data)]
            size += len(data)
            if size > limit:
                raise protocol_failure("The provider sent more sound than any text makes.")
            yield batch
    if not size:
        raise no_sound()
    yield [Completed()]
