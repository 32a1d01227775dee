"""Token counts of prompts, for when a provider reports none: estimates (`server.domain.tokens`)."""

from __future__ import annotations

from typing import Final, assert_never

from server.domain.audio import SpeechRequest, TranscriptionRequest
from server.domain.embedding import EmbeddingRequest
from server.domain.images import ImageRequest
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
from server.domain.tokens import TokenCounter, count_input
from server.domain.video import VideoRequest
from server.domain.work import Work

TOKENS_PER_HEARD_SECOND: Final = 10
"""What OpenAI's models that transcribe count for sound."""

_TOKENS_PER_TURN: Final = 4


def count_sound(seconds: int) -> int:
    """Tokens of so much sound to be transcribed, beside those of `count_prompt`."""
    return TOKENS_PER_HEARD_SECOND * seconds


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
        case ImageRequest(prompt=text) | SpeechRequest(text=text) | VideoRequest(prompt=text):
            return count_input(text)
        case TranscriptionRequest(prompt=hint):
            return count_input(hint or "")
        case _:
            assert_never(request)


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
