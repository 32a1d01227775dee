"""Thinking: how much of it is asked for, and the sealed blocks that must come back unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from server.domain.request import Endpoint, GenerationRequest, Reasoning
from server.domain.seals import SealedThought, is_claudes, is_wrapped, unsealed
from server.providers.anthropic_models import Abilities

MIN_BUDGET: Final = 1024
"""The least that may be spent on thinking; the output limit must be greater than what is spent."""

_BUDGETS: Final = {
    "minimal": MIN_BUDGET,
    "low": 2048,
    "medium": 8192,
    "high": 16_384,
    "xhigh": 32_768,
    "max": 65_536,
}
_NEAREST: Final = {"minimal": "low", "xhigh": "max"}
"""The nearest word, where a model does not have the client's."""


def thinking_fields(request: GenerationRequest, able: Abilities, max_tokens: int) -> Mapping[str, Any]:
    """`thinking`, and what belongs into `output_config` under that name."""
    wanted = request.reasoning
    if wanted is None or able.thinking == "none":
        return {}
    if wanted.effort == "none" or wanted.thinking == "disabled":
        return {**_off(able), **_effort(wanted.effort, able, highest="high" if able.between_tools else "max")}
    if able.thinking == "adaptive":
        native = request.endpoint is Endpoint.MESSAGES and wanted.thinking is None
        if native or (wanted.effort is None and wanted.summary is None and wanted.thinking is None):
            return _effort(wanted.effort, able)
        return {"thinking": {"type": "adaptive", "display": "summarized"}, **_effort(wanted.effort, able)}
    budget = _budget(request)
    return {} if budget is None else {"thinking": {"type": "enabled", "budget_tokens": min(budget, max_tokens - 1)}}


def _off(able: Abilities) -> Mapping[str, Any]:
    """As little thinking as the model can do with."""
    if able.thinks_always:
        return {}
    return {"thinking": {"type": "between_tools" if able.between_tools else "disabled"}}


def _effort(effort: str | None, able: Abilities, highest: Literal["high", "max"] = "max") -> Mapping[str, Any]:
    """A client of the vendor's own surface may set an effort without a word on thinking."""
    if effort in (None, "none") or able.thinking != "adaptive":
        return {}
    if effort in ("xhigh", "max") and highest == "high":
        return {"output_config": {"effort": highest}}
    is_known = effort == "xhigh" and able.xhigh
    return {"output_config": {"effort": effort if is_known else _NEAREST.get(effort, effort)}}


def thinks_by_budget(request: GenerationRequest, able: Abilities) -> bool:
    return able.thinking == "budget" and _budget(request) is not None


def cannot_think(request: GenerationRequest, able: Abilities, max_tokens: int) -> bool:
    """Whether the model has nothing like the effort that was asked for."""
    effort = None if request.reasoning is None else request.reasoning.effort
    if effort == "none":
        return able.thinks_always
    if able.thinking == "none":
        return effort is not None
    return thinks_by_budget(request, able) and max_tokens <= MIN_BUDGET


def thinking_blocks(part: Reasoning, endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    """The blocks that a client sends back, byte for byte. What no Claude model has sealed is left out.

    Unsealed thoughts, and those of another maker's model, cannot be said: the API takes its own alone, and no other
    place in a request would keep them from being read as something that was said.
    """
    value = part.signature or part.encrypted or ""
    if not is_claudes(value):
        return
    if endpoint is Endpoint.MESSAGES and not part.signature and value and not is_wrapped(value):
        yield _block(SealedThought("redacted", "", value))
        return
    for thought in unsealed(part.text or "\n\n".join(part.summary), value):
        yield _block(thought)


def _block(thought: SealedThought) -> dict[str, Any]:
    if thought.kind == "redacted":
        return {"type": "redacted_thinking", "data": thought.seal}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.seal}


def _budget(request: GenerationRequest) -> int | None:
    """Tokens to think with; None where no thinking was asked for."""
    wanted = request.reasoning
    if wanted is None or wanted.effort == "none" or wanted.thinking == "disabled":
        return None
    if wanted.budget_tokens is not None:
        return wanted.budget_tokens
    if wanted.effort is None and wanted.thinking is None:
        return None
    return _BUDGETS[wanted.effort or "medium"]
