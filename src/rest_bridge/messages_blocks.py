"""The messages of an Anthropic request: its content blocks as JSON, and how they become turns.

One user message may hold results of tools and other content; each result is a turn of its own, in the client's order.
Everything raises GatewayError naming the field that is wrong (`messages[0].content[1].source.url`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from rest_bridge.content import check_base64, check_web_url
from rest_bridge.json import ABSENT, check_object, invalid, is_set, unsupported
from server.domain.request import (
    CacheMark,
    File,
    Image,
    Part,
    RawJson,
    Reasoning,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from server.domain.seals import sealed


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Fields that are not listed are errors; a null counts as absent where the field may be absent."""


class CacheControl(Strict, frozen=True, kw_only=True, tag_field="type", tag="ephemeral"):
    """`scope` is what agents add under a beta; the gateway keeps the caches of teams apart whatever it says."""

    scope: str | None = None
    ttl: Literal["5m", "1h"] | None = None


class _Block(Strict, frozen=True, kw_only=True, tag_field="type"):
    cache_control: CacheControl | None = None


class TextBlock(_Block, frozen=True, kw_only=True, tag="text"):
    """`citations` only decorate what the model itself said before."""

    text: str
    citations: RawJson = ABSENT


class _Base64(Strict, frozen=True, kw_only=True, tag_field="type", tag="base64"):
    media_type: str
    data: str


class _Url(Strict, frozen=True, kw_only=True, tag_field="type", tag="url"):
    url: str


class _FileId(Strict, frozen=True, kw_only=True, tag_field="type", tag="file"):
    file_id: str


class _PlainText(Strict, frozen=True, kw_only=True, tag_field="type", tag="text"):
    data: str
    media_type: Literal["text/plain"] = "text/plain"


class ImageBlock(_Block, frozen=True, kw_only=True, tag="image"):
    source: _Base64 | _Url | _FileId
    transformations: RawJson = ABSENT


class _Content(Strict, frozen=True, kw_only=True, tag_field="type", tag="content"):
    content: str | tuple[TextBlock | ImageBlock, ...]


class _Citations(Strict, frozen=True, kw_only=True):
    enabled: bool | None = None


class DocumentBlock(_Block, frozen=True, kw_only=True, tag="document"):
    source: _Base64 | _Url | _FileId | _PlainText | _Content
    citations: _Citations | None = None
    context: str | None = None
    title: str | None = None


class _Caller(msgspec.Struct, frozen=True):
    type: str


class ToolUseBlock(_Block, frozen=True, kw_only=True, tag="tool_use"):
    """`partial_json` is what an answer holds of arguments that were cut, and says nothing when it comes back."""

    id: str
    name: str
    input: RawJson
    caller: _Caller | None = None
    toolset_name: str | None = None
    partial_json: str | None = None


class ThinkingBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class RedactedBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="redacted_thinking"):
    data: str


class _Foreign(msgspec.Struct, frozen=True, tag_field="type"):
    """A block that belongs to a tool of Anthropic's own; known, so that it can be refused by its name."""


class SearchResultBlock(_Foreign, frozen=True, tag="search_result"):
    pass


class ServerToolUseBlock(_Foreign, frozen=True, tag="server_tool_use"):
    pass


class WebSearchResultBlock(_Foreign, frozen=True, tag="web_search_tool_result"):
    pass


class WebFetchResultBlock(_Foreign, frozen=True, tag="web_fetch_tool_result"):
    pass


class CodeResultBlock(_Foreign, frozen=True, tag="code_execution_tool_result"):
    pass


class BashResultBlock(_Foreign, frozen=True, tag="bash_code_execution_tool_result"):
    pass


class EditorResultBlock(_Foreign, frozen=True, tag="text_editor_code_execution_tool_result"):
    pass


class ToolSearchResultBlock(_Foreign, frozen=True, tag="tool_search_tool_result"):
    pass


class ContainerUploadBlock(_Foreign, frozen=True, tag="container_upload"):
    pass


class ToolReferenceBlock(_Foreign, frozen=True, tag="tool_reference"):
    pass


class BrowserStateBlock(_Foreign, frozen=True, tag="browser_state"):
    pass


ResultPiece: TypeAlias = (
    TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock | BrowserStateBlock
)


class ToolResultBlock(_Block, frozen=True, kw_only=True, tag="tool_result"):
    tool_use_id: str
    content: str | tuple[ResultPiece, ...] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


Block: TypeAlias = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
    | RedactedBlock
    | SearchResultBlock
    | ServerToolUseBlock
    | WebSearchResultBlock
    | WebFetchResultBlock
    | CodeResultBlock
    | BashResultBlock
    | EditorResultBlock
    | ToolSearchResultBlock
    | ContainerUploadBlock
)


class MessageBody(Strict, frozen=True, kw_only=True):
    role: Literal["user", "assistant", "system"]
    content: str | tuple[Block, ...]


_ALLOWED: Final[dict[str, tuple[type, ...]]] = {
    "user": (TextBlock, ImageBlock, DocumentBlock, ToolResultBlock),
    "assistant": (TextBlock, ThinkingBlock, RedactedBlock, ToolUseBlock),
    "system": (TextBlock,),
}


def decode_turns(system: str | Sequence[TextBlock] | None, messages: Sequence[MessageBody]) -> tuple[Turn, ...]:
    """The system prompt, if there is one, and the messages."""
    if not messages:
        raise invalid("messages", "`messages` must not be empty.")
    return (*_system(system), *(turn for index, message in enumerate(messages) for turn in _turns(message, index)))


def cache_mark(control: CacheControl | None) -> CacheMark | None:
    return None if control is None else CacheMark(control.ttl)


def _system(system: str | Sequence[TextBlock] | None) -> Iterator[Turn]:
    if isinstance(system, str):
        if system:
            yield Turn(Role.SYSTEM, (Text(system),))
    elif system:
        yield Turn(Role.SYSTEM, tuple(_text(block, f"system[{index}]") for index, block in enumerate(system)))


def _turns(message: MessageBody, index: int) -> Iterator[Turn]:
    """A message as turns: one, but for the results of tools, each of which is one by itself."""
    role = Role(message.role)
    param = f"messages[{index}].content"
    if isinstance(message.content, str):
        yield Turn(role, (Text(message.content),))
        return
    if not message.content:
        raise invalid(param, f"`{param}` must not be empty.")
    parts: list[Part] = []
    for number, block in enumerate(message.content):
        where = f"{param}[{number}]"
        if isinstance(block, _Foreign):
            raise _foreign(block, where)
        if not isinstance(block, _ALLOWED[message.role]):
            kind = block.__struct_config__.tag
            raise invalid(f"{where}.type", f'`{where}`: a message of role {message.role} cannot hold "{kind}".')
        if isinstance(block, ToolResultBlock):
            if parts:
                yield Turn(role, tuple(parts))
                parts = []
            yield Turn(Role.TOOL, (_tool_result(block, where),))
        else:
            parts += _parts(block, where)
    if parts:
        yield Turn(role, tuple(parts))


def _parts(block: Block, param: str) -> Sequence[Part]:
    match block:
        case TextBlock():
            return (_text(block, param),)
        case ImageBlock():
            return (_image(block, param),)
        case DocumentBlock():
            return tuple(_document(block, param))
        case ToolUseBlock():
            return (_tool_call(block, param),)
        case ThinkingBlock():
            return (Reasoning(text=block.thinking, signature=block.signature),)
        case RedactedBlock():
            return (Reasoning(signature=sealed("redacted", 0, block.data, first=True)),)
        case _:
            raise ValueError(f"{type(block).__name__} is not a part")


def _text(block: TextBlock, param: str) -> Text:
    return Text(block.text, cache_mark(block.cache_control))


def _image(block: ImageBlock, param: str) -> Image:
    if is_set(block.transformations):
        raise unsupported(f"{param}.transformations", f"`{param}.transformations` is not supported.")
    cache = cache_mark(block.cache_control)
    match block.source:
        case _Base64(media_type=media_type, data=data):
            if not media_type.startswith("image/"):
                where = f"{param}.source.media_type"
                raise invalid(where, f"`{where}` must be that of an image.")
            return Image(data=check_base64(data, f"{param}.source.data"), media_type=media_type, cache=cache)
        case _Url(url=url):
            return Image(url=check_web_url(url, f"{param}.source.url"), cache=cache)
        case _FileId(file_id=file_id):
            return Image(file_id=file_id, cache=cache)


def _document(block: DocumentBlock, param: str) -> Iterator[Text | Image | File]:
    """A document; plain text, which not every provider takes as a file, as text under its title."""
    if block.citations is not None and block.citations.enabled:
        raise unsupported(f"{param}.citations", f"`{param}.citations`: citations of documents are not supported.")
    cache = cache_mark(block.cache_control)
    if block.context:
        yield Text(block.context)
    match block.source:
        case _Base64(media_type=media_type, data=data):
            data = check_base64(data, f"{param}.source.data")
            yield File(data=data, media_type=media_type, filename=block.title, cache=cache)
        case _Url(url=url):
            yield File(url=check_web_url(url, f"{param}.source.url"), filename=block.title, cache=cache)
        case _FileId(file_id=file_id):
            yield File(file_id=file_id, filename=block.title, cache=cache)
        case _PlainText(data=text):
            yield from _titled(block.title)
            yield Text(text, cache)
        case _Content(content=str() as text):
            yield from _titled(block.title)
            yield Text(text, cache)
        case _Content(content=tuple() as pieces):
            yield from _titled(block.title)
            for index, piece in enumerate(pieces):
                where = f"{param}.source.content[{index}]"
                if index == len(pieces) - 1 and piece.cache_control is None:
                    piece = msgspec.structs.replace(piece, cache_control=block.cache_control)
                yield _text(piece, where) if isinstance(piece, TextBlock) else _image(piece, where)


def _titled(title: str | None) -> Iterator[Text]:
    if title:
        yield Text(title)


def _tool_call(block: ToolUseBlock, param: str) -> ToolCall:
    _check_toolset(block.toolset_name, param)
    if block.caller is not None and block.caller.type != "direct":
        raise unsupported(f"{param}.caller", f"`{param}.caller`: calls by Anthropic's own tools are not supported.")
    arguments = bytes(check_object(block.input, f"{param}.input")).decode()
    return ToolCall(block.id, block.name, arguments, cache=cache_mark(block.cache_control))


def _tool_result(block: ToolResultBlock, param: str) -> ToolResult:
    _check_toolset(block.toolset_name, param)
    if block.content is None or isinstance(block.content, str):
        content: tuple[Text | Image | File, ...] = (Text(block.content or ""),)
    else:
        content = tuple(_pieces(block.content, f"{param}.content")) or (Text(""),)
    is_error, cache = bool(block.is_error), cache_mark(block.cache_control)
    return ToolResult(block.tool_use_id, content, is_error=is_error, cache=cache)


def _pieces(content: Sequence[ResultPiece], param: str) -> Iterator[Text | Image | File]:
    for index, piece in enumerate(content):
        where = f"{param}[{index}]"
        match piece:
            case TextBlock():
                yield _text(piece, where)
            case ImageBlock():
                yield _image(piece, where)
            case DocumentBlock():
                yield from _document(piece, where)
            case _:
                raise _foreign(piece, where)


def _check_toolset(name: str | None, param: str) -> None:
    if name is not None:
        raise unsupported(f"{param}.toolset_name", f"`{param}.toolset_name`: Anthropic's toolsets are not supported.")


def _foreign(block: _Foreign, param: str) -> Exception:
    kind = block.__struct_config__.tag
    return unsupported(f"{param}.type", f'`{param}.type`: "{kind}" belongs to a tool of Anthropic\'s own.')
