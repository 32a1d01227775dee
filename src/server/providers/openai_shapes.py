"""Where the two OpenAI APIs write the same thing differently: one nests under the type's name, the other is flat.

Both directions go by the shape that is there, so that what already fits is returned as it is, byte for byte.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from server.domain.request import RawJson, ToolChoice

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_objects: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def nested_grammar(custom_format: RawJson) -> Any:
    """A custom tool's format as chat writes it: `{"type": "grammar", "grammar": {"syntax": …, "definition": …}}`."""
    fields = _fields(custom_format)
    if "definition" not in fields:
        return custom_format
    return {"type": fields.pop("type"), "grammar": fields}


def flat_grammar(custom_format: RawJson) -> Any:
    """The same as Responses writes it: `{"type": "grammar", "syntax": …, "definition": …}`."""
    fields = _fields(custom_format)
    if "grammar" not in fields:
        return custom_format
    return {"type": fields["type"], **_fields(fields["grammar"])}


def chat_tool_choice(choice: ToolChoice) -> Any:
    if choice.mode == "named":
        kind = "custom" if choice.custom else "function"
        return {"type": kind, kind: {"name": choice.name}}
    if choice.mode != "allowed" or choice.raw is None:
        return choice.mode
    fields = _fields(choice.raw)
    if "allowed_tools" in fields:
        return choice.raw
    tools = [_nested_tool(tool) for tool in _objects.decode(fields["tools"])]
    return {"type": "allowed_tools", "allowed_tools": {"mode": fields["mode"], "tools": tools}}


def responses_tool_choice(choice: ToolChoice) -> Any:
    if choice.mode == "named":
        return {"type": "custom" if choice.custom else "function", "name": choice.name}
    if choice.raw is None:
        return choice.mode
    fields = _fields(choice.raw)
    if choice.mode != "allowed" or "allowed_tools" not in fields:
        return choice.raw
    allowed = _fields(fields["allowed_tools"])
    tools = [_flat_tool(tool) for tool in _objects.decode(allowed["tools"])]
    return {"type": "allowed_tools", "mode": allowed["mode"], "tools": tools}


def allowed_tools(choice: ToolChoice) -> tuple[str, frozenset[str]]:
    """The mode of an `allowed` choice, and the names of its tools, in either API's writing."""
    assert choice.raw is not None
    fields = _fields(choice.raw)
    fields = _fields(fields["allowed_tools"]) if "allowed_tools" in fields else fields
    flat = (_flat_tool(tool) for tool in _objects.decode(fields["tools"]))
    names = frozenset(msgspec.json.decode(tool["name"], type=str) for tool in flat if "name" in tool)
    return msgspec.json.decode(fields["mode"], type=str), names


def _nested_tool(tool: dict[str, msgspec.Raw]) -> Any:
    kind = _kind(tool)
    if kind not in ("function", "custom") or kind in tool:
        return tool
    return {"type": kind, kind: {key: value for key, value in tool.items() if key != "type"}}


def _flat_tool(tool: dict[str, msgspec.Raw]) -> Any:
    kind = _kind(tool)
    return {"type": kind, **_fields(tool[kind])} if kind in tool else tool


def _kind(tool: dict[str, msgspec.Raw]) -> str:
    return msgspec.json.decode(tool["type"], type=str) if "type" in tool else ""


def _fields(raw: RawJson) -> dict[str, msgspec.Raw]:
    return _object.decode(raw)
