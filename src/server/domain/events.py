"""What a provider says while it generates: one stream of events between all surfaces and all dialects.

A provider yields batches: every event that one read from the network brought, in order. A batch is never held back to
wait for more. Choices are numbered from 0 (`n` > 1 makes several), parts from 0 within their choice; a part is open
from its `PartStarted` to its `PartEnded`, and parts of one choice may be open at the same time (parallel tool calls).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from enum import StrEnum
from typing import TypeAlias

import msgspec

from server.domain.audio import Transcript
from server.domain.embedding import Embeddings
from server.domain.images import Images
from server.domain.moderation import Moderations
from server.domain.usage import Meta, Usage


class PartKind(StrEnum):
    TEXT = "text"
    REFUSAL = "refusal"
    REASONING = "reasoning"
    REASONING_SUMMARY = "reasoning_summary"
    TOOL_CALL = "tool_call"
    CUSTOM_TOOL_CALL = "custom_tool_call"


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    OTHER = "other"
    """A reason that the tables do not know; the provider's own word stands beside it."""


class Headroom(msgspec.Struct, frozen=True, gc=False):
    """What a provider says is left of the tightest of its rate limits: a share from 0 to 1, for `reset_s` seconds."""

    share: float
    reset_s: float


class Started(msgspec.Struct, frozen=True, gc=False):
    """The provider has accepted the request. Nothing visible yet. `request_id`: what it calls the request."""

    native_response_id: str | None = None
    provider_model: str | None = None
    system_fingerprint: str | None = None
    headroom: Headroom | None = None
    request_id: str | None = None


class PartStarted(msgspec.Struct, frozen=True, gc=False):
    """A part opens. `call_id` and `name` are set for tool calls, and are final. `phase` is that of a message's turn."""

    choice: int
    part: int
    kind: PartKind
    call_id: str = ""
    name: str = ""
    phase: str = ""


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More text of a text or refusal part. `logprobs` is a JSON array of OpenAI's token objects, or None."""

    choice: int
    part: int
    text: str
    logprobs: msgspec.Raw | None = None


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the model's reasoning. `signature` is opaque and must go back unchanged in a later turn."""

    choice: int
    part: int
    text: str
    signature: str = ""


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """More of a tool call's arguments (JSON text), or of a custom tool's input (free text)."""

    choice: int
    part: int
    arguments: str


class AnnotationAdded(msgspec.Struct, frozen=True):
    """A citation on a text part: a JSON object in the flat shape of the Responses API's annotations.

    Chat completions nest the fields of a `url_citation` under that name; its surface does so, and its decoders undo it.
    """

    choice: int
    part: int
    annotation: msgspec.Raw


class PartEnded(msgspec.Struct, frozen=True, gc=False):
    choice: int
    part: int


class OpaqueItem(msgspec.Struct, frozen=True):
    """A whole output item of a provider's built-in tool, as its JSON; only the Responses surface can carry it."""

    item: msgspec.Raw


class Produced(msgspec.Struct, frozen=True, gc=False):
    """The whole result of work that is no generation. A transcript may have come before, piece by piece, as text."""

    result: Embeddings | Moderations | Images | Transcript


class AudioDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the sound that was asked for, in its format; the pieces together are the file."""

    data: bytes


class ImagePartial(msgspec.Struct, frozen=True, gc=False):
    """An unfinished picture, as base64: the `partial`th (from 0) of the picture `index` (from 0)."""

    index: int
    partial: int
    data: str
    media_type: str


class ChoiceEnded(msgspec.Struct, frozen=True, gc=False):
    """A choice is complete. `native_reason` is the provider's own word.

    `stop_sequence` is the one of the request's that ended it, where the provider says so.
    """

    choice: int
    reason: FinishReason
    native_reason: str = ""
    stop_sequence: str | None = None


class UsageReported(msgspec.Struct, frozen=True, gc=False):
    """What the provider counted so far; each report replaces the one before."""

    usage: Usage
    service_tier: str | None = None


class Completed(msgspec.Struct, frozen=True, gc=False):
    """The provider finished properly. The last event of a provider's stream; a stream without it was cut."""


class Settled(msgspec.Struct, frozen=True):
    """The last event of the pipeline's stream: the generation is paid for and on record."""

    usage: Usage
    meta: Meta
    service_tier: str | None = None


ProviderEvent: TypeAlias = (
    Started
    | PartStarted
    | TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | AnnotationAdded
    | PartEnded
    | OpaqueItem
    | AudioDelta
    | ImagePartial
    | Produced
    | ChoiceEnded
    | UsageReported
    | Completed
)
GenerationEvent: TypeAlias = ProviderEvent | Settled

ProviderStream: TypeAlias = AsyncGenerator[Sequence[ProviderEvent], None]
GenerationStream: TypeAlias = AsyncGenerator[Sequence[GenerationEvent], None]


def is_visible(event: ProviderEvent) -> bool:
    """Whether a client would see this event as output, so that no other candidate may be tried after it."""
    match event:
        case TextDelta() | ReasoningDelta():
            return bool(event.text)
        case ToolCallDelta() | AnnotationAdded() | OpaqueItem() | AudioDelta() | ImagePartial() | Produced():
            return True
        case _:
            return False
