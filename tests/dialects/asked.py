"""What is asked on each surface, and what the model says to it, feature by feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tests.fakes.dialects import Called, Counted, Said
from tests.fakes.surfaces import SurfaceName

Feature = Literal[
    "text",
    "tools",
    "parallel_tools",
    "image",
    "json_schema",
    "reasoning",
    "stop",
    "length",
    "refusal",
    "stream",
    "usage_with_cache",
]
Json = dict[str, Any]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
PARAMETERS: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCHEMA: Json = {
    "type": "object",
    "properties": {"z": {"$ref": "#/$defs/n"}, "a": {"type": "string"}},
    "$defs": {"n": {"type": "integer"}},
    "required": ["z", "a"],
    "additionalProperties": False,
}

FOLLOW_UP = "Sure?"
BONN = Called("call_bonn", "weather", {"city": "Bonn"})
OSLO = Called("call_oslo", "weather", {"city": "Oslo"})
SEAL = "EqQBCkYIBxgCKkDnOYH9+/8="

STOPS = ["two", "END"]

SAID: Mapping[Feature, Said] = {
    "text": Said(("Hello", " there!")),
    "tools": Said(("Let me see.",), calls=(BONN,), end="tool_calls"),
    "parallel_tools": Said(calls=(BONN, OSLO), end="tool_calls"),
    "image": Said(("A dot.",)),
    "json_schema": Said(('{"z":1,', '"a":"b"}')),
    "reasoning": Said(("42.",), thought="Hm, six by seven.", signature=SEAL, counted=Counted(9, 12, reasoning=7)),
    "stop": Said(("One, ",), end="stop_sequence"),
    "length": Said(("One, tw",), end="length"),
    "refusal": Said(refusal="I will not say that.", end="refusal"),
    "stream": Said(("Hello", " there!")),
    "usage_with_cache": Said(("Hello", " again!"), counted=Counted(125, 7, cached=100)),
}
"""What the model says, whatever it was asked on."""


def user(text: str) -> list[Json]:
    return [{"role": "user", "content": text}]


_CHAT: Json = {"messages": user("Hi"), "max_completion_tokens": 4096}
CHAT_TOOLS: list[Json] = [
    {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": PARAMETERS}}
]
_RESPONSES: Json = {"input": user("Hi"), "max_output_tokens": 4096, "store": False}
_RESPONSES_TOOLS: list[Json] = [
    {"type": "function", "name": "weather", "description": "Now.", "parameters": PARAMETERS, "strict": False}
]
_MESSAGES: Json = {"messages": user("Hi"), "max_tokens": 4096}
MESSAGES_TOOLS: list[Json] = [{"name": "weather", "description": "Now.", "input_schema": PARAMETERS}]

ASKED: Mapping[SurfaceName, Mapping[Feature, Json]] = {
    "chat": {
        "text": {**_CHAT, "messages": [{"role": "system", "content": "Be brief."}, *user("Hi")]},
        "tools": {**_CHAT, "tools": CHAT_TOOLS, "tool_choice": "required"},
        "parallel_tools": {**_CHAT, "tools": CHAT_TOOLS, "parallel_tool_calls": True},
        "image": {
            **_CHAT,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What?"},
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                    ],
                }
            ],
        },
        "json_schema": {
            **_CHAT,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "output", "strict": True, "schema": SCHEMA},
            },
        },
        "reasoning": {**_CHAT, "reasoning_effort": "low"},
        "stop": {**_CHAT, "stop": STOPS},
        "length": _CHAT,
        "refusal": _CHAT,
        "stream": _CHAT,
        "usage_with_cache": _CHAT,
    },
    "responses": {
        "text": {**_RESPONSES, "instructions": "Be brief."},
        "tools": {**_RESPONSES, "tools": _RESPONSES_TOOLS, "tool_choice": "required"},
        "parallel_tools": {**_RESPONSES, "tools": _RESPONSES_TOOLS, "parallel_tool_calls": True},
        "image": {
            **_RESPONSES,
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What?"},
                        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
                    ],
                }
            ],
        },
        "json_schema": {
            **_RESPONSES,
            "text": {"format": {"type": "json_schema", "name": "output", "strict": True, "schema": SCHEMA}},
        },
        "reasoning": {**_RESPONSES, "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]},
        "stop": {**_RESPONSES, "extra_body": {"stop": STOPS}},
        "length": _RESPONSES,
        "refusal": _RESPONSES,
        "stream": _RESPONSES,
        "usage_with_cache": _RESPONSES,
    },
    "messages": {
        "text": {**_MESSAGES, "system": "Be brief."},
        "tools": {**_MESSAGES, "tools": MESSAGES_TOOLS, "tool_choice": {"type": "any"}},
        "parallel_tools": {**_MESSAGES, "tools": MESSAGES_TOOLS},
        "image": {
            **_MESSAGES,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What?"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    ],
                }
            ],
        },
        "json_schema": {**_MESSAGES, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "reasoning": {**_MESSAGES, "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        "stop": {**_MESSAGES, "stop_sequences": STOPS},
        "length": _MESSAGES,
        "refusal": _MESSAGES,
        "stream": _MESSAGES,
        "usage_with_cache": _MESSAGES,
    },
}
"""The body without its model, on each surface; the SDK adds `stream`."""


def result_of(call: Called) -> str:
    """What the tool returned."""
    return f"Rain in {call.arguments['city']}."
