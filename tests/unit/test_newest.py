"""What of a Responses request is new: whatever a client says in it after the model's last answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rest_bridge.responses_decode import decode_request
from server.domain.request import Text
from server.pipeline.newest import newest

BAD = Text("BAD")
GO = {"role": "user", "content": "go"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
SHELL = {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}}


@pytest.mark.parametrize(
    ("items", "content", "unchecked"),
    [
        ([{"role": "user", "phase": "commentary", "content": "BAD"}, GO], (BAD, Text("go")), ()),
        ([{"role": "user", "content": "BAD"}, {"type": "additional_tools", "role": "developer", "tools": []}, GO],
         (BAD, Text("go")), ()),
        ([CALL, {"type": "function_call_output", "call_id": "c", "output": "BAD"}, GO], (BAD, Text("go")), ()),
        ([CALL, {"type": "function_call_output", "call_id": "c", "output": "BAD", "name": "f"}, GO],
         (Text("go"),), ("function_call_output",)),
        ([SHELL, {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "BAD"}]}],
         (), ("shell_call_output",)),
        ([{"type": "mcp_approval_request", "id": "r", "name": "f"},
          {"type": "mcp_approval_response", "approval_request_id": "r", "approve": False, "reason": "BAD"}],
         (), ("mcp_approval_response",)),
        ([{"role": "user", "content": "before"}, {"role": "assistant", "content": "a", "phase": "final_answer"}, GO],
         (Text("go"),), ()),
        ([{"role": "user", "content": "before"}, SHELL, GO], (Text("go"),), ()),
    ],
)  # fmt: skip
def test_nothing_of_a_client_passes_for_the_models_answer(
    items: list[dict[str, Any]], content: tuple[Text, ...], unchecked: tuple[str, ...]
) -> None:
    request = decode_request(msgspec.json.encode({"model": "a/b", "input": items})).generation
    assert newest(request) == (content, unchecked)
