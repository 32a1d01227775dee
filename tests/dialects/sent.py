"""What must leave for a provider in its dialect, feature by feature, whatever surface the question came by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.dialects.asked import (
    ASKED,
    BONN,
    CHAT_TOOLS,
    FOLLOW_UP,
    MESSAGES_TOOLS,
    OSLO,
    PARAMETERS,
    PNG,
    SCHEMA,
    SEAL,
    STOPS,
    Feature,
    Json,
    result_of,
    user,
)
from tests.fakes.dialects import Called, DialectName
from tests.fakes.gemini_wire import SIGNATURE


def _openai(messages: list[Json] | None = None, **fields: Any) -> Json:
    return {"messages": messages or user("Hi"), "max_tokens": 4096, **fields}


def _item(role: str, *parts: Json) -> Json:
    return {"type": "message", "role": role, "content": list(parts)}


def _openai_responses(input_: list[Json] | None = None, **fields: Any) -> Json:
    asked = input_ or [_item("user", {"type": "input_text", "text": "Hi"})]
    return {"input": asked, "max_output_tokens": 4096, "store": False, **fields}


def _anthropic(content: list[Json] | None = None, **fields: Any) -> Json:
    said = content or [{"type": "text", "text": "Hi"}]
    return {"messages": [{"role": "user", "content": said}], "max_tokens": 4096, **fields}


def _gemini(parts: list[Json] | None = None, *, config: Json | None = None, **fields: Any) -> Json:
    said = parts or [{"text": "Hi"}]
    return {
        "contents": [{"role": "user", "parts": said}],
        "generationConfig": {"maxOutputTokens": 4096, **(config or {})},
        **fields,
    }


_DECLARED: Json = {"name": "weather", "description": "Now.", "parametersJsonSchema": PARAMETERS}

SENT: Mapping[DialectName, Mapping[Feature, Json]] = {
    "openai": {
        "text": _openai([{"role": "system", "content": "Be brief."}, *user("Hi")]),
        "tools": _openai(tools=CHAT_TOOLS, tool_choice="required"),
        "parallel_tools": _openai(tools=CHAT_TOOLS),
        "image": _openai(ASKED["chat"]["image"]["messages"]),
        "json_schema": _openai(response_format=ASKED["chat"]["json_schema"]["response_format"]),
        "reasoning": _openai(reasoning_effort="low"),
        "stop": _openai(stop=STOPS),
    },
    "openai_responses": {
        "text": _openai_responses(
            [
                _item("system", {"type": "input_text", "text": "Be brief."}),
                _item("user", {"type": "input_text", "text": "Hi"}),
            ]
        ),
        "tools": _openai_responses(
            tools=[{"type": "function", "name": "weather", "description": "Now.", "parameters": PARAMETERS}],
            tool_choice="required",
        ),
        "parallel_tools": _openai_responses(
            tools=[{"type": "function", "name": "weather", "description": "Now.", "parameters": PARAMETERS}]
        ),
        "image": _openai_responses(
            [
                _item(
                    "user",
                    {"type": "input_text", "text": "What?"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                )
            ]
        ),
        "json_schema": _openai_responses(text=ASKED["responses"]["json_schema"]["text"]),
        "reasoning": _openai_responses(reasoning={"effort": "low"}),
    },
    "anthropic": {
        "text": _anthropic(system=[{"type": "text", "text": "Be brief."}]),
        "tools": _anthropic(tools=MESSAGES_TOOLS, tool_choice={"type": "any"}),
        "parallel_tools": _anthropic(tools=MESSAGES_TOOLS),
        "image": _anthropic(ASKED["messages"]["image"]["messages"][0]["content"]),
        "json_schema": _anthropic(output_config=ASKED["messages"]["json_schema"]["output_config"]),
        "reasoning": _anthropic(
            thinking={"type": "adaptive", "display": "summarized"}, output_config={"effort": "low"}
        ),
        "stop": _anthropic(stop_sequences=STOPS),
    },
    "gemini": {
        "text": _gemini(systemInstruction={"parts": [{"text": "Be brief."}]}),
        "tools": _gemini(
            tools=[{"functionDeclarations": [_DECLARED]}], toolConfig={"functionCallingConfig": {"mode": "ANY"}}
        ),
        "parallel_tools": _gemini(tools=[{"functionDeclarations": [_DECLARED]}]),
        "image": _gemini([{"text": "What?"}, {"inlineData": {"mimeType": "image/png", "data": PNG}}]),
        "json_schema": _gemini(config={"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}),
        "reasoning": _gemini(config={"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True}}),
        "stop": _gemini(config={"stopSequences": STOPS}),
    },
}
"""What must leave for the provider, whole; a feature that is not here asks for nothing but an answer."""
PLAIN: Mapping[DialectName, Json] = {
    "openai": _openai(),
    "openai_responses": _openai_responses(),
    "anthropic": _anthropic(),
    "gemini": _gemini(),
}
SAYS_NOTHING: tuple[tuple[str, Any], ...] = (
    ("strict", False),
    ("detail", "auto"),
    ("parallel_tool_calls", True),
    ("include", ["reasoning.encrypted_content"]),
)
"""What one surface says aloud and another leaves to the API, whose default it is; the last asks for a seal as well."""


def _openai_calls(*calls: Called) -> list[Json]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def _items(*calls: Called) -> list[Json]:
    return [
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments} for call in calls
    ]


def _outputs(*calls: Called) -> list[Json]:
    return [{"type": "function_call_output", "call_id": call.id, "output": result_of(call)} for call in calls]


def _uses(*calls: Called) -> list[Json]:
    return [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in calls]


def _results(*calls: Called) -> Json:
    blocks = [{"type": "tool_result", "tool_use_id": call.id, "content": result_of(call)} for call in calls]
    return {"role": "user", "content": blocks}


def _functions(*calls: Called) -> list[Json]:
    """Google signs the first call of a turn, and takes no id that it did not give."""
    first, *others = ({"functionCall": {"name": call.name, "args": call.arguments}} for call in calls)
    return [{**first, "thoughtSignature": SIGNATURE}, *others]


def _returned(*calls: Called) -> Json:
    parts = [{"functionResponse": {"name": call.name, "response": {"output": result_of(call)}}} for call in calls]
    return {"role": "user", "parts": parts}


SENT_BACK: Mapping[DialectName, Mapping[Feature, list[Json]]] = {
    "openai": {
        "tools": [
            {"role": "assistant", "content": "Let me see.", "tool_calls": _openai_calls(BONN)},
            {"role": "tool", "tool_call_id": BONN.id, "content": result_of(BONN)},
        ],
        "parallel_tools": [
            {"role": "assistant", "content": None, "tool_calls": _openai_calls(BONN, OSLO)},
            {"role": "tool", "tool_call_id": BONN.id, "content": result_of(BONN)},
            {"role": "tool", "tool_call_id": OSLO.id, "content": result_of(OSLO)},
        ],
        "reasoning": [
            {"role": "assistant", "content": "42.", "reasoning_content": "Hm, six by seven."},
            *user(FOLLOW_UP),
        ],
    },
    "openai_responses": {
        "tools": [
            _item("assistant", {"type": "output_text", "text": "Let me see."}),
            *_items(BONN),
            *_outputs(BONN),
        ],
        "parallel_tools": [*_items(BONN, OSLO), *_outputs(BONN, OSLO)],
        "reasoning": [
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "Hm, six by seven."}],
                "encrypted_content": SEAL,
            },
            _item("assistant", {"type": "output_text", "text": "42."}),
            _item("user", {"type": "input_text", "text": FOLLOW_UP}),
        ],
    },
    "anthropic": {
        "tools": [
            {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, *_uses(BONN)]},
            _results(BONN),
        ],
        "parallel_tools": [{"role": "assistant", "content": _uses(BONN, OSLO)}, _results(BONN, OSLO)],
        "reasoning": [
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm, six by seven.", "signature": SEAL},
                    {"type": "text", "text": "42."},
                ],
            },
            {"role": "user", "content": [{"type": "text", "text": FOLLOW_UP}]},
        ],
    },
    "gemini": {
        "tools": [{"role": "model", "parts": [{"text": "Let me see."}, *_functions(BONN)]}, _returned(BONN)],
        "parallel_tools": [{"role": "model", "parts": _functions(BONN, OSLO)}, _returned(BONN, OSLO)],
        "reasoning": [
            {
                "role": "model",
                "parts": [{"text": "Hm, six by seven.", "thought": True, "thoughtSignature": SEAL}, {"text": "42."}],
            },
            {"role": "user", "parts": [{"text": FOLLOW_UP}]},
        ],
    },
}
"""What follows on the first question when the client goes on: the answer as the provider gave it, and what is new."""
TURNS: Mapping[DialectName, str] = {
    "openai": "messages",
    "openai_responses": "input",
    "anthropic": "messages",
    "gemini": "contents",
}
