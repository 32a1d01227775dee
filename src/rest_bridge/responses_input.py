"""The `input` of a Responses request as turns, one an item. Everything raises GatewayError naming what is wrong."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeVar

import msgspec

from rest_bridge.content import (
    CacheBreakpoint,
    check_base64,
    check_web_url,
    decode_file_data,
    decode_image_url,
    refuse_breakpoint,
)
from rest_bridge.json import ABSENT, decode_value, invalid, is_set, unsupported
from server.domain.limits import IMAGE_DETAILS, MAX_SHOWN_CHARS, check_choice, missing_field
from server.domain.request import (
    Audio,
    File,
    Image,
    Opaque,
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

T = TypeVar("T")

NATIVE_ITEMS: Final = frozenset(
    {
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "compaction_trigger",
        "computer_call",
        "computer_call_output",
        "configuration_update",
        "file_search_call",
        "image_generation_call",
        "item_reference",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
"""Items that mean something only to a provider that speaks this API itself; they reach it as they are."""

_ANSWERS: Final = ("_output", "_response")
"""How the kinds end that tell a model what came of its call; all others but messages are the model's own."""
_ROLES: Final = frozenset(Role)

_Status = Literal["in_progress", "completed", "incomplete"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class _Part(_Strict, frozen=True, kw_only=True):
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class _InputText(_Part, tag="input_text", frozen=True, kw_only=True):
    text: str


class _InputImage(_Part, tag="input_image", frozen=True, kw_only=True):
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class _InputFile(_Part, tag="input_file", frozen=True, kw_only=True):
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None
    detail: Literal["auto", "low", "high"] | None = None


class _AudioData(_Strict, frozen=True, kw_only=True):
    data: str
    format: Literal["wav", "mp3"]


class _InputAudio(_Strict, tag="input_audio", frozen=True, kw_only=True):
    input_audio: _AudioData


class _OutputText(_Strict, tag="output_text", frozen=True, kw_only=True):
    """Citations and log probabilities come back with a client's copy of an answer; to a model they say nothing."""

    text: str
    annotations: msgspec.Raw = ABSENT
    logprobs: msgspec.Raw = ABSENT


class _OutputRefusal(_Strict, tag="refusal", frozen=True, kw_only=True):
    refusal: str


_InputPart = _InputText | _InputImage | _InputFile | _InputAudio
_AnyPart = _InputPart | _OutputText | _OutputRefusal


class _Message(_Strict, frozen=True, kw_only=True):
    role: Literal["user", "system", "developer"]
    content: str | tuple[_InputPart, ...]
    type: Literal["message"] | None = None
    id: str | None = None
    status: _Status | None = None
    phase: str | None = None


class _AssistantMessage(_Strict, frozen=True, kw_only=True):
    role: Literal["assistant"]
    content: str | tuple[_OutputText | _OutputRefusal | _InputText, ...]
    type: Literal["message"] | None = None
    id: str | None = None
    status: _Status | None = None
    phase: str | None = None


class _Call(_Strict, rename={"is_async": "async"}, frozen=True, kw_only=True):
    """`caller`, `namespace` and `async` belong to tools that only a native provider runs."""

    type: str
    call_id: str
    name: str
    id: str | None = None
    status: _Status | None = None
    caller: msgspec.Raw = ABSENT
    namespace: str | None = None
    is_async: bool | None = None


class _FunctionCall(_Call, frozen=True, kw_only=True):
    arguments: str


class _CustomToolCall(_Call, frozen=True, kw_only=True):
    input: str


class _CallOutput(_Strict, frozen=True, kw_only=True):
    type: str
    call_id: str | None = None
    output: str | tuple[_InputText | _InputImage | _InputFile, ...]
    id: str | None = None
    status: _Status | None = None
    name: str | None = None
    caller: msgspec.Raw = ABSENT
    namespace: str | None = None


class _SummaryText(_Strict, frozen=True, kw_only=True):
    type: Literal["summary_text"]
    text: str


class _ReasoningText(_Strict, frozen=True, kw_only=True):
    type: Literal["reasoning_text"]
    text: str


class _ReasoningItem(_Strict, frozen=True, kw_only=True):
    type: str
    id: str | None = None
    summary: tuple[_SummaryText, ...] | None = None
    content: tuple[_ReasoningText, ...] | None = None
    encrypted_content: str | None = None
    status: _Status | None = None


class _Kind(msgspec.Struct, frozen=True):
    """What tells items apart."""

    type: str | None = None
    role: str | None = None
    id: str | None = None


ITEMS: Final = (_Message, _AssistantMessage, _FunctionCall, _CustomToolCall, _CallOutput, _ReasoningItem)
"""What an item of the input may be, besides the native ones."""


def _decoder(type_: type[T] | Any) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(type_)


_KIND: Final[msgspec.json.Decoder[_Kind]] = _decoder(_Kind)
_INPUT: Final[msgspec.json.Decoder[str | tuple[RawJson, ...]]] = _decoder(str | tuple[RawJson, ...])
_MESSAGE: Final[msgspec.json.Decoder[_Message]] = _decoder(_Message)
_ASSISTANT: Final[msgspec.json.Decoder[_AssistantMessage]] = _decoder(_AssistantMessage)
_FUNCTION_CALL: Final[msgspec.json.Decoder[_FunctionCall]] = _decoder(_FunctionCall)
_CUSTOM_CALL: Final[msgspec.json.Decoder[_CustomToolCall]] = _decoder(_CustomToolCall)
_CALL_OUTPUT: Final[msgspec.json.Decoder[_CallOutput]] = _decoder(_CallOutput)
_REASONING: Final[msgspec.json.Decoder[_ReasoningItem]] = _decoder(_ReasoningItem)


def decode_input(raw: RawJson) -> tuple[Turn, ...]:
    """Text, or a list of items."""
    items = decode_value(_INPUT, raw, "input")
    if isinstance(items, str):
        return (Turn(Role.USER, (Text(items),)),)
    return tuple(_item(item, f"input[{index}]") for index, item in enumerate(items))


def _item(raw: RawJson, param: str) -> Turn:
    kind = decode_value(_KIND, raw, param)
    match kind.type or ("item_reference" if kind.id and kind.role is None else "message"):
        case "message":
            return _message(raw, kind.role, param)
        case "function_call":
            call = decode_value(_FUNCTION_CALL, raw, param)
            return _call(call, call.arguments, raw, param)
        case "custom_tool_call":
            custom = decode_value(_CUSTOM_CALL, raw, param)
            return _call(custom, custom.input, raw, param, custom=True)
        case "function_call_output" | "custom_tool_call_output":
            return _call_output(raw, param)
        case "reasoning":
            return _reasoning(decode_value(_REASONING, raw, param))
        case known if known in NATIVE_ITEMS:
            return _native(known, raw, param, kind.role)
        case unknown:
            where = f"{param}.type"
            raise invalid(where, f'`{where}` must be the type of an input item, not "{unknown[:MAX_SHOWN_CHARS]}".')


def _native(kind: str, raw: RawJson, param: str, role: str | None = None) -> Turn:
    """`param` names what only a native provider understands, and `role` who speaks, where the item says so."""
    author = Role.TOOL if kind.endswith(_ANSWERS) else Role.ASSISTANT
    return Turn(Role(role) if role in _ROLES else author, (Opaque(kind, raw, param),))


def _message(raw: RawJson, role: str | None, param: str) -> Turn:
    if role == "assistant":
        said = decode_value(_ASSISTANT, raw, param)
        return Turn(Role.ASSISTANT, _content(said.content, param), phase=said.phase)
    message = decode_value(_MESSAGE, raw, param)
    return Turn(Role(message.role), _content(message.content, param), phase=message.phase)


def _content(content: str | tuple[_AnyPart, ...], param: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_part(part, f"{param}.content[{index}]") for index, part in enumerate(content))


def _part(part: _AnyPart, param: str) -> Text | Image | File | Audio | Refusal:
    match part:
        case _OutputText():
            return Text(part.text)
        case _OutputRefusal():
            return Refusal(part.refusal)
        case _InputAudio():
            audio = part.input_audio
            return Audio(check_base64(audio.data, f"{param}.input_audio.data"), audio.format)
        case _:
            return _input_part(part, param)


def _input_part(part: _InputText | _InputImage | _InputFile, param: str) -> Text | Image | File:
    refuse_breakpoint(part.prompt_cache_breakpoint, param)
    match part:
        case _InputText():
            return Text(part.text)
        case _InputImage():
            return _image(part, param)
        case _InputFile():
            return _file(part, param)


def _image(part: _InputImage, param: str) -> Image:
    if part.detail is not None:
        check_choice(part.detail, IMAGE_DETAILS, f"{param}.detail")
    if part.image_url is not None and part.file_id is not None:
        raise invalid(f"{param}.file_id", f"`{param}` must have either image_url or file_id, not both.")
    if part.image_url is not None:
        return decode_image_url(part.image_url, part.detail, f"{param}.image_url")
    if not part.file_id:
        raise missing_field(f"{param}.image_url")
    return Image(file_id=part.file_id, detail=part.detail)


def _file(part: _InputFile, param: str) -> File:
    if part.detail not in (None, "auto"):
        raise unsupported(f"{param}.detail", f"`{param}.detail` is not supported: leave it out.")
    sources = {"file_data": part.file_data, "file_url": part.file_url, "file_id": part.file_id}
    given = [name for name, value in sources.items() if value]
    if not given:
        raise missing_field(f"{param}.file_data")
    if len(given) > 1:
        raise invalid(f"{param}.{given[1]}", f"`{param}` must have one of {', '.join(sources)}, not several.")
    if part.file_data:
        return decode_file_data(part.file_data, part.filename, f"{param}.file_data")
    if part.file_url:
        return File(url=check_web_url(part.file_url, f"{param}.file_url"), filename=part.filename)
    return File(file_id=part.file_id, filename=part.filename)


def _call(call: _Call, arguments: str, raw: RawJson, param: str, *, custom: bool = False) -> Turn:
    for name, given in (
        ("caller", is_set(call.caller)),
        ("namespace", call.namespace is not None),
        ("async", call.is_async is not None),
    ):
        if given:
            return _native(call.type, raw, f"{param}.{name}")
    return Turn(Role.ASSISTANT, (ToolCall(call.call_id, call.name, arguments, custom, call.id),))


def _call_output(raw: RawJson, param: str) -> Turn:
    answer = decode_value(_CALL_OUTPUT, raw, param)
    for name, given in (
        ("caller", is_set(answer.caller)),
        ("namespace", answer.namespace is not None),
        ("name", answer.name is not None),
    ):
        if given:
            return _native(answer.type, raw, f"{param}.{name}")
    if not answer.call_id:
        raise missing_field(f"{param}.call_id")
    content: tuple[Text | Image | File, ...]
    if isinstance(answer.output, str):
        content = (Text(answer.output),)
    else:
        content = tuple(_input_part(part, f"{param}.output[{i}]") for i, part in enumerate(answer.output))
    return Turn(Role.TOOL, (ToolResult(answer.call_id, content, answer.type == "custom_tool_call_output"),))


def _reasoning(item: _ReasoningItem) -> Turn:
    thoughts = Reasoning(
        text="\n\n".join(piece.text for piece in item.content or ()),
        summary=tuple(piece.text for piece in item.summary or ()),
        encrypted=item.encrypted_content,
        item_id=item.id,
    )
    return Turn(Role.ASSISTANT, (thoughts,))
