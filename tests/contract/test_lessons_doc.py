"""Every test that docs/lessons.md names exists, and every row says something."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "lessons.md").read_text()


@lru_cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 100
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(path)] == []
    assert TEXT.count("::") == len(named), "a test is named in another form than `path::name`"


def test_every_trap_of_upstreams_has_its_tests() -> None:
    page = (ROOT / "docs" / "dialects.md").read_text()
    named = set(re.findall(r"`(test_trap_\w+)`", page))
    known = {name for name in functions_of("tests/integration/test_traps.py") if name.startswith("test_")}
    assert named == known
    assert {name[:12] for name in named} == {f"test_trap_{number:02}" for number in range(1, 11)}


def test_every_row_names_a_test_or_a_reason() -> None:
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if re.match(r"\| [A-Z]\d", line)]
    groups = [(number[0], int(number[1:])) for number, _, _ in rows]
    complete = dict(zip("SGKCDMXUBLROP", (17, 17, 10, 6, 8, 7, 5, 16, 11, 11, 19, 5, 11), strict=True))
    for group, count in complete.items():
        assert [number for of, number in groups if of == group] == list(range(1, count + 1))
    for number, what, shown in rows:
        assert re.search(r"\w#\d", what), f"{number} says nothing of where it was told"
        assert len(shown) > 20, f"{number} shows nothing"
