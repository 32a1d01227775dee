"""The JSON bodies of `POST /v1/messages` and `/v1/messages/count_tokens`, field by field as Anthropic names them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from rest_bridge.extras import ExtrasBody
from rest_bridge.guardrail import GuardrailBody
from rest_bridge.json import ABSENT
from rest_bridge.messages_blocks import CacheControl, MessageBody, Strict, TextBlock
from server.domain.request import RawJson

_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class CustomToolBody(Strict, frozen=True, kw_only=True):
    """A tool of the client's; every other `type` is one of Anthropic's own."""

    name: str
    input_schema: RawJson
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: tuple[str, ...] | None = None
    input_examples: tuple[RawJson, ...] | None = None


class _Choice(Strict, frozen=True, kw_only=True, tag_field="type"):
    pass


class _OneByOne(_Choice, frozen=True, kw_only=True):
    disable_parallel_tool_use: bool | None = None


class ChooseAuto(_OneByOne, frozen=True, kw_only=True, tag="auto"):
    pass


class ChooseAny(_OneByOne, frozen=True, kw_only=True, tag="any"):
    pass


class ChooseTool(_OneByOne, frozen=True, kw_only=True, tag="tool"):
    name: str


class ChooseNone(_Choice, frozen=True, kw_only=True, tag="none"):
    pass


class _Thinking(Strict, frozen=True, kw_only=True, tag_field="type"):
    pass


class _Shown(_Thinking, frozen=True, kw_only=True):
    display: Literal["summarized", "omitted"] | None = None


class ThinkingEnabled(_Shown, frozen=True, kw_only=True, tag="enabled"):
    budget_tokens: _Integer


class ThinkingAdaptive(_Shown, frozen=True, kw_only=True, tag="adaptive"):
    pass


class ThinkingDisabled(_Thinking, frozen=True, kw_only=True, tag="disabled"):
    pass


class ThinkingBetweenTools(_Thinking, frozen=True, kw_only=True, tag="between_tools"):
    """Known, so that it can be refused by its name."""


class JsonOutput(Strict, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    schema: RawJson


class OutputConfig(Strict, frozen=True, kw_only=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonOutput | None = None


class _Metadata(Strict, frozen=True, kw_only=True):
    user_id: str | None = None


class _Edit(msgspec.Struct, frozen=True):
    type: str
    keep: RawJson = ABSENT


class ContextManagement(Strict, frozen=True, kw_only=True):
    edits: tuple[_Edit, ...] | None = None


class _PromptBody(ExtrasBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What both bodies have: the prompt, and what shapes it. A null counts as absent, but in `model` and `messages`."""

    model: str
    messages: tuple[MessageBody, ...]
    system: str | tuple[TextBlock, ...] | None = None
    tools: tuple[RawJson, ...] | None = None
    tool_choice: ChooseAuto | ChooseAny | ChooseTool | ChooseNone | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | ThinkingBetweenTools | None = None
    output_config: OutputConfig | None = None
    output_format: JsonOutput | None = None
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    speed: Literal["standard", "fast"] | None = None
    mcp_servers: RawJson = ABSENT
    user_profile_id: RawJson = ABSENT
    workspace_id: RawJson = ABSENT


class CountTokensBody(_PromptBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/messages/count_tokens`."""


class MessagesBody(_PromptBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/messages`."""

    max_tokens: _Integer
    stream: bool | None = None
    stop_sequences: tuple[str, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: _Integer | None = None
    metadata: _Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    moderation: GuardrailBody | None = None
    container: RawJson = ABSENT
    diagnostics: RawJson = ABSENT
    inference_geo: RawJson = ABSENT
    thread: RawJson = ABSENT
