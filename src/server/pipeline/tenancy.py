"""What all teams share must not be reached through: ids that a provider gave out in the gateway's one account there.

A file, a conversation, a prompt or a vector store belongs to the account, and so to every team behind it. The
gateway has issued none of these ids, cannot tell whose they are, and refuses them before any provider sees them. So
does what a client would add to one provider's request by itself.
"""

from __future__ import annotations

import json
from typing import Final

from server.domain.errors import GatewayError, Reason, option_refused
from server.domain.parameters import PSEUDONYMISED
from server.domain.request import BuiltInTool, File, GenerationRequest, Image, Opaque, RawJson, ToolResult
from server.domain.work import Work
from server.pipeline.route_refusals import shown

SHARED_PARAMETERS: Final = ("conversation", "prompt")
SHARED_ITEMS: Final = frozenset({"item_reference"})
SHARED_TOOLS: Final = frozenset({"file_search"})
SHARED_KEYS: Final = frozenset({"container", "container_id", "file_id", "file_ids", "skill_id", "vector_store_ids"})
"""What holds an id wherever it stands in an item or a tool. A `container` that is an object is a new one."""
OTHERWISE: Final = frozenset({"annotations", "input_schema", "output_schema", "parameters", "schema"})
"""What holds no ids to be used: citations, and a client's own schema, whose properties may have any name."""
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
_PLAIN_IDENTIFIERS: Final = frozenset(map(_plain, PSEUDONYMISED))


def refuse_shared_ids(request: Work) -> None:
    """Raise GatewayError naming the first field that holds an id of the provider's."""
    if isinstance(request, GenerationRequest):
        _check_generation(request)
    refused = _PLAIN_OPTIONS if isinstance(request, GenerationRequest) else _PLAIN_IDENTIFIERS
    for provider_id, options in request.provider_options.items():
        for key in options:
            if _plain(key) in refused:
                raise option_refused(shown(provider_id), shown(key.strip()))


def _check_generation(request: GenerationRequest) -> None:
    for name in SHARED_PARAMETERS:
        if name in request.passthrough:
            raise _refused(request.parameters.get(name, name))
    for turn in request.turns:
        for part in turn.parts:
            _check_part(part)
    for tool in request.tools:
        if isinstance(tool, BuiltInTool) and (tool.type in SHARED_TOOLS or _shared_key(tool.tool, tool.param)):
            raise _refused(tool.param)


def _check_part(part: object) -> None:
    match part:
        case Image(file_id=str()) | File(file_id=str()):
            raise _refused("file_id")
        case Opaque(type=kind, param=param) if kind in SHARED_ITEMS:
            raise _refused(param)
        case Opaque(type=kind, item=item, param=param) if not kind.endswith("_call"):
            # A call is the model's own, and names the container that the provider made for this conversation.
            if (key := _shared_key(item, param)) is not None:
                raise _refused(key)
        case ToolResult(content=content):
            for piece in content:
                _check_part(piece)
        case _:
            pass


def _shared_key(raw: RawJson, param: str) -> str | None:
    """The first key that holds an id. Objects are read as lists of pairs: of a repeated key a provider may take any."""
    try:
        values = [[json.loads(bytes(raw), object_pairs_hook=list, parse_int=str)]]
    except (RecursionError, ValueError):
        raise GatewayError(Reason.MALFORMED_JSON, f"`{param}` cannot be read as JSON.", param=param) from None
    while values:
        for entry in values.pop():
            key, value = entry if isinstance(entry, tuple) else ("", entry)
            if value and key in SHARED_KEYS and (key != "container" or isinstance(value, str)):
                return str(key)
            if isinstance(value, list) and key not in OTHERWISE:
                values.append(value)
    return None


def _refused(param: str) -> GatewayError:
    return GatewayError(
        Reason.UNSUPPORTED_PARAMETER,
        "Ids that a provider has given out are not accepted: they belong to an account that all teams share. Send the"
        " content itself.",
        param=param,
    )
