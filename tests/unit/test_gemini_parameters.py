"""Every parameter on every surface in the gemini dialect: it is in the upstream's body, or it is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from server.domain.parameters import PARAMETERS
from server.domain.request import Endpoint, FunctionTool, GenerationRequest, ReasoningOptions, Sampling, ToolChoice
from tests.unit.gemini_cases import body, refusal
from tests.unit.openai_cases import ask
from tests.unit.test_openai_parameters import SET

F = FunctionTool("f")
SET_HERE: dict[str, dict[str, Any]] = {
    **SET,
    "tool_choice": {"tools": (F,), "tool_choice": ToolChoice("required")},
    "parallel_tool_calls": {"tools": (F,), "parallel_tool_calls": True},
    "top_logprobs": {"sampling": Sampling(logprobs=True, top_logprobs=3)},
    "reasoning_summary": {"reasoning": ReasoningOptions(summary="auto")},
}
SAID: dict[str, Any] = {
    "temperature": {"generationConfig": {"temperature": 0.25}},
    "top_p": {"generationConfig": {"topP": 0.5}},
    "top_k": {"generationConfig": {"topK": 40}},
    "frequency_penalty": {"generationConfig": {"frequencyPenalty": 0.5}},
    "presence_penalty": {"generationConfig": {"presencePenalty": -0.5}},
    "seed": {"generationConfig": {"seed": 7}},
    "stop": {"generationConfig": {"stopSequences": ["END"]}},
    "max_output_tokens": {"generationConfig": {"maxOutputTokens": 99}},
    "n": {"generationConfig": {"candidateCount": 2}},
    "logprobs": {"generationConfig": {"responseLogprobs": True}},
    "top_logprobs": {"generationConfig": {"responseLogprobs": True, "logprobs": 3}},
    "tools": {
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "f", "parametersJsonSchema": {"zebra": 1.5, "type": "object", "apple": {}}}
                ]
            }
        ]
    },
    "tool_choice": {
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    },
    "parallel_tool_calls": {"tools": [{"functionDeclarations": [{"name": "f"}]}]},
    "response_format": {"generationConfig": {"responseMimeType": "application/json"}},
    "reasoning_effort": {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True}}},
    "reasoning_summary": {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}},
    "reasoning_encrypted_content": {},
}
"""What of the body says it; signatures come without being asked for."""
ASKS_FOR_NOTHING = {
    "background": b"false",
    "modalities": b'["text"]',
    "service_tier": b'"auto"',
    "store": b"false",
    "truncation": b'"disabled"',
}


def cases() -> Iterator[tuple[str, Endpoint, str]]:
    for parameter in PARAMETERS.values():
        for endpoint, spellings in (
            (Endpoint.CHAT, parameter.chat),
            (Endpoint.RESPONSES, parameter.responses),
            (Endpoint.MESSAGES, parameter.messages),
        ):
            for spelling in spellings:
                yield parameter.name, endpoint, spelling


def request(name: str, endpoint: Endpoint, spelling: str, raw: bytes = b'{"some": "value"}') -> GenerationRequest:
    passthrough = {} if name in SET_HERE else {name: msgspec.Raw(b"40" if name == "top_k" else raw)}
    return ask(endpoint=endpoint, parameters={name: spelling}, passthrough=passthrough, **SET_HERE.get(name, {}))


@pytest.mark.parametrize(("name", "endpoint", "spelling"), list(cases()))
def test_p10_a_parameter_is_sent_or_refused(name: str, endpoint: Endpoint, spelling: str) -> None:
    asked = request(name, endpoint, spelling)

    if name in SAID:
        sent = body(asked)
        del sent["contents"]
        assert sent == SAID[name]
    else:
        assert refusal(asked) == spelling


def test_p10_nothing_is_passed_through_that_google_does_not_know() -> None:
    assert SAID.keys() & {name for name, parameter in PARAMETERS.items() if parameter.passthrough} == {"top_k"}


@pytest.mark.parametrize(("name", "raw"), list(ASKS_FOR_NOTHING.items()))
def test_values_that_only_ask_for_what_it_does_anyway(name: str, raw: bytes) -> None:
    asked = request(name, Endpoint.CHAT, name, raw)

    assert refusal(asked) is None
    assert body(asked) == body(ask())
    assert refusal(request(name, Endpoint.CHAT, name, b'"something"')) == name
