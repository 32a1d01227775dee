"""The real clock and the real source of ids: the only module that asks the operating system for either."""

from __future__ import annotations

import time

import uuid_utils

__all__ = ["SystemClock", "UuidV7"]


class SystemClock:
    """Implements `server.domain.ports.Clock`."""

    now = staticmethod(time.time)  # noqa: TID251 - here is where the rest of the code gets it from
    monotonic = staticmethod(time.monotonic)


class UuidV7:
    """Implements `server.domain.ports.IdSource`."""

    def new(self) -> str:
        return uuid_utils.uuid7().hex
