"""What all teams share must not be reached through: ids that a provider gave out in the gateway's one account there.

A file, a conversation, a prompt or a vector store belongs to the account, and so to every team behind it. The
gateway has issued none of these ids, cannot tell whose they are, and refuses them before any provider sees them. So
does what a client would add to one provider's request by itself.
"""

from __future__ import annotations

from typing import Final

import msgspec

from server.domain.errors import GatewayError, Reason, option_refused
from server.domain.parameters import PSEUDONYMISED
from server.domain.request import BuiltInTool, File, GenerationRequest, Image, Opaque, ToolResult
from server.domain.work import Work
from server.pipeline.route_refusals import shown

SHARED_PARAMETERS: Final = ("conversation", "prompt")
SHARED_ITEMS: Final = frozenset({"item_reference"})
SHARED_TOOLS: Final = frozenset({"file_search"})
CONTAINER_TOOLS: Final = frozenset({"code_interpreter", "shell"})
SHARED_OPTIONS: Final = frozenset(
    {
        *SHARED_PARAMETERS,
        "previous_response_id",
        "cached_content",
        "store",
        "background",
        "tools",
        "include",
        *PSEUDONYMISED,
    }
)
"""What `provider_options` may not hold: ids, what is kept under one, what holds ids, and what leaves as a pseudonym."""


def _plain(key: str) -> str:
    """Google's APIs take a name in either spelling."""
    return key.strip().replace("_", "").lower()


_PLAIN_OPTIONS: Final = frozenset(map(_plain, SHARED_OPTIONS))


class _ContainerTool(msgspec.Struct):
    """A tool that runs in a container: a new one where this is an object, somebody's where it is an id."""

    container: msgspec.Raw = msgspec.Raw(b"null")


def refuse_shared_ids(request: Work) -> None:
    """Raise GatewayError naming the first field that holds an id of the provider's."""
    if not isinstance(request, GenerationRequest):  # which other work has no fields for
        return
    for name in SHARED_PARAMETERS:
        if name in request.passthrough:
            raise _refused(request.parameters.get(name, name))
    for turn in request.turns:
        for part in turn.parts:
            _check_part(part)
    for tool in request.tools:
        if isinstance(tool, BuiltInTool) and _is_shared(tool):
            raise _refused(tool.param)
    for provider_id, options in request.provider_options.items():
        for key in options:
            if _plain(key) in _PLAIN_OPTIONS:
                raise option_refused(shown(provider_id), shown(key.strip()))


def _check_part(part: object) -> None:
    match part:
        case Image(file_id=str()) | File(file_id=str()):
            raise _refused("file_id")
        case Opaque(type=kind, param=param) if kind in SHARED_ITEMS:
            raise _refused(param)
        case ToolResult(content=content):
            for piece in content:
                _check_part(piece)
        case _:
            pass


def _is_shared(tool: BuiltInTool) -> bool:
    if tool.type in CONTAINER_TOOLS:
        return bytes(msgspec.json.decode(tool.tool, type=_ContainerTool).container).startswith(b'"')
    return tool.type in SHARED_TOOLS


def _refused(param: str) -> GatewayError:
    return GatewayError(
        Reason.UNSUPPORTED_PARAMETER,
        "Ids that a provider has given out are not accepted: they belong to an account that all teams share. Send the"
        " content itself.",
        param=param,
    )
