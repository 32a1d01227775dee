"""The shapes of the events of chat completions and of messages, and of the blocks that a message holds.

The encoders of streams write bytes; tests hold what they write to these types, and the OpenAPI description is made of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from rest_bridge.chat_encode import ChatUsage
from rest_bridge.messages_encode import MessagesUsage
from server.domain.usage import Meta


class ChatDeltaFunction(msgspec.Struct, frozen=True):
    """`name` comes with the first piece of a call, `arguments` piece by piece."""

    arguments: str
    name: str | msgspec.UnsetType = msgspec.UNSET


class ChatDeltaCustom(msgspec.Struct, frozen=True):
    input: str
    name: str | msgspec.UnsetType = msgspec.UNSET


class ChatDeltaToolCall(msgspec.Struct, frozen=True):
    """`id` and `type` come with the first piece of a call."""

    index: int
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: Literal["function", "custom"] | msgspec.UnsetType = msgspec.UNSET
    function: ChatDeltaFunction | msgspec.UnsetType = msgspec.UNSET
    custom: ChatDeltaCustom | msgspec.UnsetType = msgspec.UNSET


class ChatDelta(msgspec.Struct, frozen=True):
    """What a chunk adds to the message of its choice."""

    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET
    refusal: str | msgspec.UnsetType | None = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning_signature: str | msgspec.UnsetType = msgspec.UNSET
    annotations: tuple[Mapping[str, Any], ...] | msgspec.UnsetType = msgspec.UNSET
    tool_calls: tuple[ChatDeltaToolCall, ...] | msgspec.UnsetType = msgspec.UNSET


class ChatDeltaLogprobs(msgspec.Struct, frozen=True):
    content: tuple[Mapping[str, Any], ...] | None
    refusal: tuple[Mapping[str, Any], ...] | None


class ChatChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: ChatDelta
    logprobs: ChatDeltaLogprobs | None
    finish_reason: str | None


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed chat completion. `usage` is null but in the last, which has no choices."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str | None
    choices: tuple[ChatChunkChoice, ...]
    usage: ChatUsage | msgspec.UnsetType | None = msgspec.UNSET
    service_tier: str | msgspec.UnsetType | None = msgspec.UNSET
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


class MessageText(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str
    citations: tuple[Mapping[str, Any], ...] | None


class MessageThinking(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """Send it back as it came."""

    thinking: str
    signature: str


class MessageRedactedThinking(msgspec.Struct, frozen=True, tag_field="type", tag="redacted_thinking"):
    data: str


class MessageToolUse(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """`partial_json` holds what there is of arguments that the output limit cut."""

    id: str
    name: str
    input: Mapping[str, Any]
    partial_json: str | msgspec.UnsetType = msgspec.UNSET


MessageBlock = MessageText | MessageThinking | MessageRedactedThinking | MessageToolUse


class MessageBegun(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it begins."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: tuple[MessageBlock, ...]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessagesUsage


class MessageStartEvent(msgspec.Struct, frozen=True, tag_field="type", tag="message_start"):
    message: MessageBegun


class BlockStartEvent(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: MessageBlock


class TextBlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    text: str


class InputJsonBlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    partial_json: str


class ThinkingBlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureBlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="signature_delta"):
    signature: str


class CitationsBlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="citations_delta"):
    citation: Mapping[str, Any]


class BlockDeltaEvent(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: TextBlockDelta | InputJsonBlockDelta | ThinkingBlockDelta | SignatureBlockDelta | CitationsBlockDelta


class BlockStopEvent(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    index: int


class MessageEnd(msgspec.Struct, frozen=True):
    stop_reason: str
    stop_sequence: str | None


class MessageDeltaEvent(msgspec.Struct, frozen=True, tag_field="type", tag="message_delta"):
    """How the message ended. Its usage takes the place of that in `message_start`."""

    delta: MessageEnd
    usage: MessagesUsage
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


class MessageStopEvent(msgspec.Struct, frozen=True, tag_field="type", tag="message_stop"):
    pass


class PingEvent(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    pass


MessageEvent = (
    MessageStartEvent
    | BlockStartEvent
    | BlockDeltaEvent
    | BlockStopEvent
    | MessageDeltaEvent
    | MessageStopEvent
    | PingEvent
)
