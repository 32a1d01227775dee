"""The cells of the cross-dialect table as data: what a client asks, what must leave for a provider, what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tests.fakes.dialects import Called, Counted, DialectName, End, Said
from tests.fakes.gemini_wire import SIGNATURE
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

BONN = Called("call_bonn", "weather", {"city": "Bonn"})
OSLO = Called("call_oslo", "weather", {"city": "Oslo"})
SEAL = "EqQBCkYIBxgCKkDnOYH9+/a=="

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


def _user(text: str) -> list[Json]:
    return [{"role": "user", "content": text}]


_CHAT: Json = {"messages": _user("Hi"), "max_completion_tokens": 4096}
_CHAT_TOOLS: list[Json] = [
    {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": PARAMETERS}}
]
_RESPONSES: Json = {"input": _user("Hi"), "max_output_tokens": 4096, "store": False}
_RESPONSES_TOOLS: list[Json] = [
    {"type": "function", "name": "weather", "description": "Now.", "parameters": PARAMETERS, "strict": False}
]
_MESSAGES: Json = {"messages": _user("Hi"), "max_tokens": 4096}
_MESSAGES_TOOLS: list[Json] = [{"name": "weather", "description": "Now.", "input_schema": PARAMETERS}]

ASKED: Mapping[SurfaceName, Mapping[Feature, Json]] = {
    "chat": {
        "text": {**_CHAT, "messages": [{"role": "system", "content": "Be brief."}, *_user("Hi")]},
        "tools": {**_CHAT, "tools": _CHAT_TOOLS, "tool_choice": "required"},
        "parallel_tools": {**_CHAT, "tools": _CHAT_TOOLS, "parallel_tool_calls": True},
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
        "tools": {**_MESSAGES, "tools": _MESSAGES_TOOLS, "tool_choice": {"type": "any"}},
        "parallel_tools": {**_MESSAGES, "tools": _MESSAGES_TOOLS},
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


def _openai(messages: list[Json] | None = None, **fields: Any) -> Json:
    return {"messages": messages or _user("Hi"), "max_tokens": 4096, **fields}


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
        "text": _openai([{"role": "system", "content": "Be brief."}, *_user("Hi")]),
        "tools": _openai(tools=_CHAT_TOOLS, tool_choice="required"),
        "parallel_tools": _openai(tools=_CHAT_TOOLS),
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
        "tools": _anthropic(tools=_MESSAGES_TOOLS, tool_choice={"type": "any"}),
        "parallel_tools": _anthropic(tools=_MESSAGES_TOOLS),
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


def result_of(call: Called) -> str:
    return f"Rain in {call.arguments['city']}."


FOLLOW_UP = "Sure?"

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
            *_user(FOLLOW_UP),
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

ENDS: Mapping[SurfaceName, Mapping[End, str]] = {
    "chat": {
        "stop": "stop",
        "stop_sequence": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "refusal": "content_filter",
    },
    "responses": {
        "stop": "completed",
        "length": "incomplete: max_output_tokens",
        "tool_calls": "completed",
        "refusal": "incomplete: content_filter",
    },
    "messages": {
        "stop": "end_turn",
        "stop_sequence": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "refusal": "refusal",
    },
}
"""How an answer ends, in the surface's own words."""
OTHER_ENDS: Mapping[tuple[SurfaceName, DialectName, End], str] = {
    ("chat", "openai", "refusal"): "stop",
    ("chat", "openai_responses", "refusal"): "stop",
    ("responses", "openai", "refusal"): "completed",
    ("responses", "openai_responses", "refusal"): "completed",
    ("messages", "anthropic", "stop_sequence"): "stop_sequence",
}
"""OpenAI's models refuse with a text and stop; only Anthropic says which sequence it met."""

EVENTS: Mapping[SurfaceName, list[str]] = {
    "chat": ["role", "delta", "finish", "usage"],
    "responses": [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ],
    "messages": [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ],
}
"""The kinds of a stream's events, of several alike in a row the first."""

REFUSED: Mapping[tuple[SurfaceName, DialectName, Feature], str] = {
    ("responses", "openai", "stop"): "stop",
    ("responses", "openai_responses", "stop"): "stop",
    ("responses", "anthropic", "stop"): "stop",
    ("responses", "gemini", "stop"): "stop",
    ("chat", "openai_responses", "stop"): "stop",
    ("messages", "openai_responses", "stop"): "stop_sequences",
}
"""The cells that are refused, with the parameter that the refusal names: OpenAI's Responses API has no `stop`."""
