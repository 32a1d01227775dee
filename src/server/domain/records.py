"""Records as they are read back: one of them, a page of them, and the port that finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from server.domain.record import GenerationRecord, StoredContent


class Found(msgspec.Struct, frozen=True):
    """A record, and what is kept of its content: None where that is nothing, or no longer.

    `replayable`: whether the request's body is kept, be it here or left out as in a list.
    """

    record: GenerationRecord
    content: StoredContent | None = None
    replayable: bool = False


class RecordFilter(msgspec.Struct, frozen=True):
    """What a record must be to be listed; None asks for nothing. Times are seconds since 1970, `until` is excluded."""

    model: str | None = None
    provider: str | None = None
    endpoint: str | None = None
    key_id: str | None = None
    status_code: int | None = None
    success: bool | None = None
    since: int | None = None
    until: int | None = None


class Records(Protocol):
    """The records of all teams; to a team, another team's do not exist. All raise `database_unavailable`."""

    async def get(self, team_id: str, suffix: str) -> Found | None: ...

    async def page(self, team_id: str, wanted: RecordFilter, *, after: str | None, limit: int) -> Sequence[Found]:
        """At most `limit` records, newest first, without their content; those older than the suffix `after`."""
        ...
