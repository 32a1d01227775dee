"""What a request asks for softly: said where an offer has words for it, and elsewhere never in the way."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from server.domain.request import (
    BuiltInTool,
    CacheMark,
    Endpoint,
    GenerationRequest,
    Image,
    ReasoningOptions,
    Role,
    Text,
    ToolResult,
    Turn,
)
from server.pipeline.pseudonyms import pseudonymised
from server.providers.openai_apis import unsupported
from server.providers.openai_chat_encode import encode_chat
from server.providers.openai_responses_encode import encode_responses
from tests.unit.openai_cases import offer

RAW = msgspec.Raw(b"{}")


def asked(**fields: Any) -> GenerationRequest:
    return GenerationRequest(
        endpoint=Endpoint.MESSAGES, model="m", turns=fields.pop("turns", (Turn(Role.USER, (Text("x"),)),)), **fields
    )


def with_params(*params: str) -> Any:
    return msgspec.structs.replace(offer(), params=frozenset(params) if params else None)


@pytest.mark.parametrize(
    ("params", "sent"), [((), {}), (("temperature",), {}), (("user", "service_tier"), {"service_tier": "default"})]
)
def test_hints_go_to_offers_that_list_them(params: tuple[str, ...], sent: dict[str, str]) -> None:
    hints = {"user": msgspec.Raw(b'"someone"'), "service_tier": msgspec.Raw(b'"default"')}
    request = pseudonymised(asked(hints=hints), "team")
    for encode in (encode_chat, encode_responses):
        body = json.loads(encode(with_params(*params), request))
        assert {name: body[name] for name in ("service_tier",) if name in body} == sent
        assert ("user" in body) == bool(sent)
        assert body.get("user") != "someone"


@pytest.mark.parametrize(
    ("wanted", "params", "effort"),
    [
        (ReasoningOptions(thinking="disabled"), (), None),
        (ReasoningOptions(thinking="disabled"), ("temperature",), None),
        (ReasoningOptions(thinking="disabled"), ("reasoning_effort",), "none"),
        (ReasoningOptions(thinking="adaptive"), ("reasoning_effort",), None),
        (ReasoningOptions("low", thinking="enabled", budget_tokens=2000), ("reasoning_effort",), "low"),
        (ReasoningOptions("high", thinking="disabled"), ("reasoning_effort",), "high"),
    ],
)
def test_thinking_as_an_effort(wanted: ReasoningOptions, params: tuple[str, ...], effort: str | None) -> None:
    request = asked(reasoning=wanted)
    assert json.loads(encode_chat(with_params(*params), request)).get("reasoning_effort") == effort
    assert json.loads(encode_responses(with_params(*params), request)).get("reasoning", {}).get("effort") == effort


def test_a_tool_that_failed_says_so_in_words() -> None:
    turns = (Turn(Role.TOOL, (ToolResult("c1", (Text("no such file", CacheMark()),), is_error=True),)),)
    request = asked(turns=turns)
    assert json.loads(encode_chat(offer(), request))["messages"][0]["content"] == "Error: no such file"
    assert json.loads(encode_responses(offer(), request))["input"][0]["output"] == "Error: no such file"
    picture = ToolResult("c1", (Image(url="https://a.example/x"),), is_error=True)
    body = json.loads(encode_responses(offer(), asked(turns=(Turn(Role.TOOL, (picture,)),))))
    assert body["input"][0]["output"][0] == {"type": "input_text", "text": "Error:"}


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_anthropics_own_tools_are_no_tools_of_openais(api: Any) -> None:
    request = asked(tools=(BuiltInTool("web_search_20250305", RAW, "tools[0]"),))
    assert unsupported(request, api) == "tools[0]"


def test_a_block_that_an_api_cannot_carry_is_named_by_its_kind() -> None:
    picture = ToolResult("c1", (Image(url="https://a.example/x"),))
    request = asked(turns=(Turn(Role.TOOL, (picture,)),))
    assert unsupported(request, "chat") == "messages[].content[].tool_result"
    assert unsupported(request, "responses") is None
