"""The table: what pytest found, line by line, and how it is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import pytest

from tests.e2e.conformance.cases import Row

SHOWN_REASON_CHARS = 160


class Collector:
    """A plugin of pytest: `rows` is what its tests of conformance came to; a sign a test goes to `progress`."""

    def __init__(self, progress: TextIO) -> None:
        self.rows: list[Row] = []
        self._progress = progress

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report = yield
        if report.when == "call" or report.failed:
            self.rows += _rows(item, call, report)
            self._progress.write("F" if report.failed else ".")
            self._progress.flush()
        return report


def _rows(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> Iterator[Row]:
    told = dict(report.user_properties)
    added = [Row(*one) for one in told.get("rows", ())]
    yield from added
    reason = "" if call.excinfo is None else _short(call.excinfo.exconly())
    markers = list(item.iter_markers("conformance"))
    for marker in markers:
        sdk, methods, is_refusal = marker.args
        for method in methods:
            if report.failed:
                yield Row(_client_of(sdk, item), method, _case(item), "failed", reason)
            elif is_refusal:
                yield Row(_client_of(sdk, item), method, _case(item), "refused by contract", told.get("refusal", ""))
            else:
                yield Row(_client_of(sdk, item), method, _case(item), "ok")
    if report.failed and not markers and all(row.result != "failed" for row in added):
        yield Row("-", item.nodeid.rpartition("/")[2], report.when or "", "failed", reason)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_REASON_CHARS else line[: SHOWN_REASON_CHARS - 1] + "…"


def _client_of(sdk: str, item: pytest.Item) -> str:
    """An SDK's two clients have lines of their own."""
    return f"{sdk} async" if _parameters(item).get("client") == "async" else sdk


def _case(item: pytest.Item) -> str:
    """The test's name as words, and which of its cases it is."""
    name = getattr(item, "originalname", item.name).removeprefix("test_").replace("_", " ")
    cases = [
        part for part in getattr(getattr(item, "callspec", None), "id", "").split("-") if part not in ("sync", "async")
    ]
    return ": ".join(filter(None, [name, "-".join(cases)]))


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return getattr(getattr(item, "callspec", None), "params", {})


def summary(rows: Sequence[Row], sdks: dict[str, str]) -> list[str]:
    """A line for each SDK: how many of its lines there are of each kind."""
    lines = []
    for name, of in sdks.items():
        counted = Counter(row.result for row in _of_sdk(rows, name))
        if counted:
            lines.append(f"{of}: " + ", ".join(f"{count} {result}" for result, count in counted.most_common()))
    return lines


def text(rows: Sequence[Row]) -> list[str]:
    """Of columns, for a terminal."""
    cells = [("SDK", "Method", "Case", "Result"), *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in cells
    ]


def markdown(rows: Sequence[Row], sdks: dict[str, str]) -> list[str]:
    """A table for each SDK; what its two clients say alike is said once."""
    lines: list[str] = []
    for name, of in sdks.items():
        if not (ours := _of_sdk(rows, name)):
            continue
        lines += ["", f"### {of}", "", "| Method | Case | Result |", "| --- | --- | --- |"]
        by_case: dict[tuple[str, str], list[Row]] = {}
        for row in ours:
            by_case.setdefault((row.method, row.case), []).append(row)
        for alike in by_case.values():
            results = dict.fromkeys(_cells(row)[3] for row in alike)
            method, case = alike[0].method, alike[0].case
            lines.append(f"| `{method}` | {_escaped(case)} | {_escaped('; '.join(results))} |")
    return lines


def _of_sdk(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row.sdk.partition(" ")[0] == name]


def _cells(row: Row) -> tuple[str, str, str, str]:
    return row.sdk, row.method, row.case, f"{row.result}: {row.reason}" if row.reason else row.result


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
