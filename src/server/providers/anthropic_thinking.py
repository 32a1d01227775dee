"""Thinking: how an effort is asked for, and how the blocks that must come back unchanged travel through a client.

A client keeps one text and one opaque value for everything that a model thought, some surfaces for each block and some
for all of a turn together. The first signed block travels as it is; any other is wrapped with its kind and the lengths
of its text and its seal, so that values which a client joined can be told apart again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from server.domain.request import GenerationRequest, Reasoning
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
_EFFORTS: Final = {"minimal": "low", "xhigh": "max"}
"""The nearest word, where a model does not have the client's."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9+/=_-]*")
_WRAPPED: Final = re.compile(r"\.(t|r)(\d{1,9}),(\d{1,9})\.")
_FOREIGN: Final = "gAAAA"
"""How the sealed reasoning of OpenAI's models begins; it means nothing here."""

BlockKind = Literal["thinking", "redacted_thinking"]


def thinking_fields(request: GenerationRequest, able: Abilities, max_tokens: int) -> Mapping[str, Any]:
    """`thinking`, and what belongs into `output_config` under that name."""
    effort = None if request.reasoning is None else request.reasoning.effort
    wants_summary = request.reasoning is not None and request.reasoning.summary is not None
    if effort == "none":
        return {} if able.thinking == "none" else {"thinking": {"type": "disabled"}}
    if able.thinking == "adaptive" and (effort is not None or wants_summary):
        fields: dict[str, Any] = {"thinking": {"type": "adaptive", "display": "summarized"}}
        if effort is not None:
            word = effort if effort == "xhigh" and able.xhigh else _EFFORTS.get(effort, effort)
            fields["output_config"] = {"effort": word}
        return fields
    if able.thinking == "budget" and effort is not None:
        budget = min(_BUDGETS[effort], max_tokens - 1)
        return {"thinking": {"type": "enabled", "budget_tokens": budget}}
    return {}


def thinks_by_budget(request: GenerationRequest, able: Abilities) -> bool:
    effort = None if request.reasoning is None else request.reasoning.effort
    return able.thinking == "budget" and effort not in (None, "none")


def cannot_think(request: GenerationRequest, able: Abilities, max_tokens: int) -> bool:
    """Whether the model has nothing like the effort that was asked for."""
    effort = None if request.reasoning is None else request.reasoning.effort
    if effort is None:
        return False
    if effort == "none":
        return able.thinks_always
    return able.thinking == "none" or (able.thinking == "budget" and max_tokens <= MIN_BUDGET)


def sealed(kind: BlockKind, text_chars: int, seal: str, *, first: bool) -> str:
    """The opaque value that a block travels as; `text_chars` is the length of its text, `first`: of its turn."""
    if first and kind == "thinking" and _PLAIN.fullmatch(seal):
        return seal
    return f".{'t' if kind == 'thinking' else 'r'}{text_chars},{len(seal)}.{seal}"


def thinking_blocks(part: Reasoning) -> Iterator[dict[str, Any]]:
    """The blocks that a client sends back, byte for byte. What no Claude model has sealed is left out.

    Unsealed thoughts, and those of another maker's model, cannot be said: the API takes its own alone, and no other
    place in a request would keep them from being read as something that was said.
    """
    text = part.text or "\n\n".join(part.summary)
    value = part.signature or part.encrypted or ""
    if value.startswith(_FOREIGN):
        return
    head, wrapped = _split(value)
    spare = len(text) - sum(chars for _, chars, _ in wrapped)
    if spare < 0:
        return
    if head:
        yield {"type": "thinking", "thinking": text[:spare], "signature": head}
    for kind, chars, seal in wrapped:
        text_from, spare = spare, spare + chars
        if kind == "r":
            yield {"type": "redacted_thinking", "data": seal}
        else:
            yield {"type": "thinking", "thinking": text[text_from:spare], "signature": seal}


def _split(value: str) -> tuple[str, list[tuple[str, int, str]]]:
    """A bare seal at the beginning, and every wrapped one: its kind, the length of its text, the seal."""
    found = _WRAPPED.search(value)
    if found is None:
        return value, []
    head, wrapped = value[: found.start()], []
    while found is not None:
        end = found.end() + int(found[3])
        wrapped.append((found[1], int(found[2]), value[found.end() : end]))
        found = _WRAPPED.match(value, end)
    return head, wrapped
