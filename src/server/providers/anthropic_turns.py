"""Turns as the Messages API has them: user and assistant in alternation, each a list of content blocks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec

from server.domain.request import (
    CacheMark,
    Endpoint,
    File,
    GenerationRequest,
    Image,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from server.providers.anthropic_models import Abilities
from server.providers.anthropic_thinking import thinking_blocks
from server.providers.media import sniff_image

_SYSTEM: Final = (Role.SYSTEM, Role.DEVELOPER)
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PDF: Final = "application/pdf"
_PDF_START: Final = "JVBERi"
"""`%PDF` in base64."""
_TEXTS: Final = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".log", ".yaml", ".yml")

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])

Block = dict[str, Any]
_Value = TypeVar("_Value")


def encode_turns(request: GenerationRequest, able: Abilities) -> tuple[list[Block], list[dict[str, Any]]]:
    """The blocks of the system prompt, and the messages.

    System turns that come first are the prompt; later ones stay where they are, in a user's name where the model knows
    no other. Turns of one role in a row are one message, in which results of tools come first.
    """
    system: list[Block] = []
    messages: list[dict[str, Any]] = []
    calls = False  # whether the last message holds any, whose results must be all that comes next
    for turn in request.turns:
        if turn.role in _SYSTEM and not messages:
            system += _blocks(turn, request.endpoint)
            continue
        role = _role(turn.role, able)
        if role == "system" and calls:
            role = "user"
        blocks = _blocks(turn, request.endpoint)
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
            calls = False
        calls = calls or any(block["type"] == "tool_use" for block in blocks)
    messages = [message for message in map(_tidied, messages) if message["content"]]
    if not messages and system:
        return [], [{"role": "user", "content": system}]  # there must be something to answer
    return [block for block in system if not _is_blank(block)], messages


def _role(role: Role, able: Abilities) -> str:
    if role in _SYSTEM:
        return "system" if able.late_system else "user"
    return "assistant" if role is Role.ASSISTANT else "user"


def _tidied(message: dict[str, Any]) -> dict[str, Any]:
    """Results first, and no blank texts, which the API refuses; one that is all a user said is the API's to judge."""
    blocks: list[Block] = message["content"]
    said = [block for block in blocks if not _is_blank(block)]
    if not said and message["role"] != "assistant":
        said = blocks[:1]
    return {**message, "content": sorted(said, key=lambda block: block["type"] != "tool_result")}


def _is_blank(block: Block) -> bool:
    return block["type"] == "text" and not block["text"].strip()


def _blocks(turn: Turn, endpoint: Endpoint) -> list[Block]:
    return [block for part in turn.parts for block in _part(part, endpoint)]


def _part(part: Part, endpoint: Endpoint) -> Iterator[Block]:
    match part:
        case Text():
            yield _marked({"type": "text", "text": part.text}, part.cache)
        case Refusal():
            yield {"type": "text", "text": part.text}
        case Image():
            yield _marked({"type": "image", "source": _image_source(part)}, part.cache)
        case File():
            block = {"type": "document", "source": _present(file_source(part))}
            yield _marked({**block, "title": part.filename} if part.filename else block, part.cache)
        case Reasoning():
            yield from thinking_blocks(part, endpoint)
        case ToolCall():
            name, arguments = part.name, _present(call_input(part))
            call = {"type": "tool_use", "id": call_id(part.call_id), "name": name, "input": arguments}
            yield _marked(call, part.cache)
        case ToolResult():
            content = _content(part, endpoint)
            result = {"type": "tool_result", "tool_use_id": call_id(part.call_id), "content": content}
            yield _marked({**result, "is_error": True} if part.is_error else result, part.cache)
        case _:
            raise ValueError(f"messages cannot carry {type(part).__name__}")


def cache_control(mark: CacheMark) -> Block:
    return {"type": "ephemeral"} if mark.ttl is None else {"type": "ephemeral", "ttl": mark.ttl}


def _marked(block: Block, mark: CacheMark | None) -> Block:
    return block if mark is None else {**block, "cache_control": cache_control(mark)}


def _present(value: _Value | None) -> _Value:
    if value is None:
        raise ValueError("what cannot be said must be refused before")
    return value


def _content(result: ToolResult, endpoint: Endpoint) -> str | list[Block]:
    first = result.content[0] if len(result.content) == 1 else None
    if isinstance(first, Text) and first.cache is None:
        return first.text
    return [block for piece in result.content for block in _part(piece, endpoint) if not _is_blank(block)]


def _image_source(image: Image) -> Block:
    if image.url is not None and not image.url.startswith("data:"):
        return {"type": "url", "url": image.url}
    data, media_type = image.data or "", image.media_type
    if image.url is not None:
        label, _, data = image.url.partition(",")
        media_type = label.removeprefix("data:").partition(";")[0]
    return {"type": "base64", "media_type": sniff_image(data) or media_type or "image/png", "data": data}


def file_source(file: File) -> Block | None:
    """A PDF or a text; None for anything else, and for what only another account's store has."""
    if file.url is not None:
        return {"type": "url", "url": file.url}
    if file.data is None:
        return None
    if file.media_type == _PDF or (file.media_type is None and file.data.startswith(_PDF_START)):
        return {"type": "base64", "media_type": _PDF, "data": file.data}
    named_text = file.media_type is None and (file.filename or "").lower().endswith(_TEXTS)
    if not named_text and not (file.media_type or "").startswith("text/") and file.media_type != "application/json":
        return None
    try:
        text = base64.b64decode(file.data).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return {"type": "text", "media_type": "text/plain", "data": text}


def call_input(call: ToolCall) -> msgspec.Raw | None:
    """The arguments as a JSON object, written as the client wrote it; None where they are none."""
    if call.custom:
        return None
    text = call.arguments.strip() or "{}"
    try:
        _object.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return msgspec.Raw(text.encode())


def call_id(given: str) -> str:
    """An id that the API takes: another maker's is replaced by one that follows from it, in call and result alike."""
    if _CALL_ID.fullmatch(given):
        return given
    return f"toolu_{hashlib.sha256(given.encode()).hexdigest()[:24]}"
