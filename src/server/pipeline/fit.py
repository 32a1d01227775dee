"""What a prompt asks of a model beside parameters: that it takes pictures, sound or files, and that it has room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from server.domain.catalog import Offer
from server.domain.errors import GatewayError, Reason
from server.domain.request import (
    Audio,
    Endpoint,
    File,
    FunctionTool,
    GenerationRequest,
    Image,
    Part,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)
from server.domain.routing import Candidate

MOST_CHARS_PER_TOKEN: Final = 8
"""No usual text has fewer tokens than one for so many characters, in any script and with any tokeniser."""

_MEDIA: Final[dict[type, str]] = {Image: "image", Audio: "audio", File: "file"}
_BLOCKS: Final = {"image": "image", "audio": "audio", "file": "document"}


def media(request: GenerationRequest) -> dict[str, str]:
    """The kinds of input beside text, as the catalogue calls them, each with the field where it stood first."""
    found: dict[str, str] = {}
    for number, turn in enumerate(request.turns):
        for part in turn.parts:
            for kind in _kinds(part):
                found.setdefault(kind, _place(kind, number, request.endpoint))
    return found


def takes(offer: Offer, kinds: dict[str, str]) -> bool:
    """Whether all of these kinds may be sent to it; what the catalogue says nothing of may be."""
    return offer.input_types is None or kinds.keys() <= offer.input_types


def media_refused(left: Sequence[Candidate], kinds: dict[str, str]) -> GatewayError:
    """Name a kind that none takes; where each takes another one, the first that the first candidate does not."""
    known = [candidate.offer.input_types or frozenset() for candidate in left]
    missing = [kind for kind in kinds if not any(kind in types for types in known)]
    kind = missing[0] if missing else next(kind for kind in kinds if kind not in known[0])
    taken = ", ".join(sorted(frozenset[str]().union(*known)))
    text = f'No provider of "{left[0].model.id}" that is configured here takes this input ({kind}); they take {taken}.'
    return GatewayError(Reason.UNSUPPORTED_PARAMETER, text, param=kinds[kind])


def room_wanted(left: Sequence[Candidate], request: GenerationRequest) -> int:
    """Tokens that a context must hold at the least, 0 where any does.

    It is the prompt alone, taken so short that nothing is turned away which might fit. With the output that was asked
    for it counts only as long as some candidate has room for both: who asks for too much may get by with less.
    """
    lengths = [length for one in left if (length := one.offer.context_length) is not None]
    if not lengths:
        return 0
    prompt = least_tokens(request)
    both = prompt + (request.sampling.max_output_tokens or 1)
    if both <= min(lengths):
        return 0
    return both if len(lengths) < len(left) or both <= max(lengths) else prompt + 1


def has_room(offer: Offer, tokens: int) -> bool:
    return offer.context_length is None or offer.context_length >= tokens


def too_long(left: Sequence[Candidate], request: GenerationRequest) -> GatewayError:
    longest = max(candidate.offer.context_length or 0 for candidate in left)
    return GatewayError(
        Reason.CONTEXT_LENGTH_EXCEEDED,
        f"The prompt is too long: at least {least_tokens(request)} tokens, and {longest} are the longest context of"
        f' "{left[0].model.id}" here. Shorten it or choose a model with a longer context.',
        param="input" if request.endpoint is Endpoint.RESPONSES else "messages",
    )


def least_tokens(request: GenerationRequest) -> int:
    """What the text of a prompt comes to at the least; pictures, sound and files count nothing."""
    chars = 0
    for turn in request.turns:
        for part in turn.parts:
            chars += _chars(part)
    for tool in request.tools:
        if isinstance(tool, FunctionTool):
            chars += len(tool.name) + len(tool.description or "")
    return chars // MOST_CHARS_PER_TOKEN


def _chars(part: Part) -> int:
    match part:
        case Text() | Refusal():
            return len(part.text)
        case ToolCall():
            return len(part.name) + len(part.arguments)
        case ToolResult():
            return sum(len(piece.text) for piece in part.content if isinstance(piece, Text))
        case _:  # earlier reasoning too: many providers leave it out
            return 0


def _kinds(part: Part) -> Iterator[str]:
    kind = _MEDIA.get(type(part))
    if kind is not None:
        yield kind
    elif isinstance(part, ToolResult):
        yield from (_MEDIA[type(piece)] for piece in part.content if type(piece) in _MEDIA)


def _place(kind: str, number: int, endpoint: Endpoint) -> str:
    if endpoint is Endpoint.MESSAGES:
        return f"messages[].content[].{_BLOCKS[kind]}"
    return f"messages[{number}].content" if endpoint is Endpoint.CHAT else "input"
