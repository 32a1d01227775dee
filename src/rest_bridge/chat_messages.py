"""The messages of a chat completion request: OpenAI's JSON, and how it becomes turns.

Everything raises GatewayError naming the field that is wrong (`messages[0].content[1].image_url.url`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias, TypeVar, assert_never

import msgspec

from rest_bridge.content import (
    CacheBreakpoint,
    check_base64,
    decode_file_data,
    decode_image_url,
    refuse_breakpoint,
)
from rest_bridge.json import ABSENT, invalid, is_set, unsupported
from server.domain.errors import GatewayError, Reason
from server.domain.request import (
    Audio,
    File,
    Image,
    Part,
    RawJson,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Fields that are not listed are errors; a null counts as absent where the field may be absent."""


class _Part(_Strict, frozen=True, kw_only=True, tag_field="type"):
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class TextPart(_Part, frozen=True, kw_only=True, tag="text"):
    text: str


class RefusalPart(_Part, frozen=True, kw_only=True, tag="refusal"):
    refusal: str


class _ImageUrl(_Strict, frozen=True, kw_only=True):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(_Part, frozen=True, kw_only=True, tag="image_url"):
    image_url: _ImageUrl


class _InputAudio(_Strict, frozen=True, kw_only=True):
    data: str
    format: Literal["wav", "mp3"]


class AudioPart(_Part, frozen=True, kw_only=True, tag="input_audio"):
    input_audio: _InputAudio


class _FileBody(_Strict, frozen=True, kw_only=True):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class FilePart(_Part, frozen=True, kw_only=True, tag="file"):
    file: _FileBody


class _FunctionCall(_Strict, frozen=True, kw_only=True):
    name: str
    arguments: str


class FunctionToolCall(_Strict, frozen=True, kw_only=True, tag_field="type", tag="function"):
    id: str
    function: _FunctionCall


class _CustomCall(_Strict, frozen=True, kw_only=True):
    name: str
    input: str


class CustomToolCall(_Strict, frozen=True, kw_only=True, tag_field="type", tag="custom"):
    id: str
    custom: _CustomCall


class _Message(_Strict, frozen=True, kw_only=True, tag_field="role"):
    name: str | None = None


class SystemMessage(_Message, frozen=True, kw_only=True, tag="system"):
    content: str | tuple[TextPart, ...]


class DeveloperMessage(_Message, frozen=True, kw_only=True, tag="developer"):
    content: str | tuple[TextPart, ...]


class UserMessage(_Message, frozen=True, kw_only=True, tag="user"):
    content: str | tuple[TextPart | ImagePart | AudioPart | FilePart, ...]


class AssistantMessage(_Message, frozen=True, kw_only=True, tag="assistant"):
    """`reasoning`, as some providers call it, is the same as `reasoning_content`."""

    content: str | tuple[TextPart | RefusalPart, ...] | None = None
    refusal: str | None = None
    tool_calls: tuple[FunctionToolCall | CustomToolCall, ...] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_signature: str | None = None
    annotations: RawJson = ABSENT
    audio: RawJson = ABSENT
    function_call: RawJson = ABSENT


class ToolMessage(_Message, frozen=True, kw_only=True, tag="tool"):
    content: str | tuple[TextPart, ...]
    tool_call_id: str


class FunctionMessage(_Message, frozen=True, kw_only=True, tag="function"):
    """Known, so that it can be refused by its name."""

    content: RawJson = ABSENT


Message: TypeAlias = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
_ContentPart: TypeAlias = TextPart | RefusalPart | ImagePart | AudioPart | FilePart
_PartT = TypeVar("_PartT", bound=_ContentPart)


def decode_messages(messages: Sequence[Message]) -> tuple[Turn, ...]:
    if not messages:
        raise invalid("messages", "`messages` must not be empty.")
    custom_calls = frozenset(
        call.id
        for message in messages
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls or ()
        if isinstance(call, CustomToolCall)
    )
    return tuple(_turn(message, f"messages[{index}]", custom_calls) for index, message in enumerate(messages))


def _turn(message: Message, param: str, custom_calls: frozenset[str]) -> Turn:
    match message:
        case UserMessage():
            return Turn(Role.USER, _content(message.content, param), message.name)
        case AssistantMessage():
            return Turn(Role.ASSISTANT, _said(message, param), message.name)
        case SystemMessage():
            return Turn(Role.SYSTEM, _texts(message.content, param), message.name)
        case DeveloperMessage():
            return Turn(Role.DEVELOPER, _texts(message.content, param), message.name)
        case ToolMessage():
            is_custom = message.tool_call_id in custom_calls
            result = ToolResult(message.tool_call_id, _texts(message.content, param), custom=is_custom)
            return Turn(Role.TOOL, (result,))  # a `name` only repeats that of the call which it answers
        case FunctionMessage():
            raise unsupported(f"{param}.role", f'`{param}.role`: "function" is out of use, send role "tool".')
        case _:
            assert_never(message)


def _said(message: AssistantMessage, param: str) -> tuple[Part, ...]:
    """What the assistant said, in the order in which models say it. `annotations` only decorate what is there."""
    if is_set(message.audio):
        raise unsupported(f"{param}.audio", f"`{param}.audio` is not supported: send the transcript as content.")
    if is_set(message.function_call):
        raise unsupported(f"{param}.function_call", f"`{param}.function_call` is out of use: send tool_calls.")
    parts: list[Part] = []
    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    if reasoning is not None or message.reasoning_signature:
        parts.append(Reasoning(text=reasoning or "", signature=message.reasoning_signature or ""))
    calls = [_tool_call(call) for call in message.tool_calls or ()]
    # An empty text beside tool calls is how some clients spell null, and some providers refuse it.
    if message.content is not None and not (message.content == "" and calls):
        parts += _content(message.content, param)
    if message.refusal is not None:
        parts.append(Refusal(message.refusal))
    parts += calls
    if not parts:
        param = f"{param}.content"
        raise GatewayError(Reason.MISSING_FIELD, f"`{param}` is required where there are no tool_calls.", param=param)
    return tuple(parts)


def _tool_call(call: FunctionToolCall | CustomToolCall) -> ToolCall:
    if isinstance(call, CustomToolCall):
        return ToolCall(call.id, call.custom.name, call.custom.input, custom=True)
    return ToolCall(call.id, call.function.name, call.function.arguments)


def _texts(content: str | tuple[TextPart, ...], param: str) -> tuple[Text, ...]:
    if isinstance(content, str):
        return (Text(content),)
    texts = []
    for part, where in _numbered(content, param):
        refuse_breakpoint(part.prompt_cache_breakpoint, where)
        texts.append(Text(part.text))
    return tuple(texts)


def _content(content: str | Sequence[_ContentPart], param: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_part(part, where) for part, where in _numbered(content, param))


def _numbered(content: Sequence[_PartT], param: str) -> Iterable[tuple[_PartT, str]]:
    """Each part of a message's content with its path."""
    if not content:
        raise invalid(f"{param}.content", f"`{param}.content` must not be empty.")
    return ((part, f"{param}.content[{index}]") for index, part in enumerate(content))


def _part(part: _ContentPart, param: str) -> Part:
    refuse_breakpoint(part.prompt_cache_breakpoint, param)
    match part:
        case TextPart():
            return Text(part.text)
        case RefusalPart():
            return Refusal(part.refusal)
        case ImagePart():
            return _image(part.image_url, f"{param}.image_url")
        case AudioPart():
            data = check_base64(part.input_audio.data, f"{param}.input_audio.data")
            return Audio(data, part.input_audio.format)
        case FilePart():
            return _file(part.file, f"{param}.file")
        case _:
            assert_never(part)


def _image(image: _ImageUrl, param: str) -> Image:
    return decode_image_url(image.url, image.detail, f"{param}.url")


def _file(file: _FileBody, param: str) -> File:
    match file.file_data, file.file_id:
        case str() as data, None:
            return decode_file_data(data, file.filename, f"{param}.file_data")
        case None, str() as file_id:
            return File(file_id=file_id, filename=file.filename)
        case _:
            raise invalid(param, f"`{param}` must have exactly one of file_data and file_id.")
