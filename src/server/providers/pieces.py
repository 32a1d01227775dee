"""Long texts in pieces that a provider takes: cut after a sentence, at a space, or where there is neither anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_SENTENCE: Final = re.compile(r"(?:[.!?…]+[\"'”’)\]]*\s+|[。！？]+|\n+)")
_SPACE: Final = re.compile(r"\s+")


def pieces(text: str, limit: int) -> Iterator[str]:
    """`text`, or parts of it of at most `limit` characters that are all of it when put together again."""
    start = 0
    while len(text) - start > limit:
        end = _last_end(_SENTENCE, text, start, limit) or _last_end(_SPACE, text, start, limit) or start + limit
        yield text[start:end]
        start = end
    yield text[start:]


def _last_end(boundary: re.Pattern[str], text: str, start: int, limit: int) -> int | None:
    """Where the last boundary within `limit` characters ends; None where the second half has none."""
    ends = [found.end() for found in boundary.finditer(text, start + limit // 2, start + limit)]
    return ends[-1] if ends else None
