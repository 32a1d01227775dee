"""Requests in the gemini dialect, one rule a test: sampling, tools, formats, thinking, options."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from server.domain.errors import GatewayError, Reason
from server.domain.request import (
    BuiltInTool,
    CustomTool,
    Endpoint,
    FunctionTool,
    GenerationRequest,
    OutputFormat,
    ReasoningOptions,
    Sampling,
    ToolChoice,
)
from server.providers.gemini import GeminiAdapter, url
from server.providers.gemini_encode import encode
from server.providers.gemini_options import gemini_options
from tests.unit.gemini_cases import NEW, OLD, PLAIN, body, offer, refusal
from tests.unit.openai_cases import ask

SCHEMA = (
    b'{"zebra": 1.50, "type" : "object", "additionalProperties": false, "$defs": {"a": {"type": ["string", "null"]}}}'
)
F = FunctionTool("f", description="Does f.", parameters=msgspec.Raw(SCHEMA))
G = FunctionTool("g")


def config(request: GenerationRequest, model: str = NEW) -> Any:
    return body(request, model).get("generationConfig")


def calling(*tools: FunctionTool, choice: ToolChoice | None = None) -> Any:
    found = body(ask(tools=tools, tool_choice=choice))
    return found.get("toolConfig", {}).get("functionCallingConfig")


def test_a_plain_request_says_nothing_more() -> None:
    assert body(ask()) == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


def test_every_sampling_parameter_has_its_name() -> None:
    sampling = Sampling(
        temperature=0.25, top_p=0.5, frequency_penalty=0.5, presence_penalty=-0.5, seed=7, stop=("END", "."),
        max_output_tokens=99, n=2, logprobs=True, top_logprobs=3,
    )  # fmt: skip
    assert config(ask(sampling=sampling)) == {
        "temperature": 0.25, "topP": 0.5, "frequencyPenalty": 0.5, "presencePenalty": -0.5, "seed": 7,
        "stopSequences": ["END", "."], "maxOutputTokens": 99, "candidateCount": 2, "responseLogprobs": True,
        "logprobs": 3,
    }  # fmt: skip


def test_zero_is_sent_and_unset_is_not() -> None:
    assert config(ask(sampling=Sampling(temperature=0.0, seed=0))) == {"temperature": 0.0, "seed": 0}


# Tools.


def test_p9_a_functions_schema_goes_byte_for_byte_as_json_schema() -> None:
    sent = encode(offer(), ask(tools=(F, G)))

    assert b'"parametersJsonSchema":' + SCHEMA in sent
    assert msgspec.json.decode(sent)["tools"] == [
        {
            "functionDeclarations": [
                {"name": "f", "description": "Does f.", "parametersJsonSchema": msgspec.json.decode(SCHEMA)},
                {"name": "g"},
            ]
        }
    ]


def allowed(mode: str, *names: str) -> ToolChoice:
    tools = [{"type": "function", "name": name} for name in names]
    return ToolChoice("allowed", raw=msgspec.Raw(msgspec.json.encode({"mode": mode, "tools": tools})))


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("none"), {"mode": "NONE"}),
        (ToolChoice("required"), {"mode": "ANY"}),
        (ToolChoice("named", name="g"), {"mode": "ANY", "allowedFunctionNames": ["g"]}),
        (allowed("required", "g", "f"), {"mode": "ANY", "allowedFunctionNames": ["f", "g"]}),
        (allowed("auto", "g"), {"mode": "VALIDATED", "allowedFunctionNames": ["g"]}),
    ],
)
def test_tool_choices_where_names_never_stand_beside_auto(choice: ToolChoice | None, sent: Any) -> None:
    assert calling(F, G, choice=choice) == sent


def test_a_strict_function_is_validated() -> None:
    strict = FunctionTool("s", strict=True)

    assert calling(strict) == {"mode": "VALIDATED"}
    assert calling(strict, choice=ToolChoice("auto")) == {"mode": "VALIDATED"}
    assert calling(strict, choice=ToolChoice("required")) == {"mode": "ANY"}


@pytest.mark.parametrize("choice", [ToolChoice("none"), ToolChoice("auto"), ToolChoice("required")])
def test_a_choice_without_functions_is_left_out(choice: ToolChoice) -> None:
    assert "toolConfig" not in body(ask(tool_choice=choice))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": (CustomTool("c"),), "parameters": {"tools": "tools"}}, "tools"),
        ({"tools": (BuiltInTool("web_search", msgspec.Raw(b"{}"), "tools[0]"),)}, "tools[0]"),
        ({"tools": (F,), "tool_choice": ToolChoice("named", name="c", custom=True)}, "tool_choice"),
        ({"tools": (F,), "tool_choice": ToolChoice("built_in", raw=msgspec.Raw(b"{}"))}, "tool_choice"),
        ({"tools": (F,), "tool_choice": allowed("auto", "other")}, "tool_choice"),
        ({"tools": (F,), "parallel_tool_calls": False}, "parallel_tool_calls"),
    ],
)
def test_what_tools_cannot_say_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(ask(**fields)) == param


def test_parallel_calls_are_what_it_does_anyway() -> None:
    assert body(ask(tools=(F,), parallel_tool_calls=True)) == body(ask(tools=(F,)))


# Output formats.


def test_p9_an_output_schema_goes_byte_for_byte() -> None:
    wanted = OutputFormat("json_schema", name="answer", schema=msgspec.Raw(SCHEMA), strict=True)
    sent = encode(offer(), ask(output_format=wanted))

    assert b'"responseMimeType":"application/json","responseJsonSchema":' + SCHEMA in sent


def test_json_without_a_schema_and_plain_text() -> None:
    assert config(ask(output_format=OutputFormat("json_object"))) == {"responseMimeType": "application/json"}
    assert config(ask(output_format=OutputFormat("text"))) is None


def test_a_schemas_description_has_no_place() -> None:
    wanted = OutputFormat("json_schema", name="a", schema=msgspec.Raw(b"{}"), description="What it is.")
    assert refusal(ask(output_format=wanted, parameters={"response_format": "text.format"})) == "text.format"


# Thinking.


@pytest.mark.parametrize(
    ("model", "effort", "sent"),
    [
        (NEW, "minimal", {"thinkingLevel": "MINIMAL", "includeThoughts": True}),
        (NEW, "low", {"thinkingLevel": "LOW", "includeThoughts": True}),
        (NEW, "high", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        (NEW, "xhigh", {"thinkingLevel": "XHIGH", "includeThoughts": True}),
        (NEW, "none", None),
        ("gemini-flash-latest", "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
        (OLD, "none", {"thinkingBudget": 0}),
        (OLD, "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        (OLD, "medium", {"thinkingBudget": 8192, "includeThoughts": True}),
        (OLD, "max", {"thinkingBudget": 24_576, "includeThoughts": True}),
        ("models/gemini-2.5-pro", "max", {"thinkingBudget": 32_768, "includeThoughts": True}),
        ("gemini-2.5-pro", "none", None),
        (PLAIN, "low", None),
        ("gemma-3-27b-it", "high", None),
    ],
)
def test_effort_is_a_level_or_a_budget_by_model_or_refused(model: str, effort: str, sent: Any) -> None:
    request = ask(reasoning=ReasoningOptions(effort=effort), parameters={"reasoning_effort": "reasoning.effort"})

    if sent is None:
        assert refusal(request, model) == "reasoning.effort"
    else:
        assert config(request, model) == {"thinkingConfig": sent}


def test_a_summary_of_the_thoughts_can_be_had_alone() -> None:
    wanted = ask(reasoning=ReasoningOptions(summary="auto"), parameters={"reasoning_summary": "reasoning.summary"})

    assert config(wanted) == {"thinkingConfig": {"includeThoughts": True}}
    assert refusal(wanted, PLAIN) == "reasoning.summary"


def test_no_thinking_of_a_model_that_does_not_think_is_what_it_does() -> None:
    assert config(ask(reasoning=ReasoningOptions(effort="none")), PLAIN) is None


@pytest.mark.parametrize(
    ("model", "wanted", "sent"),
    [
        (OLD, ReasoningOptions("medium", thinking="enabled", budget_tokens=5000), 5000),
        (OLD, ReasoningOptions("high", thinking="enabled", budget_tokens=60_000), 24_576),
        (OLD, ReasoningOptions(thinking="adaptive"), -1),
        (OLD, ReasoningOptions(thinking="disabled"), 0),
        ("gemini-2.5-pro", ReasoningOptions(thinking="disabled"), None),
        (NEW, ReasoningOptions(thinking="disabled"), None),
        (PLAIN, ReasoningOptions(thinking="adaptive"), None),
    ],
)
def test_anthropics_words_for_thinking(model: str, wanted: ReasoningOptions, sent: int | None) -> None:
    found = config(ask(endpoint=Endpoint.MESSAGES, reasoning=wanted), model)

    assert (None if found is None else found["thinkingConfig"]["thinkingBudget"]) == sent


def test_anthropics_words_for_thinking_where_there_are_levels() -> None:
    enabled = ReasoningOptions("medium", thinking="enabled", budget_tokens=5000)

    assert config(ask(reasoning=enabled)) == {"thinkingConfig": {"thinkingLevel": "MEDIUM", "includeThoughts": True}}
    assert config(ask(reasoning=ReasoningOptions(thinking="adaptive"))) == {"thinkingConfig": {"includeThoughts": True}}


# Where it goes, and what clients add.


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-2.5-flash", "/models/gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "/models/gemini-2.5-flash"),
        ("tunedModels/a-1", "/tunedModels/a-1"),
        ("odd model?x", "/models/odd%20model%3Fx"),
    ],
)
def test_the_model_stands_in_the_path(model: str, path: str) -> None:
    base = "http://127.0.0.1:9/v1beta"
    assert url(offer(model), stream=False) == f"{base}{path}:generateContent"
    assert url(offer(model), stream=True) == f"{base}{path}:streamGenerateContent?alt=sse"


def options(**given: str) -> dict[str, Any]:
    return {"provider_options": {"google": {key: msgspec.Raw(value.encode()) for key, value in given.items()}}}


def test_options_are_merged_into_the_body_and_its_config() -> None:
    given = options(safetySettings='[{"category": "X"}]', generationConfig='{"topK": 40, "temperature": 1}')
    sent = body(ask(sampling=Sampling(temperature=0.5, max_output_tokens=9), **given))

    assert sent["safetySettings"] == [{"category": "X"}]
    assert sent["generationConfig"] == {"temperature": 1, "maxOutputTokens": 9, "topK": 40}


@pytest.mark.parametrize(
    ("key", "value", "param"),
    [
        ("contents", "[]", "contents"),
        ("systemInstruction", "{}", "systemInstruction"),
        ("system_instruction", "{}", "system_instruction"),
        ("cachedContent", '"cachedContents/x"', "cachedContent"),
        ("cached_content", '"cachedContents/x"', "cached_content"),
        ("model", '"models/dear"', "model"),
        ("generationConfig", '{"maxOutputTokens": 1000000}', "generationConfig.maxOutputTokens"),
        ("generation_config", '{"candidate_count": 8}', "generation_config.candidate_count"),
    ],
)
def test_k_options_may_not_touch_what_was_checked_and_reserved(key: str, value: str, param: str) -> None:
    with pytest.raises(GatewayError) as refused:
        gemini_options(ask(**options(**{key: value})), "google")

    assert (refused.value.reason, refused.value.param) == (
        Reason.UNSUPPORTED_PARAMETER,
        f"provider_options.google.{param}",
    )


def test_options_of_another_provider_are_none_of_ours() -> None:
    assert body(ask(provider_options={"other": {"contents": msgspec.Raw(b"[]")}})) == body(ask())


def test_a_config_that_is_no_object_is_refused() -> None:
    with pytest.raises(GatewayError) as refused:
        gemini_options(ask(**options(generationConfig="[1]")), "google")
    assert refused.value.reason is Reason.INVALID_VALUE


def test_the_adapter_names_what_it_cannot_say() -> None:
    adapter = GeminiAdapter.__new__(GeminiAdapter)
    request = ask(endpoint=Endpoint.RESPONSES, parameters={"verbosity": "text.verbosity"})

    assert adapter.supports(offer(), request) == "text.verbosity"
    assert adapter.supports(offer(), ask()) is None
