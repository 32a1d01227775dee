"""docs/conformance.md tells of the cases that there are, and of the versions that they were run with."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.e2e.conformance import node
from tests.e2e.conformance.__main__ import HERE, versions
from tests.e2e.conformance.cases import SDKS, SHOWN

PAGE = (Path(__file__).parents[3] / "docs" / "conformance.md").read_text()


@pytest.mark.parametrize("sdk", SDKS)
def test_the_page_is_of_these_cases(sdk: str) -> None:
    for module in HERE.glob(f"test_{sdk}*.py"):
        importlib.import_module(f"{__package__}.{module.stem}")
    heading = f"### {versions()[sdk]}\n"
    assert heading in PAGE, "make conformance ARGS=--write"
    section = PAGE.partition(heading)[2].partition("\n### ")[0]
    methods = {method for method, _ in node.cases()} if sdk == "vercel" else {one for of, one in SHOWN if of == sdk}
    assert {method for method in methods if f"| `{method}` |" not in section} == set(), "make conformance ARGS=--write"
