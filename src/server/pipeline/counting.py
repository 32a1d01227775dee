"""Token counts of prompts, for when a provider reports none: estimates (`server.domain.tokens`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, assert_never

from server.domain.audio import SpeechRequest, TranscriptionRequest
from server.domain.embedding import EmbeddingRequest
from server.domain.images import ImageRequest
from server.domain.moderation import ModerationRequest
from server.domain.request import (
    Audio,
    BuiltInTool,
    File,
    FunctionTool,
    GenerationRequest,
    Image,
    Opaque,
    Part,
    RawJson,
    Reasoning,
    Refusal,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from server.domain.tokens import TokenCounter, count_input
from server.domain.video import VideoRequest
from server.domain.work import Work

TOKENS_PER_HEARD_SECOND: Final = 10
"""What OpenAI's models that transcribe count for sound."""

_TOKENS_PER_TURN: Final = 4

_SHOWING: Final = frozenset(
    {
        "code_interpreter_call",
        "computer_call_output",
        "custom_tool_call_output",
        "function_call_output",
        "image_generation",
        "image_generation_call",
    }
)
"""Items and tools of a provider's own that may hold media, under keys that mean nothing else there."""
_MEDIA: Final = re.compile(rb'"(data|file_data|file_url|image_url|result|url(?="\s*:\s*"data:))"\s*:\s*"([^"]*)"')


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


def media_of(kind: str, item: RawJson) -> Sequence[Image | Audio | File]:
    """What a model is shown beside text of an item or a tool that leaves as its JSON."""
    return [_medium(name, value.decode()) for name, value in _MEDIA.findall(bytes(item))] if kind in _SHOWING else ()


def _medium(name: bytes, value: str) -> Image | Audio | File:
    match name:
        case b"data":
            return Audio(value, "")
        case b"file_data":
            return File(data=value)
        case b"file_url":
            return File(url=value)
        case _:
            return Image()


def _count_turns(request: GenerationRequest) -> int:
    counter = TokenCounter()
    for turn in request.turns:
        for part in turn.parts:
            counter.add(part.text if type(part) is Text else _text_of(part))
    for tool in request.tools:
        counter.add(_text_of_tool(tool))
    if (wanted := request.output_format) is not None:
        counter.add(wanted.name + (wanted.description or "") + _text_of_json(wanted.schema))
    counter.add(_text_of_json(request.passthrough.get("prediction")))
    for options in request.provider_options.values():
        for value in options.values():
            counter.add(_text_of_json(value))
    return counter.tokens + _TOKENS_PER_TURN * len(request.turns)


def _text_of_tool(tool: Tool) -> str:
    match tool:
        case FunctionTool():
            return tool.name + (tool.description or "") + _text_of_json(tool.parameters)
        case BuiltInTool():
            return _text_in(tool.type, tool.tool)
        case _:
            return tool.name + (tool.description or "") + _text_of_json(tool.format)


def _text_of(part: Part) -> str:
    match part:
        case Text() | Refusal():
            return part.text
        case Reasoning():  # its seal holds the thoughts themselves, of which the rest may be a part or a summary
            return max("".join((part.text, *part.summary)), part.signature, part.encrypted or "", key=len)
        case ToolCall():
            return part.name + part.arguments
        case ToolResult():
            return "".join(_text_of(piece) for piece in part.content)
        case File():
            return part.filename or ""
        case Opaque():
            return _text_in(part.type, part.item)
        case _:
            return ""


def _text_in(kind: str, item: RawJson) -> str:
    """All but its media."""
    return _MEDIA.sub(b"", bytes(item)).decode() if kind in _SHOWING else _text_of_json(item)


def _text_of_json(raw: RawJson | None) -> str:
    return "" if raw is None else bytes(raw).decode()
