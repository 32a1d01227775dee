"""What a test shows of an SDK, and what the table says of its outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pytest

Result = Literal["ok", "failed", "refused by contract", "not yet", "not offered"]

ELSEWHERE = ("not yet", "not offered")
"""What there is no route for; these lines stand last."""

Test = TypeVar("Test", bound=Callable[..., Any])

SDKS = ("openai", "anthropic", "phaseo", "vercel", "langchain")
"""By the names that `--sdk` takes; `test_<name>*.py` holds the tests of each."""

LOCAL_EMBEDDINGS = "local/smollm2-135m-embed:free"
LOCAL_MODERATION = "local/toxic-comments:free"

SHOWN: set[tuple[str, str]] = set()
"""Every method of an SDK that some test shows, as its module is imported."""


@dataclass(frozen=True)
class Row:
    """One line of the table. `reason` says why it failed, what refused it, or where there is no route."""

    sdk: str
    method: str
    case: str
    result: Result
    reason: str = ""


def shows(sdk: str, *methods: str, refused: bool = False) -> Callable[[Test], Test]:
    """Marks a test of these methods; `refused` where the contract has it that the gateway refuses what they ask for."""
    SHOWN.update((sdk, method) for method in methods)

    def mark(test: Test) -> Test:
        marked: Test = pytest.mark.conformance(sdk, methods, refused)(test)
        return marked

    return mark
