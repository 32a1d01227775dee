"""The records of a team's generations, as its members ask for them: by any id, or page by page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from server.domain import limits
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Call
from server.domain.records import Found, RecordFilter, Records
from server.domain.request import Endpoint
from server.domain.video_jobs import VideoJobStore

__all__ = ["Generations", "Page"]

MAX_FILTER_CHARS: Final = 256
MAX_SECONDS: Final = 253_402_300_799
"""The last second of the year 9999."""

_ID: Final = re.compile(r"(?:(?:gen|resp|msg|video)_|chatcmpl-|modr-)?([0-9a-f]{32})")
_STATUSES: Final = range(100, 600)


class Page(msgspec.Struct, frozen=True):
    """Records, newest first. `next_cursor` is the `after` of the next page; None where there is none."""

    data: Sequence[Found]
    limit: int
    next_cursor: str | None


class Generations:
    """Another team's records do not exist. `jobs`: of videos that are in the making it is said that they are."""

    def __init__(self, records: Records, jobs: VideoJobStore | None = None) -> None:
        self._records = records
        self._jobs = jobs

    async def get(self, call: Call, generation_id: str) -> Found:
        """By any id of the request: `gen_<x>`, `resp_<x>`, `chatcmpl-<x>`, `<x>`. Raises `resource_not_found`."""
        match = _ID.fullmatch(generation_id)
        found = match and await self._records.get(call.principal.team_id, match[1])
        if not found:
            job = match and self._jobs and await self._jobs.get(call.principal.team_id, match[1])
            if job and not job.has_ended:
                said = f"The video is {job.status.value}: it has a record once it has ended."
                raise GatewayError(Reason.RESOURCE_NOT_FOUND, said)
            raise GatewayError(Reason.RESOURCE_NOT_FOUND, "There is no such generation.")
        return found

    async def list(
        self, call: Call, wanted: RecordFilter, *, after: str | None = None, limit: int | None = None
    ) -> Page:
        """Raises GatewayError (`invalid_value`) naming what is wrong."""
        _check(wanted)
        limit = limits.page_size(limit)
        rows = await self._records.page(call.principal.team_id, wanted, after=_cursor(after), limit=limit + 1)
        page = rows[:limit]
        return Page(page, limit, page[-1].record.id if len(rows) > limit else None)


def _cursor(after: str | None) -> str | None:
    if after is None:
        return None
    match = _ID.fullmatch(after)
    if match is None:
        raise limits.invalid_value("after", "must be the id of a generation, gen_<x>")
    return match[1]


def _check(wanted: RecordFilter) -> None:
    for name in ("model", "provider", "key_id"):
        value: str | None = getattr(wanted, name)
        if value is not None and not (0 < len(value) <= MAX_FILTER_CHARS and value.isprintable()):
            raise limits.invalid_value(name, f"must be 1 to {MAX_FILTER_CHARS} printable characters")
    if wanted.endpoint is not None:
        limits.check_choice(wanted.endpoint, [endpoint.value for endpoint in Endpoint], "endpoint")
    if wanted.status_code is not None and wanted.status_code not in _STATUSES:
        raise limits.invalid_value("status_code", "must be an HTTP status, from 100 to 599")
    for name, seconds in (("from", wanted.since), ("to", wanted.until)):
        if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
            raise limits.invalid_value(name, "must be a time from 1970 to 9999")
    if wanted.since is not None and wanted.until is not None and wanted.since > wanted.until:
        raise limits.invalid_value("from", "must not be later than to")
