"""Which part a `range` header names."""

from __future__ import annotations

import pytest

from server.domain.byte_ranges import OUTSIDE, part_of, plain


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("Bytes = 0 - 9", (0, 10)),
        ("bytes=990-", (990, 1000)),
        ("bytes=-10", (990, 1000)),
        ("bytes=-5000", (0, 1000)),
        ("bytes=900-5000", (900, 1000)),
        ("bytes=999-999", (999, 1000)),
        ("bytes=1000-", OUTSIDE),
        ("bytes=1000-1001", OUTSIDE),
        ("bytes=-0", OUTSIDE),
        ("bytes=9-5", None),
        ("bytes=-", None),
        ("bytes=0-9,20-29", None),
        ("items=0-9", None),
        ("bytes=a-b", None),
        ("bytes=٣-", None),
        ("bytes=" + "9" * 20 + "-", None),
        ("", None),
    ],
)
def test_of_a_thousand_bytes(asked: str | None, part: tuple[int, int] | None) -> None:
    assert part_of(1000, asked) == part
    assert part_of(1000, plain(asked)) == part


def test_others_are_asked_plainly() -> None:
    asked = ("Bytes = 0 - 9", "bytes=-10", "bytes=990-", "bytes=9-5", "bytes=0-9,20-29", "items=0-9")
    assert [plain(one) for one in asked] == ["bytes=0-9", "bytes=-10", "bytes=990-", None, None, None]


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=-1", "bytes=0-0"])
def test_nothing_has_no_parts(asked: str) -> None:
    assert part_of(0, asked) == OUTSIDE
