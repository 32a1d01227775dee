"""The JSON body of a chat completion request, field by field as OpenAI names them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from rest_bridge.chat_messages import Message, TextPart
from rest_bridge.extras import ExtrasBody
from rest_bridge.guardrail import ModerationOptions
from rest_bridge.json import ABSENT
from server.domain.request import RawJson

_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Fields that are not listed are errors; a null counts as absent where the field may be absent."""


class _Function(_Strict, frozen=True, kw_only=True):
    name: str
    description: str | None = None
    parameters: RawJson = ABSENT
    strict: bool | None = None


class FunctionToolBody(_Strict, frozen=True, kw_only=True, tag_field="type", tag="function"):
    function: _Function


class _Custom(_Strict, frozen=True, kw_only=True):
    name: str
    description: str | None = None
    format: RawJson = ABSENT


class CustomToolBody(_Strict, frozen=True, kw_only=True, tag_field="type", tag="custom"):
    custom: _Custom


class _Named(_Strict, frozen=True, kw_only=True):
    name: str


class ChooseFunction(_Strict, frozen=True, kw_only=True, tag_field="type", tag="function"):
    function: _Named


class ChooseCustom(_Strict, frozen=True, kw_only=True, tag_field="type", tag="custom"):
    custom: _Named


class _AllowedTools(_Strict, frozen=True, kw_only=True):
    mode: Literal["auto", "required"]
    tools: tuple[dict[str, RawJson], ...]


class ChooseAllowed(_Strict, frozen=True, kw_only=True, tag_field="type", tag="allowed_tools"):
    allowed_tools: _AllowedTools


class TextFormat(_Strict, frozen=True, kw_only=True, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(_Strict, frozen=True, kw_only=True, tag_field="type", tag="json_object"):
    pass


class _Schema(_Strict, frozen=True, kw_only=True):
    name: str
    schema: RawJson
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(_Strict, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    json_schema: _Schema


class StreamOptions(_Strict, frozen=True, kw_only=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Prediction(_Strict, frozen=True, kw_only=True, tag_field="type", tag="content"):
    content: str | tuple[TextPart, ...]


class _CacheOptions(_Strict, frozen=True, kw_only=True):
    mode: str | None = None
    ttl: str | None = None


class _Place(_Strict, frozen=True, kw_only=True):
    city: str | None = None
    country: str | None = None
    region: str | None = None
    timezone: str | None = None


class _Location(_Strict, frozen=True, kw_only=True, tag_field="type", tag="approximate"):
    approximate: _Place


class _WebSearch(_Strict, frozen=True, kw_only=True):
    search_context_size: str | None = None
    user_location: _Location | None = None


class ChatBody(ExtrasBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/chat/completions`. A null counts as absent, except in `model` and `messages`."""

    model: str
    messages: tuple[Message, ...]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: _Integer | None = None
    stop: str | tuple[str, ...] | None = None
    max_tokens: _Integer | None = None
    max_completion_tokens: _Integer | None = None
    n: _Integer | None = None
    logprobs: bool | None = None
    top_logprobs: _Integer | None = None
    logit_bias: dict[str, int | float] | None = None
    tools: tuple[FunctionToolBody | CustomToolBody, ...] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChooseFunction | ChooseCustom | ChooseAllowed | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    reasoning_effort: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: _CacheOptions | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    moderation: ModerationOptions | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    modalities: tuple[Literal["text", "audio"], ...] | None = None
    prediction: _Prediction | None = None
    web_search_options: _WebSearch | None = None
    audio: RawJson = ABSENT
    functions: RawJson = ABSENT
    function_call: RawJson = ABSENT
