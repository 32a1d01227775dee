"""Every surface before every dialect: what is asked on the one reaches the other, and what is said comes back.

A cell is passed, both whole and streamed, or refused by name. `docs/dialects.md` shows the table that results.
"""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from tests.dialects.asked import ASKED, Feature
from tests.dialects.cells import (
    DIALECTS,
    FEATURES,
    SURFACES,
    cells,
    check_passes,
    check_refused,
    check_streams,
    model_of,
)
from tests.dialects.heard import REFUSED
from tests.fakes.dialects import DialectName
from tests.fakes.surfaces import SurfaceName
from tests.integration.dialect_stage import Stage, at, whole_stage

__all__ = ["at", "whole_stage"]

together = pytest.mark.asyncio(loop_scope="module")
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@together
@both_ways
@pytest.mark.parametrize(("surface", "dialect", "feature"), list(cells(refused=False)))
async def test_passes(at: Stage, surface: SurfaceName, dialect: DialectName, feature: Feature, stream: bool) -> None:
    await check_passes(at, surface, dialect, feature, stream=stream)


@together
@both_ways
@pytest.mark.parametrize(("surface", "dialect", "feature"), list(cells(refused=True)))
async def test_refused(at: Stage, surface: SurfaceName, dialect: DialectName, feature: Feature, stream: bool) -> None:
    await check_refused(at, surface, dialect, feature, stream=stream)


@together
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("surface", SURFACES)
async def test_streams(at: Stage, surface: SurfaceName, dialect: DialectName) -> None:
    await check_streams(at, surface, dialect)


@together
async def test_a_seal_is_only_promised_where_there_is_one(at: Stage) -> None:
    """A provider by chat completions gives no sealed reasoning, which the Responses surface may ask for."""
    with pytest.raises(openai.BadRequestError) as refused:
        await at.surfaces["responses"].ask(model_of("openai"), ASKED["responses"]["reasoning"], stream=False)

    assert refused.value.response.json()["param"] == "include"


def table() -> str:
    """The table in short, as `docs/dialects.md` shows it."""
    rows = [["", *(f"`{dialect}`" for dialect in DIALECTS)], ["---"] * (len(DIALECTS) + 1)]
    rows += [[f"`{surface}`", *(in_short(surface, dialect) for dialect in DIALECTS)] for surface in SURFACES]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def in_short(surface: SurfaceName, dialect: DialectName) -> str:
    refused = [param for cell, param in REFUSED.items() if cell[:2] == (surface, dialect)]
    passed = f"{len(FEATURES) - len(refused)} pass"
    return ", ".join([passed, *(f"`{param}` is refused" for param in refused)])


def test_the_documentation_shows_this_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "dialects.md"
    assert table() in page.read_text(), table()
