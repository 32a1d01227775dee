"""What a prompt asks of a model beside parameters: that it takes pictures, sound or files, and that it has room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, assert_never

from server.domain.audio import SpeechRequest, TranscriptionRequest
from server.domain.catalog import Offer
from server.domain.embedding import EmbeddingRequest
from server.domain.errors import FailureCategory, GatewayError, Reason
from server.domain.images import ImageRequest
from server.domain.moderation import ModerationRequest
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
from server.domain.routing import Candidate, Route
from server.domain.tokens import count_input
from server.domain.video import VideoRequest
from server.domain.work import Work
from server.pipeline.counting import count_prompt

MOST_CHARS_PER_TOKEN: Final = 8
"""No usual text has fewer tokens than one for so many characters, in any script and with any tokeniser."""

_MEDIA: Final[dict[type, str]] = {Image: "image", Audio: "audio", File: "file"}
_SHOWING: Final = frozenset({*_MEDIA, ToolResult})
_BLOCKS: Final = {"image": "image", "audio": "audio", "file": "document"}


def media(request: Work) -> dict[str, str]:
    """The kinds of input beside text, as the catalogue calls them, each with the field where it stood first."""
    found: dict[str, str] = {}
    match request:
        case GenerationRequest():
            for number, turn in enumerate(request.turns):
                for part in turn.parts:
                    if type(part) in _SHOWING:
                        for kind in _kinds(part):
                            found.setdefault(kind, _place(kind, number, request.endpoint))
        case ModerationRequest():
            if any(isinstance(part, Image) for content in request.inputs for part in content):
                found["image"] = "input"
        case ImageRequest(images=images):
            if images:
                found["image"] = "image"
        case TranscriptionRequest():
            found["audio"] = "file"
        case VideoRequest(reference=reference):
            if reference is not None:
                found["image"] = "input_reference"
        case EmbeddingRequest() | SpeechRequest():
            pass
        case _:
            assert_never(request)
    return found


def made(request: Work) -> str | None:
    """The kind of output that a model must have to be of use, where its endpoint does not tell: None where it does.

    One word of the catalogue stands for all that has to do with sound, but a model that speaks hears nothing.
    """
    match request:
        case SpeechRequest():
            return "audio"
        case TranscriptionRequest():
            return "text"
        case _:
            return None


def makes(offer: Offer, kind: str) -> bool:
    """Whether it answers with such output; what the catalogue says nothing of may do so."""
    return offer.output_types is None or kind in offer.output_types


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


def room_for(left: Sequence[Candidate], request: Work) -> Callable[[Candidate], bool] | None:
    """Whether a candidate has room for the request; None where all have.

    Nobody is left out who might have it, unless another surely has: a prompt is taken for the least that it may come
    to, and the output that was asked for counts only as long as somebody has room for both, since less may do. Among
    offers of one model a prompt is taken for as long as it probably is: whichever gets it, the answer is the same.
    """
    lengths = [length for one in left if (length := one.offer.context_length) is not None]
    if not lengths:
        return None
    asked = (request.sampling.max_output_tokens or 1) if isinstance(request, GenerationRequest) else 0
    prompt = least_tokens(request)
    least, likely = 0, _likely(left, lengths, request, asked)
    if prompt + asked > min(lengths):
        fits = len(lengths) < len(left) or prompt + asked <= max(lengths)
        least = prompt + (asked if fits else 1)
    if not least and not likely:
        return None
    return lambda one: _has_room(one.offer.context_length, max(least, likely.get(one.model.id, 0)))


def _likely(left: Sequence[Candidate], lengths: Sequence[int], request: Work, asked: int) -> dict[str, int]:
    """For models whose offers differ, and one of which has room: the tokens that the request probably comes to."""
    if len(left) == 1 or (len(lengths) == len(left) and min(lengths) == max(lengths)):
        return {}
    by_model: dict[str, set[int | None]] = {}
    for one in left:
        by_model.setdefault(one.model.id, set()).add(one.offer.context_length)
    differing = {id_: found for id_, found in by_model.items() if len(found) > 1}
    if not differing:
        return {}
    tokens = _likely_tokens(request) + asked
    return {id_: tokens for id_, found in differing.items() if any(_has_room(length, tokens) for length in found)}


def _has_room(length: int | None, tokens: int) -> bool:
    return length is None or length >= tokens


def longer_than(route: Route, refused: Candidate, category: FailureCategory) -> int:
    """The context that a provider found too short, where a candidate has a longer one; else 0."""
    length = refused.offer.context_length
    if category is not FailureCategory.CONTEXT_LENGTH or length is None:
        return 0
    return length if any((one.offer.context_length or 0) > length for one in route.candidates) else 0


def too_long(left: Sequence[Candidate], request: Work) -> GatewayError:
    longest = max(candidate.offer.context_length or 0 for candidate in left)
    return GatewayError(
        Reason.CONTEXT_LENGTH_EXCEEDED,
        f"The prompt is too long: at least {least_tokens(request)} tokens, and {longest} are the longest context of"
        f' "{left[0].model.id}" here. Shorten it or choose a model with a longer context.',
        param="messages" if request.endpoint in (Endpoint.CHAT, Endpoint.MESSAGES) else "input",
    )


def least_tokens(request: Work) -> int:
    """What the text of a prompt comes to at the least; pictures, sound and files count nothing.

    Of several inputs the longest counts: each has the context for itself. What is moderated has room everywhere, for
    who judges it may do so piece by piece.
    """
    match request:
        case GenerationRequest():
            return _least_of_turns(request)
        case EmbeddingRequest():
            return max(map(_least_of_input, request.inputs), default=0)
        case ModerationRequest() | ImageRequest() | SpeechRequest() | TranscriptionRequest() | VideoRequest():
            return 0
        case _:
            assert_never(request)


def _likely_tokens(request: Work) -> int:
    if isinstance(request, EmbeddingRequest):
        return max(map(count_input, request.inputs), default=0)
    return count_prompt(request) if isinstance(request, GenerationRequest) else 0


def _least_of_input(given: str | tuple[int, ...]) -> int:
    return len(given) // MOST_CHARS_PER_TOKEN if isinstance(given, str) else len(given)


def _least_of_turns(request: GenerationRequest) -> int:
    chars = 0
    for turn in request.turns:
        for part in turn.parts:
            chars += len(part.text) if type(part) is Text else _chars(part)
    for tool in request.tools:
        if isinstance(tool, FunctionTool):
            chars += len(tool.name) + len(tool.description or "")
    return chars // MOST_CHARS_PER_TOKEN


def _chars(part: Part) -> int:
    match part:
        case Refusal():
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
