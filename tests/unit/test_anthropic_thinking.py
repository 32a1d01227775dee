"""Thinking in the anthropic dialect: how much of it is asked for, and how its sealed blocks come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.domain.request import (
    Endpoint,
    Reasoning,
    ReasoningOptions,
    Role,
    Sampling,
    ToolCall,
)
from tests.fakes.anthropic_wire import message, redacted, text, thinking
from tests.unit.anthropic_cases import ADAPTIVE, ALWAYS, BUDGET, body_of, both
from tests.unit.openai_cases import ask, turn
from tests.unit.test_anthropic_encode import USER, result, said


@pytest.mark.parametrize(
    ("model", "wanted", "limit", "sent"),
    [
        (BUDGET, ReasoningOptions("minimal"), 9999, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        (BUDGET, ReasoningOptions("medium"), 9999, {"thinking": {"type": "enabled", "budget_tokens": 8192}}),
        (BUDGET, ReasoningOptions("max"), 9999, {"thinking": {"type": "enabled", "budget_tokens": 9998}}),
        (BUDGET, ReasoningOptions("high", thinking="enabled", budget_tokens=2000), 9999,
         {"thinking": {"type": "enabled", "budget_tokens": 2000}}),
        (BUDGET, ReasoningOptions(thinking="adaptive"), 9999, {"thinking": {"type": "enabled", "budget_tokens": 8192}}),
        (BUDGET, ReasoningOptions("none"), 9999, {"thinking": {"type": "disabled"}}),
        (BUDGET, ReasoningOptions(summary="auto"), 9999, {}),
        (ADAPTIVE, ReasoningOptions("minimal"), 9, "low"),
        (ADAPTIVE, ReasoningOptions("high"), 9, "high"),
        (ADAPTIVE, ReasoningOptions("xhigh"), 9, "xhigh"),
        (ADAPTIVE, ReasoningOptions("max", thinking="enabled", budget_tokens=2000), 9, "max"),
        ("claude-opus-4-6", ReasoningOptions("xhigh"), 9, "max"),
        (ADAPTIVE, ReasoningOptions(summary="auto"), 9, {"thinking": {"type": "adaptive", "display": "summarized"}}),
        (ADAPTIVE, ReasoningOptions(thinking="disabled"), 9, {"thinking": {"type": "disabled"}}),
        (ALWAYS, ReasoningOptions(thinking="disabled"), 9, {}),
        ("claude-sonnet-5-5", ReasoningOptions("none"), 9, {"thinking": {"type": "between_tools"}}),
        ("claude-sonnet-5-5", ReasoningOptions(thinking="disabled"), 9, {"thinking": {"type": "between_tools"}}),
        ("claude-sonnet-5-5", ReasoningOptions("max", thinking="disabled"), 9,
         {"thinking": {"type": "between_tools"}, "output_config": {"effort": "high"}}),
        ("claude-sonnet-5-5", ReasoningOptions("xhigh"), 9, "xhigh"),
    ],
)  # fmt: skip
def test_an_effort_is_a_budget_or_adaptive_by_the_model(
    model: str, wanted: ReasoningOptions, limit: int, sent: Any
) -> None:
    body = body_of(ask(reasoning=wanted, sampling=Sampling(max_output_tokens=limit)), model)

    if isinstance(sent, str):
        sent = {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": sent}}
    assert {name: body[name] for name in ("thinking", "output_config") if name in body} == sent


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        (ReasoningOptions("low"), {"output_config": {"effort": "low"}}),
        (
            ReasoningOptions("low", thinking="disabled"),
            {"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}},
        ),
        (ReasoningOptions(thinking="adaptive"), {"thinking": {"type": "adaptive", "display": "summarized"}}),
    ],
)
def test_the_vendors_own_words_are_kept_apart(wanted: ReasoningOptions, sent: Any) -> None:
    body = body_of(ask(endpoint=Endpoint.MESSAGES, reasoning=wanted), ADAPTIVE)

    assert {name: body[name] for name in ("thinking", "output_config") if name in body} == sent


BLOCKS = [
    [thinking("Hm.", "EqQB+/a==")],
    [thinking("", "EqQBsig")],
    [redacted("EmwK+/d==")],
    [thinking("One.", "EqQBone"), thinking("Two, größer.", "EqQBtwo")],
    [redacted("Emw1"), thinking("One.", "EqQB"), redacted("Emw2"), redacted("Emw3")],
    [thinking("One.", 'odd."sig,12.')],
]


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES])
def test_p6_thinking_goes_back_byte_for_byte_before_its_call(blocks: list[Any], endpoint: Endpoint) -> None:
    """Chat keeps one text and one signature of a whole turn; Responses keeps one of each block."""
    told = both(message(*blocks, text("So:"))).only
    if endpoint is Endpoint.CHAT:
        kept = [Reasoning(told.reasoning, signature=told.signature)]
    else:
        kept = [
            Reasoning(block.get("thinking", ""), encrypted=seal)
            for block, seal in zip(blocks, _seals(told.signature, blocks), strict=True)
        ]
    sent = said(
        USER,
        turn(Role.ASSISTANT, *kept, ToolCall("c", "f", "{}")),
        result("c"),
        endpoint=endpoint,
    )
    assert sent[1]["content"][:-1] == blocks
    assert sent[1]["content"][-1]["type"] == "tool_use"


def _seals(joined: str, blocks: list[Any]) -> list[str]:
    """What each block's own reasoning item holds."""
    found = []
    for block in blocks:
        native = block.get("signature") or block["data"]
        end = joined.index(native) + len(native)
        found.append(joined[:end])
        joined = joined[end:]
    return found


def test_redacted_thinking_of_the_messages_surface() -> None:
    history = turn(Role.ASSISTANT, Reasoning("Hm.", signature="EqQB"), Reasoning(encrypted="EmwK"), "Yes.")
    sent = said(USER, history, USER, endpoint=Endpoint.MESSAGES)

    assert sent[1]["content"][:2] == [thinking("Hm.", "EqQB"), redacted("EmwK")]


@pytest.mark.parametrize(
    "part", [Reasoning("secret thought"), Reasoning(summary=("secret thought",), encrypted="gAAAAABo")]
)
@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES])
def test_p8_another_makers_thoughts_are_never_said_aloud(part: Reasoning, endpoint: Endpoint) -> None:
    sent = said(USER, turn(Role.ASSISTANT, part, "Yes."), USER, endpoint=endpoint)

    assert "secret" not in json.dumps(sent)
    assert sent[1]["content"] == [{"type": "text", "text": "Yes."}]
