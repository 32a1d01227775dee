"""What is new in a request: what a moderation model is to judge before the request goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from server.domain.moderation import Content
from server.domain.request import (
    Audio,
    File,
    GenerationRequest,
    Image,
    Opaque,
    Part,
    Refusal,
    Role,
    Text,
    ToolResult,
    Turn,
)

_INSTRUCTIONS = (Role.SYSTEM, Role.DEVELOPER)


def newest(request: GenerationRequest) -> tuple[Content, tuple[str, ...]]:
    """The text and pictures of every user's and tool's turn after the model's last answer; and what else there is.

    An answer that the client has begun for the model is no answer, and counts as new. Instructions are the operator's
    own, and count only where there is nothing else.
    """
    turns = _after_the_answer(request.turns)
    own = [turn for turn in turns if turn.role not in _INSTRUCTIONS] or turns
    content: list[Text | Image] = []
    unchecked: dict[str, None] = {}
    for part in _pieces(own):
        match part:
            case Text(text=text) | Refusal(text=text):
                if text.strip():
                    content.append(Text(text))
            case Image(file_id=None):
                content.append(part)
            case Image():
                unchecked["image"] = None
            case Audio():
                unchecked["audio"] = None
            case File():
                unchecked["file"] = None
            case Opaque():
                unchecked[part.type] = None
            case _:
                pass
    return tuple(content), tuple(unchecked)


def _after_the_answer(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The last turns, from the first after an answer to which something was said."""
    end = len(turns)
    while end and turns[end - 1].role is Role.ASSISTANT:
        end -= 1
    start = end
    while start and turns[start - 1].role is not Role.ASSISTANT:
        start -= 1
    return turns[start:]


def _pieces(turns: Sequence[Turn]) -> Iterator[Part]:
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, ToolResult):
                yield from part.content
            else:
                yield part
