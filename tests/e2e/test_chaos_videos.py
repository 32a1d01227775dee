"""Videos under `kill -9` in short, as `make chaos ARGS=--videos` has them at length: each ends once, whoever dies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.run import silent
from tests.chaos.videos.run import Options, run
from tests.chaos.videos.table import table


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whoever_is_killed_every_video_ends_once(tmp_path: Path) -> None:
    options = Options(
        directory=tmp_path / "videos",
        videos=14,
        seed=12,
        spread_s=2.0,
        kill_every_s=1.0,
        lives_s=0.0,
        answers=6,
        kills=1,
        lease_s=2.0,
        deadline_s=600,
        hangs=False,
    )
    outcome = asyncio.run(run(options, silent))
    assert outcome.is_clean, f"\n{table(outcome)}"
    assert len(outcome.kills) == 1
    assert sum(told.sha is not None for told in outcome.evidence.told) > options.videos // 3, f"\n{table(outcome)}"
