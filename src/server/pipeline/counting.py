"""Token counts for when a provider reports none: an estimate from the text itself, never an exact tokenisation.

About four ASCII characters make a token, and about one of any other script does: the averages of current
tokenisers. The count takes time in proportion to the text and no memory, so that no prompt can stall the event
loop.
"""

from __future__ import annotations

from typing import Final, assert_never

from server.domain.embedding import EmbeddingRequest
from server.domain.moderation import ModerationRequest
from server.domain.request import (
    FunctionTool,
    GenerationRequest,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)
from server.domain.work import Work

_ASCII_PER_TOKEN: Final = 4
_TOKENS_PER_TURN: Final = 4


class TokenCounter:
    """Adds up the tokens of many pieces of text."""

    __slots__ = ("_ascii", "_other")

    def __init__(self) -> None:
        self._ascii = 0
        self._other = 0

    def add(self, text: str) -> None:
        if text.isascii():
            self._ascii += len(text)
        else:
            ascii_only = len(text.encode("ascii", "ignore"))
            self._ascii += ascii_only
            self._other += len(text) - ascii_only

    @property
    def tokens(self) -> int:
        return -(-self._ascii // _ASCII_PER_TOKEN) + self._other


def count_prompt(request: Work) -> int:
    """Tokens of the request's text and tools; images, audio and files count nothing here."""
    match request:
        case GenerationRequest():
            return _count_turns(request)
        case EmbeddingRequest():
            return sum(map(count_input, request.inputs))
        case ModerationRequest():
            counter = TokenCounter()
            for content in request.inputs:
                for part in content:
                    counter.add(_text_of(part))
            return counter.tokens
        case _:
            assert_never(request)


def count_input(given: str | tuple[int, ...]) -> int:
    """Tokens of one text, or of one that comes as tokens."""
    if not isinstance(given, str):
        return len(given)
    counter = TokenCounter()
    counter.add(given)
    return counter.tokens


def _count_turns(request: GenerationRequest) -> int:
    counter = TokenCounter()
    for turn in request.turns:
        for part in turn.parts:
            counter.add(_text_of(part))
    for tool in request.tools:
        if isinstance(tool, FunctionTool):
            counter.add(tool.name + (tool.description or ""))
            counter.add(bytes(tool.parameters or b"").decode())
    return counter.tokens + _TOKENS_PER_TURN * len(request.turns)


def _text_of(part: Part) -> str:
    match part:
        case Text() | Refusal() | Reasoning():
            return part.text
        case ToolCall():
            return part.name + part.arguments
        case ToolResult():
            return "".join(piece.text for piece in part.content if isinstance(piece, Text))
        case _:
            return ""
