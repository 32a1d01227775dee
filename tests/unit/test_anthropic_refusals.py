"""What the anthropic dialect refuses, by the client's own name of it; and that it says or refuses everything."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from server.domain.errors import GatewayError, Reason
from server.domain.parameters import PARAMETERS as ALL_PARAMETERS
from server.domain.pricing import PriceList, PriceTier
from server.domain.request import (
    Audio,
    BuiltInTool,
    CustomTool,
    Endpoint,
    File,
    FunctionTool,
    GenerationRequest,
    Image,
    Opaque,
    OutputFormat,
    ReasoningOptions,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from server.providers.anthropic_models import abilities
from server.providers.anthropic_refusals import PARAMETERS, UNPRICED_OPTIONS, unsupported
from server.providers.anthropic_schema import constrained
from tests.unit.anthropic_cases import ADAPTIVE, ALWAYS, BUDGET, OLD, offer
from tests.unit.openai_cases import ask, turn

RAW = msgspec.Raw
F = FunctionTool("f")


def wanting(name: str, **fields: Any) -> GenerationRequest:
    return ask(parameters={name: f"client.{name}"}, **fields)


def refused(request: GenerationRequest, model: str = BUDGET, **fields: Any) -> str | None:
    return unsupported(offer(model, **fields), request)


@pytest.mark.parametrize("name", sorted(ALL_PARAMETERS.keys() - PARAMETERS))
def test_what_the_api_has_no_word_for_is_refused_by_name(name: str) -> None:
    telling = Sampling(n=2, seed=1, logprobs=True, top_logprobs=3, frequency_penalty=1, presence_penalty=1)
    raw = {name: RAW(b'{"a":1}')}

    assert refused(wanting(name, sampling=telling, passthrough=raw)) == f"client.{name}"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("n", {"sampling": Sampling(n=1)}),
        ("logprobs", {"sampling": Sampling(logprobs=False)}),
        ("top_logprobs", {"sampling": Sampling(top_logprobs=0)}),
        ("frequency_penalty", {"sampling": Sampling(frequency_penalty=0.0)}),
        ("presence_penalty", {"sampling": Sampling(presence_penalty=0.0)}),
        ("modalities", {"passthrough": {"modalities": RAW(b'["text"]')}}),
        ("store", {"passthrough": {"store": RAW(b"false")}}),
        ("response_format", {"output_format": OutputFormat("text")}),
    ],
)
def test_what_asks_for_nothing_is_no_reason_to_refuse(name: str, fields: Any) -> None:
    assert refused(wanting(name, **fields)) is None


@pytest.mark.parametrize(
    ("model", "name", "fields", "taken"),
    [
        (BUDGET, "temperature", {"sampling": Sampling(temperature=1.0)}, True),
        (BUDGET, "temperature", {"sampling": Sampling(temperature=1.1)}, False),
        (ADAPTIVE, "temperature", {"sampling": Sampling(temperature=0.5)}, False),
        (ADAPTIVE, "temperature", {"sampling": Sampling(temperature=1.0)}, True),
        (ADAPTIVE, "top_p", {"sampling": Sampling(top_p=0.5)}, False),
        (BUDGET, "top_p", {"sampling": Sampling(top_p=0.5)}, True),
        (BUDGET, "top_p", {"sampling": Sampling(top_p=0.5, temperature=0.5)}, False),
        (OLD, "top_p", {"sampling": Sampling(top_p=0.5, temperature=0.5)}, True),
        (BUDGET, "temperature", {"sampling": Sampling(temperature=0.5), "reasoning": ReasoningOptions("low")}, False),
        (BUDGET, "top_p", {"sampling": Sampling(top_p=0.9), "reasoning": ReasoningOptions("low")}, False),
        (ADAPTIVE, "top_k", {}, False),
        (BUDGET, "top_k", {}, True),
        (BUDGET, "reasoning_effort", {"reasoning": ReasoningOptions("low")}, True),
        (BUDGET, "reasoning_effort",
         {"reasoning": ReasoningOptions("low"), "sampling": Sampling(max_output_tokens=1024)}, False),
        (OLD, "reasoning_effort", {"reasoning": ReasoningOptions("low")}, False),
        (OLD, "reasoning_effort", {"reasoning": ReasoningOptions("none")}, True),
        (ALWAYS, "reasoning_effort", {"reasoning": ReasoningOptions("none")}, False),
        (ADAPTIVE, "reasoning_effort", {"reasoning": ReasoningOptions("none")}, True),
        (BUDGET, "service_tier", {"passthrough": {"service_tier": RAW(b'"auto"')}}, True),
        (BUDGET, "service_tier", {"passthrough": {"service_tier": RAW(b'"flex"')}}, False),
        (BUDGET, "response_format", {"output_format": OutputFormat("json_object")}, False),
        (OLD, "response_format", {"output_format": OutputFormat("json_schema", "a", RAW(b'{"type":"null"}'))}, False),
        (BUDGET, "tools", {"tools": (CustomTool("c"),)}, False),
        (BUDGET, "user", {"passthrough": {"user": RAW(b'"u"')}}, True),
    ],
)  # fmt: skip
def test_what_depends_on_the_model_or_the_value(model: str, name: str, fields: Any, taken: bool) -> None:
    assert refused(wanting(name, **fields), model) == (None if taken else f"client.{name}")


@pytest.mark.parametrize(
    ("schema", "taken"),
    [
        ('{"type":"object","properties":{"a":{"type":"integer"}},"additionalProperties":false}', True),
        ('{"type":"object","properties":{"a":{"type":"integer","minimum":1}}}', False),
        ('{"type":"object","additionalProperties":true}', False),
        ('{"type":"array","items":{"type":"string"},"minItems":2}', False),
        ('{"type":"array","items":{"type":"string"},"minItems":1}', True),
        ('{"type":"string","format":"email","examples":["a"]}', True),
        ('{"type":"string","format":"postcode"}', False),
        ('{"oneOf":[{"type":"object"},{"type":"object"}]}', False),
        ('{"type":"object","properties":{"a":true}}', False),
    ],
)
def test_p9_a_strict_schema_that_could_be_broken_is_refused_by_name(schema: str, taken: bool) -> None:
    def wanted(strict: bool) -> GenerationRequest:
        return wanting(
            "response_format", output_format=OutputFormat("json_schema", "a", RAW(schema.encode()), strict=strict)
        )

    assert refused(wanted(True)) == (None if taken else "client.response_format")
    assert refused(wanted(False)) is None


def schema_refused(schema: str, *, strict: bool = True) -> str | None:
    wanted = OutputFormat("json_schema", "a", RAW(schema.encode()), strict=strict)
    return refused(wanting("response_format", output_format=wanted))


@pytest.mark.parametrize("levels", [12, 30])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ('{"type":["array","array"],"items":', "}"),
        ('{"type":["array","null"],"items":', "}"),
        ('{"type":["object","null"],"anyOf":[', "]}"),
        ('{"type":["object","null"],"oneOf":[', "]}"),
        ('{"type":["object","null"],"allOf":[', "]}"),
        ('{"type":["object","null"],"$defs":{"a":', "}}"),
    ],
)
def test_a_list_of_types_does_not_double_with_each_level(opening: str, closing: str, levels: int) -> None:
    """It did, before anything was paid or any provider asked: a kilobyte of schema held a worker for hours."""
    schema = RAW((opening * levels + '{"type":"string"}' + closing * levels).encode())
    fitted = msgspec.json.encode(constrained(schema, strict=True))

    assert len(fitted) < 4 * len(bytes(schema))


def test_what_stands_beside_a_list_of_types_is_kept_once() -> None:
    schema = {
        "type": ["object", "null"],
        "$defs": {"n": {"type": "number"}},
        "properties": {"a": {"$ref": "#/$defs/n"}},
        "allOf": [{"type": "object"}],
        "anyOf": [{"const": 1}, {"const": None}],
    }

    assert constrained(RAW(msgspec.json.encode(schema)), strict=True) == {
        "anyOf": [
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "additionalProperties": False},
            {"type": "null"},
        ],
        "$defs": {"n": {"type": "number"}},
        "allOf": [
            {"type": "object", "additionalProperties": False},
            {"anyOf": [{"const": 1}, {"const": None}]},
        ],
    }


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "schema",
    [
        pytest.param('{"type":["array"],"items":' * 300 + '{"type":"string"}' + "}" * 300, id="deep"),
        pytest.param('{"type":"array","items":' * 450 + '{"type":"string"}' + "}" * 450, id="deeper"),
        pytest.param('{"type":"object","properties":{"a":' * 300 + "{}" + "}}" * 300, id="deep properties"),
        pytest.param('{"anyOf":[' + ",".join(['{"type":"null"}'] * 6000) + "]}", id="wide"),
        pytest.param('{"type":[{"a":1},"null"]}', id="types that are none"),
        pytest.param('{"type":["text","null"]}', id="an unknown type"),
    ],
)
def test_a_schema_that_no_compiler_takes_is_refused_by_name(schema: str, strict: bool) -> None:
    assert schema_refused(schema, strict=strict) == "client.response_format"


def test_forty_objects_within_each_other_that_may_be_null_are_few() -> None:
    schema = '{"type":["object","null"],"properties":{"a":' * 40 + '{"type":"null"}' + "}}" * 40

    assert schema_refused(schema) is None


@pytest.mark.parametrize(
    "schema",
    [
        '{"type":"string","format":["date"]}',
        '{"type":"object","properties":{"a":{"type":"string","format":{}}}}',
        '{"type":"integer","minimum":1,"description":5}',
    ],
)
def test_a_keyword_with_a_value_of_another_kind_is_one_that_is_not_enforced(schema: str) -> None:
    assert schema_refused(schema) == "client.response_format"
    assert schema_refused(schema, strict=False) is None


@pytest.mark.parametrize(
    ("model", "choice", "fields", "taken"),
    [
        (BUDGET, ToolChoice("required"), {"tools": (F,)}, True),
        (BUDGET, ToolChoice("required"), {"tools": (F,), "reasoning": ReasoningOptions("low")}, False),
        (ADAPTIVE, ToolChoice("required"), {"tools": (F,), "reasoning": ReasoningOptions("low")}, True),
        ("claude-fable-5-1", ToolChoice("named", "f"), {"tools": (F,)}, False),
        ("claude-fable-5-1", ToolChoice("auto"), {"tools": (F,)}, True),
        (BUDGET, ToolChoice("named", "g"), {"tools": (F,)}, False),
        (BUDGET, ToolChoice("required"), {}, False),
        (BUDGET, ToolChoice("auto"), {}, True),
        (BUDGET, ToolChoice("built_in", raw=RAW(b'{"type":"web_search"}')), {"tools": (F,)}, False),
        (BUDGET, ToolChoice("named", "f", custom=True), {"tools": (F,)}, False),
    ],
)
def test_a_forced_choice_that_the_model_would_refuse_is_refused_by_name(
    model: str, choice: ToolChoice, fields: Any, taken: bool
) -> None:
    """With manual thinking, and by the newest models always: it is not turned into `auto` behind the client's back."""
    assert refused(wanting("tool_choice", tool_choice=choice, **fields), model) == (
        None if taken else "client.tool_choice"
    )


@pytest.mark.parametrize(
    ("part", "role", "field"),
    [
        (Audio("UklG", "wav"), Role.USER, "content"),
        (Image(file_id="file-1"), Role.USER, "content"),
        (File(file_id="file-1"), Role.USER, "content"),
        (File(data="UEsDBA==", media_type="application/zip"), Role.USER, "content"),
        (File(data=base64.b64encode(b"\xff").decode(), media_type="text/plain"), Role.USER, "content"),
        (Image(url="https://a.example/a.png"), Role.ASSISTANT, "content"),
        (ToolCall("c", "f", '{"cut'), Role.ASSISTANT, "tool_calls"),
        (ToolCall("c", "f", "[1]"), Role.ASSISTANT, "tool_calls"),
        (ToolCall("c", "f", "free text", custom=True), Role.ASSISTANT, "tool_calls"),
        (ToolResult("c", (Text("x"),), custom=True), Role.TOOL, "content"),
        (ToolResult("c", (Image(file_id="file-1"),)), Role.TOOL, "content"),
    ],
)
def test_content_that_cannot_be_said_is_refused_by_its_place(part: Any, role: Role, field: str) -> None:
    turns = (turn(Role.USER, "Hi"), turn(role, part))

    assert refused(ask(*turns)) == f"messages[1].{field}"
    assert refused(ask(*turns, endpoint=Endpoint.RESPONSES)) == "input"


def test_what_only_another_provider_runs_is_refused_by_its_place() -> None:
    search = BuiltInTool("web_search", RAW(b'{"type":"web_search"}'), "tools[0]")
    item = Opaque("web_search_call", RAW(b"{}"), "input[3]")

    assert refused(ask(tools=(search,))) == "tools[0]"
    assert refused(ask(turn(Role.USER, item), endpoint=Endpoint.RESPONSES)) == "input[3]"


def test_a_name_has_no_place() -> None:
    assert refused(ask(turn(Role.USER, "Hi", name="ann"))) == "messages[0].name"


@pytest.mark.parametrize("option", ["base_url", "api_key", "model", "messages", "stream", " Stream"])
def test_forbidden_options_are_refused(option: str) -> None:
    with pytest.raises(GatewayError) as raised:
        refused(ask(provider_options={"anthropic": {option: RAW(b'"x"')}}))
    assert raised.value.reason is Reason.UNSUPPORTED_PARAMETER
    assert raised.value.param == f"provider_options.anthropic.{option}"


@pytest.mark.parametrize("option", sorted(UNPRICED_OPTIONS))
def test_options_that_cost_what_has_no_price_are_refused(option: str) -> None:
    asked = ask(provider_options={"anthropic": {option: RAW(b"[]")}})

    assert refused(asked) == f"provider_options.anthropic.{option}"


def test_a_dearer_speed_needs_a_price() -> None:
    asked = ask(provider_options={"anthropic": {"speed": RAW(b'"fast"')}})
    base = {"input_text_tokens": 1, "output_text_tokens": 1}

    assert refused(asked, prices=PriceList(base)) == "provider_options.anthropic.speed"
    assert refused(asked, prices=PriceList(base, (PriceTier(base, service_tier="fast"),))) is None


def test_a_speed_that_is_no_word_has_no_price() -> None:
    asked = ask(provider_options={"anthropic": {"speed": RAW(b"[]")}})

    assert refused(asked, prices=PriceList({"output_text_tokens": 1})) == "provider_options.anthropic.speed"


@pytest.mark.parametrize(
    ("name", "thinking", "sampling", "schemas", "late_system"),
    [
        ("claude-3-haiku-20240307", "none", True, False, False),
        ("claude-3-7-sonnet-latest", "budget", True, False, False),
        ("claude-opus-4-20250514", "budget", True, False, False),
        ("anthropic/claude-haiku-4.5", "budget", True, True, False),
        ("claude-sonnet-4-5-20250929", "budget", True, True, False),
        ("claude-opus-4-6", "adaptive", True, True, False),
        ("claude-opus-4-7", "adaptive", False, True, False),
        ("claude-opus-4-8", "adaptive", False, True, True),
        ("claude-sonnet-5", "adaptive", False, True, True),
        ("claude-haiku-5-5@20261001", "adaptive", False, True, True),
        ("claude-mythos-preview", "adaptive", False, True, True),
        ("kimi-k2-thinking", "budget", True, True, False),
    ],
)
def test_models_are_known_by_their_names(
    name: str, thinking: str, sampling: bool, schemas: bool, late_system: bool
) -> None:
    able = abilities(name)

    assert (able.thinking, able.sampling, able.schemas, able.late_system) == (thinking, sampling, schemas, late_system)


@pytest.mark.parametrize(
    ("name", "forced"),
    [
        ("claude-opus-5", True),
        ("claude-opus-5-5", False),
        ("claude-sonnet-5", True),
        ("claude-sonnet-5-5", False),
        ("claude-haiku-5-5", True),
        ("claude-fable-5-1", False),
    ],
)
def test_a_model_that_refuses_a_demanded_call_is_not_asked_for_one(name: str, forced: bool) -> None:
    assert abilities(name).forced_tools is forced
