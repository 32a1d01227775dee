"""What a request asks for softly: said to a provider that can take it, in the OpenAI dialect's words, else left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from server.domain.catalog import Offer
from server.domain.request import GenerationRequest, RawJson, Request, Text, ToolResult

FAILED: Final = "Error: "
"""How the result of a tool that failed begins, in an API that has no field for that."""


def hints_for(offer: Offer, request: Request) -> Mapping[str, RawJson]:
    """By canonical name, the hints that the offer lists among its parameters."""
    known = offer.params or frozenset()
    return {name: value for name, value in request.hints.items() if name in known}


def effort_for(offer: Offer, request: GenerationRequest) -> str | None:
    """How much to think. Thinking that is turned off is an effort of `none` where the offer has efforts at all."""
    wanted = request.reasoning
    if wanted is None:
        return None
    if wanted.effort is None and wanted.thinking == "disabled" and "reasoning_effort" in (offer.params or ()):
        return "none"
    return wanted.effort


def told_failure(result: ToolResult) -> ToolResult:
    """`result` with its failure in words; itself where there is none."""
    if not result.is_error:
        return result
    first = result.content[0] if result.content else None
    if isinstance(first, Text):
        return ToolResult(result.call_id, (Text(FAILED + first.text), *result.content[1:]), result.custom)
    return ToolResult(result.call_id, (Text(FAILED.rstrip()), *result.content), result.custom)
