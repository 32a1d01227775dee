"""What a client asks for, the same whatever surface it came in by and whatever dialect it leaves in.

Texts that must arrive as the client wrote them (tool and output schemas, parameters that only pass through) are
`RawJson`: the bytes of one JSON value, with its key order and number spelling. What a dialect cannot say it must refuse
with `unsupported_parameter`; nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Literal, TypeAlias

import msgspec

from server.domain.guardrail import Guardrail

RawJson: TypeAlias = msgspec.Raw


class Endpoint(StrEnum):
    """What a model can be offered for; the words of the catalogue."""

    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"
    MODERATIONS = "moderations"
    IMAGES = "images"
    AUDIO = "audio"
    VIDEO = "video"


GENERATING: Final = frozenset({Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES})
"""The surfaces of generations: what can be asked of a dialect at one of them can be asked at all."""


class Role(StrEnum):
    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class CacheMark(msgspec.Struct, frozen=True):
    """A client's mark: what goes before and up to here may be kept in the provider's prompt cache, for `ttl`.

    It is a hint. It changes what the prompt costs and never the reply, so a dialect without such marks leaves it out.
    """

    ttl: str | None = None


class Text(msgspec.Struct, frozen=True, tag="text", tag_field="part"):
    text: str
    cache: CacheMark | None = None


class Image(msgspec.Struct, frozen=True, tag="image", tag_field="part"):
    """One of `url` (passed on unfetched), `data` (base64, with `media_type`) or `file_id`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    file_id: str | None = None
    detail: str | None = None
    cache: CacheMark | None = None


class Audio(msgspec.Struct, frozen=True, tag="audio", tag_field="part"):
    """Base64 `data` in `format` (`wav`, `mp3`)."""

    data: str
    format: str


class File(msgspec.Struct, frozen=True, tag="file", tag_field="part"):
    """One of `url`, `data` (base64, with `media_type`) or `file_id`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    file_id: str | None = None
    filename: str | None = None
    cache: CacheMark | None = None


class Refusal(msgspec.Struct, frozen=True, tag="refusal", tag_field="part"):
    text: str


class Reasoning(msgspec.Struct, frozen=True, tag="reasoning", tag_field="part"):
    """Earlier reasoning sent back. `signature` and `encrypted` are opaque, and returned byte for byte."""

    text: str = ""
    summary: tuple[str, ...] = ()
    signature: str = ""
    encrypted: str | None = None
    item_id: str | None = None


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call", tag_field="part"):
    """A call that the model made. `arguments` is JSON text; free text where `custom`."""

    call_id: str
    name: str
    arguments: str
    custom: bool = False
    item_id: str | None = None
    cache: CacheMark | None = None


class ToolResult(msgspec.Struct, frozen=True, tag="tool_result", tag_field="part"):
    """What a tool answered to `call_id`. `is_error`: the tool failed, and this says how."""

    call_id: str
    content: tuple[Text | Image | File, ...]
    custom: bool = False
    is_error: bool = False
    cache: CacheMark | None = None


class Opaque(msgspec.Struct, frozen=True, tag="opaque", tag_field="part"):
    """An input item of a provider's built-in tool, as its JSON; only a native Responses upstream can take it.

    `type` is the item's own, `param` names where it stood in the request.
    """

    type: str
    item: RawJson
    param: str


Part: TypeAlias = Text | Image | Audio | File | Refusal | Reasoning | ToolCall | ToolResult | Opaque


class Turn(msgspec.Struct, frozen=True):
    """One message. A tool turn holds exactly one `ToolResult`, or a tool's answer that is `Opaque`.

    `phase` is OpenAI's word (`commentary`, `final_answer`) for what a message is in a longer answer. It is a hint: a
    dialect without it leaves it out.
    """

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    phase: str | None = None


class FunctionTool(msgspec.Struct, frozen=True):
    """A function the model may call. `parameters` is its JSON schema; None where the client sent none."""

    name: str
    description: str | None = None
    parameters: RawJson | None = None
    strict: bool | None = None
    cache: CacheMark | None = None


class CustomTool(msgspec.Struct, frozen=True):
    """A tool with free-text input; `format` is the JSON of its grammar."""

    name: str
    description: str | None = None
    format: RawJson | None = None


class BuiltInTool(msgspec.Struct, frozen=True):
    """A tool that the provider runs itself (`web_search`, `mcp`, …), as its JSON. `param` names where it stood."""

    type: str
    tool: RawJson
    param: str


Tool: TypeAlias = FunctionTool | CustomTool | BuiltInTool


class ToolChoice(msgspec.Struct, frozen=True):
    """`named` needs `name` (and `custom` where it is a custom tool); `allowed` carries the client's JSON."""

    mode: Literal["none", "auto", "required", "named", "allowed", "built_in"]
    name: str = ""
    custom: bool = False
    raw: RawJson | None = None


class OutputFormat(msgspec.Struct, frozen=True):
    """`schema`, `name`, `description` and `strict` belong to `json_schema`."""

    kind: Literal["text", "json_object", "json_schema"]
    name: str = ""
    schema: RawJson | None = None
    description: str | None = None
    strict: bool | None = None


class Sampling(msgspec.Struct, frozen=True):
    """None everywhere means: the provider's default, and nothing is sent."""

    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: RawJson | None = None


Thinking: TypeAlias = Literal["enabled", "adaptive", "disabled"]


class ReasoningOptions(msgspec.Struct, frozen=True):
    """`effort` is what every dialect with reasoning can say. `thinking` and `budget_tokens` are Anthropic's own words:

    `enabled` comes with a budget, and the effort that is nearest to it; `adaptive` leaves it to the model; `disabled`
    asks for none, where the model can be asked at all.
    """

    effort: str | None = None
    summary: str | None = None
    thinking: Thinking | None = None
    budget_tokens: int | None = None


class MaxPrice(msgspec.Struct, frozen=True):
    """The dearest acceptable price, in USD per million tokens, as decimal text."""

    prompt: str | None = None
    completion: str | None = None


Sort: TypeAlias = Literal["price", "latency", "throughput"]


class RoutingPreferences(msgspec.Struct, frozen=True):
    """The client's wishes about providers; `fallback_models` is tried in order after `model`."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    require_parameters: bool = True
    sort: Sort | None = None
    max_price: MaxPrice | None = None
    fallback_models: tuple[str, ...] = ()
    session_id: str | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What every request to a provider has, whatever it asks for; `server.domain.work` lists the kinds.

    `parameters` maps the canonical name (`server.domain.parameters`) of every parameter that the client set, and that a
    provider must honour, to the client's own spelling of it, so that an error can name the field.
    `passthrough` holds, by canonical name, the JSON of those that mean nothing to the gateway itself. `hints` are like
    it, but change nothing in the reply: a provider gets those that its offer lists, and goes without the others.
    `provider_options` holds, by provider id, JSON objects merged into that provider's request as they are.
    """

    endpoint: Endpoint
    model: str
    stream: bool = False
    parameters: Mapping[str, str] = {}
    passthrough: Mapping[str, RawJson] = {}
    hints: Mapping[str, RawJson] = {}
    provider_options: Mapping[str, Mapping[str, RawJson]] = {}
    routing: RoutingPreferences = RoutingPreferences()
    trace: bool = False


class GenerationRequest(Request, frozen=True, kw_only=True):
    """One generation to be made. `guardrail` is what the client asks for beside what its team has chosen."""

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    output_format: OutputFormat | None = None
    sampling: Sampling = Sampling()
    reasoning: ReasoningOptions | None = None
    cache: CacheMark | None = None
    guardrail: Guardrail | None = None
