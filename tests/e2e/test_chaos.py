"""The storm of `make chaos` in short, over each kind of database: whatever is killed, the books are right."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import get_args

import pytest

from tests.chaos.run import Kind, Options, run, silent
from tests.chaos.table import table

SEED = 11


@pytest.mark.slow
@pytest.mark.parametrize("kind", get_args(Kind))
def test_whatever_is_killed_the_books_are_right(kind: Kind, tmp_path: Path) -> None:
    options = Options(
        database=kind,
        directory=tmp_path / kind,
        requests=250,
        clients=32,
        seed=SEED,
        kill_every_s=1.0,
        worker_kills=1,
        gateway_kills=1,
        workers=2 if kind == "sqlite" else 1,
        lease_s=2.0,
    )
    outcome = asyncio.run(run(options, silent))
    assert outcome.is_clean, f"\n{table(outcome)}"
    assert sum(seen.complete for seen in outcome.evidence.seen) > options.requests // 5, f"\n{table(outcome)}"
    assert {kill.what for kill in outcome.kills} == {"worker", "gateway"}
