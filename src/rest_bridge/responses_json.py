"""The shape of a response and of its events, as `rest_bridge.responses_encode` writes them.

The encoder writes dictionaries and bytes, for what a client sent is repeated as it was; tests hold its every reply to
these types, and the OpenAPI description is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from rest_bridge.pricing_json import PricingJson
from server.domain.usage import Meta

Status = Literal["in_progress", "completed", "incomplete", "failed"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class ResponseInputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int


class ResponseOutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    """What a response used, and what it cost."""

    input_tokens: int
    input_tokens_details: ResponseInputDetails
    output_tokens: int
    output_tokens_details: ResponseOutputDetails
    total_tokens: int
    pricing: PricingJson


class OutputTextPart(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """`logprobs` are there where `include` asked for them."""

    text: str
    annotations: tuple[Mapping[str, Any], ...]
    logprobs: tuple[Mapping[str, Any], ...] | msgspec.UnsetType = msgspec.UNSET


class OutputRefusalPart(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    refusal: str


class ReasoningTextPart(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


class SummaryTextPart(msgspec.Struct, frozen=True, tag_field="type", tag="summary_text"):
    text: str


class OutputMessage(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """`phase` is there where the provider gave one: `commentary` on the way, or the `final_answer`. Send it back."""

    id: str
    status: ItemStatus
    role: Literal["assistant"]
    content: tuple[OutputTextPart | OutputRefusalPart, ...]
    phase: str | msgspec.UnsetType = msgspec.UNSET


class OutputReasoning(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """Send it back as it came, so that the model can go on from it."""

    id: str
    status: ItemStatus
    summary: tuple[SummaryTextPart, ...]
    content: tuple[ReasoningTextPart, ...]
    encrypted_content: str | None


class OutputFunctionCall(msgspec.Struct, frozen=True, tag_field="type", tag="function_call"):
    """`arguments` is JSON text as the model wrote it."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class OutputCustomToolCall(msgspec.Struct, frozen=True, tag_field="type", tag="custom_tool_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    input: str


class OutputOther(msgspec.Struct, frozen=True):
    """An item of a tool that the provider ran itself, such as `web_search_call`, as the provider wrote it."""

    type: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"not": {"enum": ["message", "reasoning", "function_call", "custom_tool_call"]}}
        ),
    ]


OutputItem = OutputMessage | OutputReasoning | OutputFunctionCall | OutputCustomToolCall
"""And `OutputOther`, which has no tag of its own."""


class ResponseError(msgspec.Struct, frozen=True):
    code: str
    message: str
    param: str | None


class IncompleteDetails(msgspec.Struct, frozen=True):
    """`reason` is `max_output_tokens`, `content_filter`, or a provider's own word."""

    reason: str


class ReasoningEcho(msgspec.Struct, frozen=True):
    effort: str | None
    summary: str | None


class TextEcho(msgspec.Struct, frozen=True):
    format: Mapping[str, Any]
    verbosity: str | msgspec.UnsetType = msgspec.UNSET


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """A response. From `instructions` on it repeats what was asked for."""

    id: str
    object: str = "response"
    created_at: int
    status: Status
    completed_at: int | None
    model: str
    output: tuple[OutputItem, ...]
    usage: ResponseUsage | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    previous_response_id: str | None
    metadata: Mapping[str, str]
    service_tier: str | None
    instructions: str | None
    max_output_tokens: int | None
    parallel_tool_calls: bool
    reasoning: ReasoningEcho
    store: bool
    temperature: float | None
    text: TextEcho
    tool_choice: str | Mapping[str, Any]
    tools: tuple[Mapping[str, Any], ...]
    top_logprobs: int | None
    top_p: float | None
    background: bool | None
    max_tool_calls: int | None
    prompt: Mapping[str, Any] | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    safety_identifier: str | None
    truncation: str | None
    user: str | None
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


class ResponseDeletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "response"
    deleted: bool = True


class ResponseLifecycleEvent(msgspec.Struct, frozen=True):
    """The response as a whole: first as it begins, last as it ended."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    sequence_number: int
    response: ResponseObject


class ResponseItemEvent(msgspec.Struct, frozen=True):
    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


class ResponsePartEvent(msgspec.Struct, frozen=True):
    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputTextPart | OutputRefusalPart | ReasoningTextPart


class ResponseSummaryPartEvent(msgspec.Struct, frozen=True):
    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int
    part: SummaryTextPart


class ResponseDeltaEvent(msgspec.Struct, frozen=True):
    """More of a text, to be appended; `content_index` is not there for a tool's call."""

    type: Literal[
        "response.output_text.delta",
        "response.refusal.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
    ]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    content_index: int | msgspec.UnsetType = msgspec.UNSET
    summary_index: int | msgspec.UnsetType = msgspec.UNSET
    logprobs: tuple[Mapping[str, Any], ...] | msgspec.UnsetType = msgspec.UNSET


class ResponseDoneEvent(msgspec.Struct, frozen=True):
    """The whole of a text: in `refusal` of a refusal, in `arguments` or `input` of a tool's call, else in `text`."""

    type: Literal[
        "response.output_text.done",
        "response.refusal.done",
        "response.reasoning_text.done",
        "response.reasoning_summary_text.done",
        "response.function_call_arguments.done",
        "response.custom_tool_call_input.done",
    ]
    sequence_number: int
    item_id: str
    output_index: int
    text: str | msgspec.UnsetType = msgspec.UNSET
    refusal: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str | msgspec.UnsetType = msgspec.UNSET
    input: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    content_index: int | msgspec.UnsetType = msgspec.UNSET
    summary_index: int | msgspec.UnsetType = msgspec.UNSET
    logprobs: tuple[Mapping[str, Any], ...] | msgspec.UnsetType = msgspec.UNSET


class ResponseAnnotationEvent(msgspec.Struct, frozen=True):
    type: Literal["response.output_text.annotation.added"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    annotation_index: int
    annotation: Mapping[str, Any]


class ResponseErrorEvent(msgspec.Struct, frozen=True):
    """What went wrong in mid-stream; `response.failed` follows."""

    type: Literal["error"]
    sequence_number: int
    code: str
    message: str
    param: str | None
    error: Mapping[str, Any]


EVENTS: Final = (
    ResponseLifecycleEvent,
    ResponseItemEvent,
    ResponsePartEvent,
    ResponseSummaryPartEvent,
    ResponseDeltaEvent,
    ResponseDoneEvent,
    ResponseAnnotationEvent,
    ResponseErrorEvent,
)
