"""What is sent to the providers that ship, where their APIs differ from OpenAI's: as their own entries have it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.catalogue import load_catalog
from server.domain.catalog import Catalog, Offer
from server.domain.request import Endpoint, GenerationRequest, Reasoning, Role, Text, ToolCall
from server.domain.seals import made_by
from server.providers.openai_chat_encode import encode_chat
from tests.unit.openai_cases import ask, turn

SHIPPED: Catalog = load_catalog(None, {})
CALL = ToolCall("call_1", "f", "{}")
REASONS = frozenset({"reasoning_effort"})


def offer_of(provider_id: str, params: frozenset[str] = REASONS) -> Offer:
    return Offer(SHIPPED.providers[provider_id], "some-model", frozenset({Endpoint.CHAT}), params)


def chat(provider_id: str, request: GenerationRequest, params: frozenset[str] = REASONS) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encode_chat(offer_of(provider_id, params), request))
    return body


def assistant(provider_id: str, *parts: Any, params: frozenset[str] = REASONS) -> dict[str, Any]:
    """How an assistant's earlier turn goes back, but for its role and its calls."""
    message = chat(provider_id, ask(turn(Role.ASSISTANT, *parts)), params)["messages"][0]
    return {name: value for name, value in message.items() if name not in ("role", "tool_calls")}


@pytest.mark.parametrize(
    ("provider_id", "expected"),
    [
        ("together", {"content": "Yes.", "reasoning_content": "Hm."}),
        ("fireworks", {"content": "Yes.", "reasoning_content": "Hm."}),
        ("xai", {"content": "Yes.", "reasoning_content": "Hm."}),
        ("openrouter", {"content": "Yes.", "reasoning_content": "Hm."}),
        ("deepseek", {"content": "Yes.", "reasoning_content": "Hm."}),
        ("cerebras", {"content": "Yes.", "reasoning": "Hm."}),
        ("ollama", {"content": "Yes.", "reasoning": "Hm."}),
        ("vllm", {"content": "Yes.", "reasoning": "Hm."}),
        ("groq", {"content": "Yes."}),
        ("cohere", {"content": "Yes."}),
        ("openai", {"content": "Yes."}),
        (
            "mistral",
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                    {"type": "text", "text": "Yes."},
                ]
            },
        ),
    ],
)
def test_earlier_reasoning_goes_back_where_the_provider_takes_it(provider_id: str, expected: dict[str, Any]) -> None:
    """Groq, Cerebras, Cohere and OpenAI answer 400 to a field that they do not know, Mistral 422."""
    assert assistant(provider_id, Reasoning(text="Hm."), Text("Yes.")) == expected


@pytest.mark.parametrize("parts", [(CALL,), (Text("Yes."),), (Reasoning(), CALL)], ids=["call", "text", "lost"])
def test_deepseek_never_misses_the_reasoning_of_a_turn(parts: tuple[Any, ...]) -> None:
    assert assistant("deepseek", *parts)["reasoning_content"] == ""
    assert "reasoning_content" not in assistant("fireworks", *parts[-1:])


def test_mistrals_own_thoughts_go_back_with_their_signature_and_to_models_that_think() -> None:
    own, foreign = made_by("chat", "mistral", "s1"), made_by("chat", "openrouter", "s2")

    def thinking(signature: str, params: frozenset[str] = REASONS) -> Any:
        return assistant("mistral", Reasoning(text="Hm.", signature=signature), CALL, params=params)["content"]

    block = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    assert thinking(own) == [{**block, "signature": "s1"}]
    assert thinking(foreign) == [block]
    assert thinking(own, frozenset()) is None
