"""What differs between generations of Gemini models: how thinking is asked for, and what a function may return."""

from __future__ import annotations

import re
from typing import Any, Final

from server.domain.request import ReasoningOptions

_VERSION: Final = re.compile(r"gemini-(\d+)(?:\.(\d+))?")

_LEVELS: Final = {
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "XHIGH",
    "max": "XHIGH",
}
"""Effort to `thinkingLevel`, from Gemini 3 on. Such a model always thinks, so that there is no `none`."""

_BUDGETS: Final = {"minimal": 512, "low": 1024, "medium": 8192, "high": 24_576}
"""Effort to `thinkingBudget` in tokens, on Gemini 2.5; `xhigh` and `max` are the most that the model takes."""
_MOST: Final = 24_576
_MOST_OF_PRO: Final = 32_768
_ADAPTIVE: Final = -1
"""The budget that leaves it to the model."""


def takes_levels(model: str) -> bool:
    """Whether the model is of the third generation or later: levels of thinking, signatures that must come back, and
    media in what functions return. Names without a version (`gemini-flash-latest`) mean the newest.
    """
    name = _plain(model)
    version = _VERSION.match(name)
    return int(version[1]) >= 3 if version else name.startswith("gemini-")


def takes_budgets(model: str) -> bool:
    version = _VERSION.match(_plain(model))
    return version is not None and (version[1], version[2]) == ("2", "5")


def thinking_config(model: str, wanted: ReasoningOptions) -> dict[str, Any] | None:
    """`thinkingConfig` for these wishes; None where the model cannot have them.

    Summaries of the thoughts are asked for with every effort but `none`: without them nothing of it can be shown.
    """
    effort = wanted.effort
    if not takes_levels(model) and not takes_budgets(model):
        return {} if effort in (None, "none") and wanted.summary is None else None
    if effort is None:
        return _without_effort(model, wanted)
    if wanted.budget_tokens is not None and takes_budgets(model):
        return {"thinkingBudget": min(wanted.budget_tokens, _most(model)), "includeThoughts": True}
    amount = _amount(model, effort)
    if amount is None:
        return None
    return amount if amount.get("thinkingBudget") == 0 else {**amount, "includeThoughts": True}


def _without_effort(model: str, wanted: ReasoningOptions) -> dict[str, Any]:
    if wanted.thinking == "disabled":  # where it can be
        return _amount(model, "none") or {}
    if wanted.thinking == "adaptive" and takes_budgets(model):
        return {"thinkingBudget": _ADAPTIVE, "includeThoughts": True}
    return {"includeThoughts": True} if wanted.summary is not None or wanted.thinking is not None else {}


def _most(model: str) -> int:
    return _MOST_OF_PRO if "-pro" in _plain(model) else _MOST


def _amount(model: str, effort: str) -> dict[str, Any] | None:
    if takes_levels(model):
        return {"thinkingLevel": _LEVELS[effort]} if effort in _LEVELS else None
    if effort == "none":
        return None if "-pro" in _plain(model) else {"thinkingBudget": 0}
    if effort in ("xhigh", "max"):
        return {"thinkingBudget": _most(model)}
    return {"thinkingBudget": _BUDGETS[effort]} if effort in _BUDGETS else None


def _plain(model: str) -> str:
    return model.rpartition("/")[2].lower()
