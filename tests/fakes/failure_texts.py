"""The sentences that a caller may read of a failure below the gateway, and how to find others in what was answered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from server.domain.errors import HINTS, AttemptFailure, FailureCategory
from server.pipeline.failures import exhausted, interrupted
from server.transport.faults import Fault, failure

DATABASE: Final = "The gateway's database does not answer at the moment. Try again shortly."
TABLE: Final = frozenset(
    {
        DATABASE,
        *HINTS.values(),
        *(failure(fault).upstream.message for fault in Fault),
        *(exhausted((AttemptFailure("any", category),)).description for category in FailureCategory),
        interrupted((AttemptFailure("any", FailureCategory.CONNECTION),)).description,
        *(
            interrupted((AttemptFailure("any", failure(fault).category, upstream=failure(fault).upstream),)).description
            for fault in Fault
        ),
    }
)

INNER: Final = re.compile(
    r"127\.0\.0\.1|upstream\.invalid|localhost|https?:|:\d{4,5}\b|/(tmp|usr|home|v1)\b|\.py\b|Errno|\b[A-Z]\w*(Error|Exception)\b"
)
"""Addresses, paths and the names of classes."""


def sentences(said: bytes | str) -> set[str]:
    """Every text of more than one word in a body: a JSON object, or the events of a stream."""
    text = said.decode() if isinstance(said, bytes) else said
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    return {found for one in data or [text] for found in _texts(json.loads(one)) if " " in found}


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for one in value.values():
                yield from _texts(one)
        case list():
            for one in value:
                yield from _texts(one)
        case _:
            pass
