"""Rows of video jobs, for tests of where they are kept."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from server.domain.ledger import Hold
from server.domain.pricing import PriceList
from server.domain.record import AttemptRecord
from server.domain.video import VideoStatus
from server.domain.video_jobs import JobFacts, VideoJob
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import Request

LEASE_S = 30.0
NANOS_PER_SECOND = 100_000_000
"""Of video: 8 seconds are 0.80 USD."""
PRICES = PriceList({"video_seconds": NANOS_PER_SECOND * 1_000_000})


def new_job(
    clock: ManualClock, team: str = "team", *, held: int | None = 8 * NANOS_PER_SECOND, **changes: Any
) -> VideoJob:
    """A job that is about to be submitted; `held` None is one that costs nothing."""
    opening = replace(
        Request(team, created_at=int(clock.now())).opening,
        endpoint="video",
        attempts=(AttemptRecord("first", "test-1", 200, None, 1.0, billed=False),),
    )
    return replace(
        VideoJob(
            opening=opening,
            model="a/b",
            status=VideoStatus.QUEUED,
            facts=JobFacts("a cat", 8),
            provider="first",
            provider_model="test-1",
            prices=PRICES if held is not None else PriceList(),
            held_nanos=held,
            expected_seconds=8,
            deadline_at=int(clock.now()) + 3600,
            due_at=clock.now() + LEASE_S,
        ),
        **changes,
    )


def hold_of(job: VideoJob) -> Hold | None:
    return None if job.held_nanos is None else Hold(job.held_nanos, job.opening)
