"""JSON of a client's tools that goes on as it was written: checked, for every provider reads it in its own way."""

from __future__ import annotations

from typing import Any

import msgspec

from server.domain.limits import MAX_SHOWN_CHARS, check_choice, invalid_value, missing_field
from server.domain.request import RawJson

__all__ = ["check_allowed_tools", "check_custom_format"]


def check_allowed_tools(choice: RawJson, param: str) -> RawJson:
    """`choice` itself, where it is one among some tools, as either API of OpenAI's writes it.

    Raises GatewayError (`invalid_value`, `missing_field`) naming the field.
    """
    fields = _object(_decode(choice, param), param)
    if "allowed_tools" in fields:
        param = f"{param}.allowed_tools"
        fields = _object(fields["allowed_tools"], param)
    check_choice(_text(fields, "mode", param), ("auto", "required"), f"{param}.mode")
    tools = _member(fields, "tools", param)
    if not isinstance(tools, list):
        raise invalid_value(f"{param}.tools", "must be an array")
    for index, tool in enumerate(tools):
        _check_tool(tool, f"{param}.tools[{index}]")
    return choice


def check_custom_format(custom_format: RawJson, param: str) -> RawJson:
    """`custom_format` itself, where it is one of a custom tool, as either API of OpenAI's writes it.

    Raises as `check_allowed_tools` does.
    """
    fields = _object(_decode(custom_format, param), param)
    _text(fields, "type", param)
    if "grammar" in fields:
        _object(fields["grammar"], f"{param}.grammar")
    return custom_format


def _check_tool(tool: Any, param: str) -> None:
    fields = _object(tool, param)
    kind = _text(fields, "type", param) if "type" in fields else ""
    if kind in fields:
        param = f"{param}.{kind[:MAX_SHOWN_CHARS]}"
        fields = _object(fields[kind], param)
    if "name" in fields:
        _text(fields, "name", param)


def _decode(raw: RawJson, param: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except RecursionError:
        raise invalid_value(param, "is nested too deeply") from None


def _object(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid_value(param, "must be an object")
    return value


def _member(fields: dict[str, Any], name: str, param: str) -> Any:
    if name not in fields:
        raise missing_field(f"{param}.{name}")
    return fields[name]


def _text(fields: dict[str, Any], name: str, param: str) -> str:
    value = _member(fields, name, param)
    if not isinstance(value, str):
        raise invalid_value(f"{param}.{name}", "must be a string")
    return value
