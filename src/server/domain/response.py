"""The response object of the Responses surface: what is asked for, what comes of it, and the events on the way.

Everything is as a client sees it, whichever edge it leaves by; `server.domain.response_stream` makes it of what
providers say. The names are OpenAI's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, TypeAlias

import msgspec

from server.domain.errors import GatewayError
from server.domain.request import GenerationRequest, RawJson
from server.domain.usage import Meta, Usage


class ResponseRequest(msgspec.Struct, frozen=True):
    """A response to be made.

    `generation` holds the new turns only. `previous_response_id` is as the client wrote it. `instructions` hold for
    this response alone. `meta`: whether the client asked for the `meta` object.
    """

    generation: GenerationRequest
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    metadata: Mapping[str, str] = {}
    meta: bool = False


class ResponseStatus(StrEnum):
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"


ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class OutputText(msgspec.Struct, frozen=True, tag="output_text"):
    """`annotations` are JSON objects in OpenAI's shape, `logprobs` OpenAI's token objects, one a token."""

    text: str = ""
    annotations: tuple[RawJson, ...] = ()
    logprobs: tuple[RawJson, ...] = ()


class OutputRefusal(msgspec.Struct, frozen=True, tag="refusal"):
    refusal: str = ""


class ReasoningText(msgspec.Struct, frozen=True, tag="reasoning_text"):
    text: str = ""


class SummaryText(msgspec.Struct, frozen=True, tag="summary_text"):
    text: str = ""


OutputPart: TypeAlias = OutputText | OutputRefusal | ReasoningText | SummaryText


class MessageItem(msgspec.Struct, frozen=True, tag="message"):
    """`phase` is the provider's word, to be sent back with the message."""

    id: str
    status: ItemStatus
    content: tuple[OutputText | OutputRefusal, ...] = ()
    phase: str | None = None


class ReasoningItem(msgspec.Struct, frozen=True, tag="reasoning"):
    """`encrypted_content` is opaque, and must come back unchanged for the model to go on from it."""

    id: str
    status: ItemStatus
    summary: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    encrypted_content: str | None = None


class ToolCallItem(msgspec.Struct, frozen=True, tag="tool_call"):
    """`arguments` is JSON text as the model wrote it; free text where `custom`."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str = ""
    custom: bool = False


class OpaqueOutput(msgspec.Struct, frozen=True, tag="opaque"):
    """An item of a provider's built-in tool, as its JSON."""

    item: RawJson


OutputItem: TypeAlias = MessageItem | ReasoningItem | ToolCallItem | OpaqueOutput


class ResponseFailure(msgspec.Struct, frozen=True):
    """Why a response failed: `code` is an `ErrorCode`, `message` a sentence for a person."""

    code: str
    message: str
    param: str | None = None


class Response(msgspec.Struct, frozen=True):
    """A response. Times are in seconds since 1970; `completed_at` is set where it was completed.

    `echo` is the request as the response repeats it: JSON by the name of OpenAI's field. `incomplete_reason` is
    `max_output_tokens`, `content_filter`, or a provider's own word. `wants_meta` and `wants_logprobs` say what the
    client asked to see; what it did not ask for is kept all the same.
    """

    suffix: str
    created_at: int
    status: ResponseStatus
    model: str
    output: tuple[OutputItem, ...] = ()
    completed_at: int | None = None
    usage: Usage | None = None
    meta: Meta | None = None
    service_tier: str | None = None
    error: ResponseFailure | None = None
    incomplete_reason: str | None = None
    previous_response_id: str | None = None
    metadata: Mapping[str, str] = {}
    echo: Mapping[str, RawJson] = {}
    wants_meta: bool = False
    wants_logprobs: bool = False

    @property
    def id(self) -> str:
        return f"resp_{self.suffix}"


class EventType(StrEnum):
    CREATED = "response.created"
    IN_PROGRESS = "response.in_progress"
    OUTPUT_ITEM_ADDED = "response.output_item.added"
    OUTPUT_ITEM_DONE = "response.output_item.done"
    CONTENT_PART_ADDED = "response.content_part.added"
    CONTENT_PART_DONE = "response.content_part.done"
    OUTPUT_TEXT_DELTA = "response.output_text.delta"
    OUTPUT_TEXT_DONE = "response.output_text.done"
    OUTPUT_TEXT_ANNOTATION_ADDED = "response.output_text.annotation.added"
    REFUSAL_DELTA = "response.refusal.delta"
    REFUSAL_DONE = "response.refusal.done"
    REASONING_TEXT_DELTA = "response.reasoning_text.delta"
    REASONING_TEXT_DONE = "response.reasoning_text.done"
    REASONING_SUMMARY_PART_ADDED = "response.reasoning_summary_part.added"
    REASONING_SUMMARY_PART_DONE = "response.reasoning_summary_part.done"
    REASONING_SUMMARY_TEXT_DELTA = "response.reasoning_summary_text.delta"
    REASONING_SUMMARY_TEXT_DONE = "response.reasoning_summary_text.done"
    FUNCTION_CALL_ARGUMENTS_DELTA = "response.function_call_arguments.delta"
    FUNCTION_CALL_ARGUMENTS_DONE = "response.function_call_arguments.done"
    CUSTOM_TOOL_CALL_INPUT_DELTA = "response.custom_tool_call_input.delta"
    CUSTOM_TOOL_CALL_INPUT_DONE = "response.custom_tool_call_input.done"
    COMPLETED = "response.completed"
    INCOMPLETE = "response.incomplete"
    FAILED = "response.failed"
    ERROR = "error"


class LifecycleEvent(msgspec.Struct, frozen=True):
    """The response as a whole: created, in progress, completed, incomplete or failed."""

    type: EventType
    sequence_number: int
    response: Response


class ItemEvent(msgspec.Struct, frozen=True):
    """An output item opens or is done."""

    type: EventType
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(msgspec.Struct, frozen=True):
    """A part opens or is done. `part_index` counts in its item's content, or in its summary for a summary part."""

    type: EventType
    sequence_number: int
    item_id: str
    output_index: int
    part_index: int
    part: OutputPart


class DeltaEvent(msgspec.Struct, frozen=True, gc=False):
    """More of a text. `part_index` is 0 for tool calls."""

    type: EventType
    sequence_number: int
    item_id: str
    output_index: int
    part_index: int
    delta: str
    logprobs: tuple[RawJson, ...] = ()


class DoneEvent(msgspec.Struct, frozen=True):
    """The whole of a text. `name` is a tool call's."""

    type: EventType
    sequence_number: int
    item_id: str
    output_index: int
    part_index: int
    text: str
    logprobs: tuple[RawJson, ...] = ()
    name: str = ""


class AnnotationEvent(msgspec.Struct, frozen=True):
    """A citation on a text part."""

    type: EventType
    sequence_number: int
    item_id: str
    output_index: int
    part_index: int
    annotation_index: int
    annotation: RawJson


class ErrorEvent(msgspec.Struct, frozen=True):
    """What went wrong in mid-stream; the failed response follows."""

    type: EventType
    sequence_number: int
    error: GatewayError


ResponseEvent: TypeAlias = (
    LifecycleEvent | ItemEvent | PartEvent | DeltaEvent | DoneEvent | AnnotationEvent | ErrorEvent
)
