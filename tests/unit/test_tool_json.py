"""What is wrong in the JSON of a client's tools is named, and not found out by whoever encodes it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rest_bridge.responses_decode import decode_request
from server.domain.errors import GatewayError, Reason

F = {"type": "function", "name": "f"}


def refused(**fields: Any) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        decode_request(json.dumps({"model": "a/b", "input": "x", **fields}).encode())
    return raised.value


@pytest.mark.parametrize(
    ("choice", "reason", "param"),
    [
        ({}, Reason.MISSING_FIELD, "mode"),
        ({"mode": 5, "tools": [F]}, Reason.INVALID_VALUE, "mode"),
        ({"mode": "none", "tools": [F]}, Reason.INVALID_VALUE, "mode"),
        ({"mode": "auto"}, Reason.MISSING_FIELD, "tools"),
        ({"mode": "auto", "tools": 5}, Reason.INVALID_VALUE, "tools"),
        ({"mode": "auto", "tools": [F, 5]}, Reason.INVALID_VALUE, "tools[1]"),
        ({"mode": "auto", "tools": [{"type": 7}]}, Reason.INVALID_VALUE, "tools[0].type"),
        ({"mode": "auto", "tools": [{**F, "name": 5}]}, Reason.INVALID_VALUE, "tools[0].name"),
        ({"mode": "auto", "tools": [{**F, "function": "x"}]}, Reason.INVALID_VALUE, "tools[0].function"),
        ({"mode": "auto", "tools": [{**F, "function": {"name": 5}}]}, Reason.INVALID_VALUE, "tools[0].function.name"),
        ({"allowed_tools": 5}, Reason.INVALID_VALUE, "allowed_tools"),
        ({"allowed_tools": {"tools": []}}, Reason.MISSING_FIELD, "allowed_tools.mode"),
    ],
)
def test_a_malformed_choice_among_tools_is_named(choice: Any, reason: Reason, param: str) -> None:
    error = refused(tools=[F], tool_choice={"type": "allowed_tools", **choice})
    assert (error.reason, error.param) == (reason, f"tool_choice.{param}")


@pytest.mark.parametrize(
    ("custom_format", "reason", "param"),
    [
        ([], Reason.INVALID_VALUE, "format"),
        ({"definition": "x"}, Reason.MISSING_FIELD, "format.type"),
        ({"grammar": {}}, Reason.MISSING_FIELD, "format.type"),
        ({"type": 5, "definition": "x"}, Reason.INVALID_VALUE, "format.type"),
        ({"type": "grammar", "grammar": "x"}, Reason.INVALID_VALUE, "format.grammar"),
    ],
)
def test_a_malformed_format_of_a_custom_tool_is_named(custom_format: Any, reason: Reason, param: str) -> None:
    error = refused(tools=[{"type": "custom", "name": "c", "format": custom_format}])
    assert (error.reason, error.param) == (reason, f"tools[0].{param}")
