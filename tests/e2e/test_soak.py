"""`make soak` in short, on either host: nothing is left behind, and the books are right."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import get_args

import pytest

from server.in_envoy_start import missing
from tests.chaos.run import silent
from tests.soak.run import Host, Options, run
from tests.soak.table import table


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("host", get_args(Host))
def test_nothing_is_left_behind(host: Host, tmp_path: Path) -> None:
    """How much memory may grow is generous: in a minute allocators have not settled, and the machine is busy."""
    if host == "in-envoy" and (lacking := missing()) is not None:
        pytest.skip(lacking)
    options = Options(
        tmp_path,
        host,
        minutes=0.7,
        warm_up_s=15.0,
        calibrate_s=5.0,
        crowd_s=4.0,
        clients=24,
        sample_s=2.0,
        flat_mib=64.0,
        spare_fds=64,
    )
    outcome = asyncio.run(run(options, silent))
    assert outcome.is_clean, f"\n{table(outcome)}"
    assert sum(seen.complete for seen in outcome.evidence.seen) > len(outcome.evidence.seen) // 2, f"\n{table(outcome)}"
