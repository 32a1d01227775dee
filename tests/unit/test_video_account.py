"""What a video job comes to: how it goes on, what it costs, what its team is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.domain.errors import HINTS, AttemptFailure, FailureCategory, UpstreamError
from server.domain.pricing import PriceList
from server.domain.record import AttemptRecord, GenerationRecord
from server.domain.usage import Usage
from server.domain.video import TERMINAL, JobReport, VideoBilling, VideoStatus
from server.domain.video_jobs import JobFacts, VideoJob
from server.pipeline.video_account import EXPIRED, NO_VIDEO, ended, moved_on, seen

NOW = 1_800_000_000.0
SECOND = 100_000_000
"""Nano-dollars for one of video."""

ATTEMPT = AttemptRecord("first", "film-1", 200, None, 12.5, billed=False)
OPENING = GenerationRecord(
    suffix="0" * 32, request_id="r", created_at=int(NOW), team_id="team", key_id="key", endpoint="video",
    model_id="a/b", attempts=(ATTEMPT,),
)  # fmt: skip
JOB = VideoJob(
    opening=OPENING,
    model="a/b",
    status=VideoStatus.QUEUED,
    facts=JobFacts("a cat", 8, "1280x720"),
    provider="first",
    provider_model="film-1",
    prices=PriceList({"video_seconds": SECOND * 1_000_000}),
    held_nanos=8 * SECOND,
    expected_seconds=8,
    deadline_at=int(NOW) + 3600,
    due_at=NOW,
    native_id="native",
)


def report(status: VideoStatus, **told: Any) -> JobReport:
    return JobReport("native", status, **told)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({}, 8),
        ({"seconds": 8.0}, 8),
        ({"seconds": 8.041666}, 8),
        ({"seconds": 7.96}, 8),
        ({"seconds": 4.0}, 4),
        ({"seconds": 9.5}, 10),
        ({"usage": Usage(units={"video_seconds": 6})}, 6),
    ],
)
def test_what_was_made_is_charged(told: dict[str, Any], seconds: int) -> None:
    job, settlement = ended(JOB, VideoStatus.COMPLETED, NOW + 60, report=report(VideoStatus.COMPLETED, **told))
    cost = seconds * SECOND
    assert (settlement.held, settlement.charge_nanos, settlement.record.cost_nanos) == (True, cost, cost)
    assert seen(job).billing == VideoBilling("settled", 8 * SECOND, cost)
    record = settlement.record
    assert record.usage is not None
    assert record.usage.units["video_seconds"] == seconds
    assert record.attempts == (replace(ATTEMPT, billed=True, cost_nanos=cost),)
    assert (record.success, record.status_code, record.generation_ms) == (True, 200, 60_000.0)
    assert (job.progress, seen(job).poll_after_seconds, seen(job).error) == (100, None, None)


def test_tokens_that_are_told_are_charged_where_videos_have_a_price_of_them() -> None:
    rates = {"video_seconds": 0, "output_video_tokens": 5_000_000, "output_text_tokens": 9_000_000}
    told = report(VideoStatus.COMPLETED, usage=Usage(input_tokens=7, output_tokens=40))
    _, settlement = ended(replace(JOB, prices=PriceList(rates)), VideoStatus.COMPLETED, NOW, report=told)
    assert settlement.charge_nanos == 40 * 5


def test_what_costs_nothing_settles_nothing() -> None:
    free = replace(JOB, prices=PriceList(), held_nanos=None)
    job, settlement = ended(free, VideoStatus.COMPLETED, NOW, report=report(VideoStatus.COMPLETED))
    assert (settlement.held, settlement.charge_nanos, job.charged_nanos) == (False, None, None)
    assert seen(job).billing == VideoBilling("settled", 0, 0)


@pytest.mark.parametrize("status", sorted(TERMINAL - {VideoStatus.COMPLETED}))
def test_what_was_not_made_is_not_charged(status: VideoStatus) -> None:
    job, settlement = ended(JOB, status, NOW, report=report(status, seconds=8.0, usage=Usage(5)))
    assert (settlement.held, settlement.charge_nanos, settlement.record.cost_nanos) == (True, None, 0)
    assert (settlement.record.success, settlement.record.usage) == (False, None)
    assert seen(job).billing == VideoBilling("void", 8 * SECOND, 0)
    assert seen(job).error is not None


def test_a_providers_words_are_its_teams_and_not_the_records() -> None:
    failure = AttemptFailure(
        "first", FailureCategory.CONTENT_POLICY, 200, UpstreamError("moderation_blocked", "No cat on the moon.")
    )
    job, settlement = ended(JOB, VideoStatus.FAILED, NOW, report=report(VideoStatus.FAILED, failure=failure))
    fault = seen(job).error
    assert fault is not None
    assert (fault.code, fault.message) == ("moderation_blocked", "No cat on the moon.")
    assert settlement.record.error_code == "content_policy"
    assert settlement.record.error_message == HINTS[FailureCategory.CONTENT_POLICY]


def test_who_says_nothing_is_spoken_for() -> None:
    job, settlement = ended(JOB, VideoStatus.EXPIRED, NOW, fault=EXPIRED)
    assert (job.fault, settlement.record.error_code) == (EXPIRED, "expired")
    job, _ = ended(JOB, VideoStatus.FAILED, NOW, report=report(VideoStatus.FAILED))
    assert job.fault == NO_VIDEO


@given(
    st.lists(
        st.builds(
            JobReport,
            st.just("native"),
            st.sampled_from([VideoStatus.QUEUED, VideoStatus.IN_PROGRESS]),
            progress=st.none() | st.integers(-5, 1000),
        ),
        max_size=8,
    )
)
def test_a_job_never_goes_back(reports: list[JobReport]) -> None:
    job, now = JOB, NOW
    for one in reports:
        now += 1
        after = moved_on(job, one, now)
        assert 0 <= job.progress <= after.progress <= 99
        if job.status is VideoStatus.IN_PROGRESS:
            assert (after.status, after.started_at) == (job.status, job.started_at)
        assert (after.started_at is not None) == (after.status is VideoStatus.IN_PROGRESS)
        assert seen(after).billing == VideoBilling("reserved", 8 * SECOND, 0)
        job = after
