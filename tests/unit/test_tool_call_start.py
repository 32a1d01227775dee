"""What a server that understands only a word for a tool choice is sent instead of the client's choice."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from server.domain.catalog import ProviderProfile
from server.domain.request import CustomTool, FunctionTool, GenerationRequest, OutputFormat, Role, ToolChoice
from server.providers.openai_chat_encode import encode_chat
from server.providers.tool_call_start import no_function
from tests.unit.openai_cases import CHAT, ask, offer, turn

PROFILE = ProviderProfile(tool_call_start="<tool_call>")
ONE, TWO = FunctionTool("one"), FunctionTool("two")
USER = {"role": "user", "content": "Hi"}
START = {"role": "assistant", "content": "<tool_call>"}


def chat(request: GenerationRequest, profile: ProviderProfile = CHAT) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encode_chat(offer(profile), request))
    return body


def request(choice: ToolChoice | None, **options: Any) -> GenerationRequest:
    return ask(turn(Role.USER, "Hi"), tools=(ONE, TWO), tool_choice=choice, **options)


def allowed(mode: str, *, nested: bool) -> ToolChoice:
    tool: dict[str, Any] = {"type": "function", "name": "two"}
    fields: dict[str, Any] = {"mode": mode, "tools": [tool]}
    if nested:
        fields = {"allowed_tools": {"mode": mode, "tools": [{"type": "function", "function": {"name": "two"}}]}}
    return ToolChoice("allowed", raw=msgspec.Raw(json.dumps({"type": "allowed_tools", **fields}).encode()))


@pytest.mark.parametrize(
    ("choice", "tools", "word", "messages"),
    [
        (None, ["one", "two"], None, [USER]),
        (ToolChoice("auto"), ["one", "two"], "auto", [USER]),
        (ToolChoice("none"), [], None, [USER]),
        (ToolChoice("required"), ["one", "two"], "required", [USER, START]),
        (ToolChoice("named", name="two"), ["two"], "required", [USER, START]),
        (allowed("auto", nested=True), ["two"], "auto", [USER]),
        (allowed("required", nested=True), ["two"], "required", [USER, START]),
        (allowed("required", nested=False), ["two"], "required", [USER, START]),
    ],
)
def test_each_choice_in_one_word(
    choice: ToolChoice | None, tools: list[str], word: str | None, messages: list[dict[str, str]]
) -> None:
    body = chat(request(choice), PROFILE)
    assert [tool["function"]["name"] for tool in body.get("tools", [])] == tools
    assert body.get("tool_choice") == word
    assert body["messages"] == messages


def test_no_tools_no_word_about_them() -> None:
    body = chat(request(ToolChoice("none"), parallel_tool_calls=False), PROFILE)
    assert body.keys() == {"model", "messages"}


def test_a_required_call_leaves_no_text_to_be_given_a_format() -> None:
    wanted = OutputFormat("json_object")
    assert "response_format" not in chat(request(ToolChoice("required"), output_format=wanted), PROFILE)
    assert "response_format" in chat(request(ToolChoice("auto"), output_format=wanted), PROFILE)


def test_other_servers_are_told_the_choice_as_it_is() -> None:
    body = chat(request(ToolChoice("named", name="two")))
    assert body["tool_choice"] == {"type": "function", "function": {"name": "two"}}
    assert len(body["tools"]) == 2
    assert body["messages"] == [USER]


def test_a_custom_tool_is_named() -> None:
    custom = ask(turn(Role.USER, "Hi"), tools=(ONE, CustomTool("grep")))
    assert no_function(custom, PROFILE) == "tools"
    assert no_function(custom, ProviderProfile()) is None
    assert no_function(request(None), PROFILE) is None
