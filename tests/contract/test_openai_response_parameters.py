"""The `openai` SDK's types of the Responses API, walked: nothing that it can send is unknown here.

A new SDK with a new parameter, item or part fails these tests until somebody decides what becomes of it.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import typing_extensions
from openai.types import shared_params
from openai.types.responses import (
    ResponseFunctionCallOutputItemParam,
    ResponseInputAudioParam,
    ResponseInputContentParam,
    ResponseInputItemParam,
    ResponseTextConfigParam,
    ToolParam,
    response_create_params,
)

from rest_bridge.responses_decode import decode_request
from server.domain.errors import GatewayError, Reason
from server.domain.parameters import PARAMETERS
from server.domain.response import ResponseRequest

_PARAMETERS = (
    typing_extensions.get_type_hints(response_create_params.ResponseCreateParamsBase).keys()
    | typing_extensions.get_type_hints(response_create_params.ResponseCreateParamsStreaming).keys()
)
_GATEWAYS_OWN = {
    "include",
    "input",
    "instructions",
    "metadata",
    "model",
    "previous_response_id",
    "reasoning",
    "store",
    "stream",
    "stream_options",
    "text",
}
SAMPLES: dict[str, Any] = {
    "access_programs": {"cyber": "standard"},
    "background": True,
    "background_options": {"completion_window": "2h"},
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "image": {"context_compression": "auto"},
    "include": ["file_search_call.results"],
    "input": "Hi",
    "instructions": "Be brief.",
    "max_output_tokens": 5,
    "max_tool_calls": 3,
    "metadata": {"a": "b"},
    "model": "acme/test-1",
    "moderation": {"model": "omni-moderation-latest"},
    "parallel_tool_calls": True,
    "previous_response_id": "resp_" + "0" * 32,
    "prompt": {"id": "pmpt_1"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning": {"effort": "low"},
    "safety_identifier": "s",
    "service_tier": "flex",
    "store": False,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "temperature": 0.5,
    "text": {"verbosity": "low"},
    "tool_choice": "auto",
    "tools": [{"type": "function", "name": "f"}],
    "top_logprobs": 2,
    "top_p": 0.5,
    "truncation": "auto",
    "user": "u",
}


def _members(alias: Any) -> Iterator[Any]:
    """The types that a union is made of, however deeply it is nested."""
    origin = get_origin(alias)
    if origin in (Union, types.UnionType):
        for member in get_args(alias):
            yield from _members(member)
    elif origin in (typing.Annotated, typing_extensions.Required, typing_extensions.NotRequired):
        yield from _members(get_args(alias)[0])
    else:
        yield alias


def _hints(typed_dict: Any) -> dict[str, Any]:
    return typing_extensions.get_type_hints(typed_dict)


def _kinds(union: Any) -> set[str]:
    """The values of `type` that the members of a union may have."""
    return {
        kind
        for member in _members(union)
        for literal in _members(_hints(member).get("type", type(None)))
        if get_origin(literal) is Literal
        for kind in get_args(literal)
    }


def _decode(**fields: Any) -> ResponseRequest:
    return decode_request(json.dumps({"model": "m", "input": "Hi", **fields}).encode())


def _complaint(**fields: Any) -> GatewayError | None:
    try:
        _decode(**fields)
    except GatewayError as error:
        return error
    return None


def test_there_is_a_sample_of_every_parameter_of_the_sdk() -> None:
    assert SAMPLES.keys() == _PARAMETERS


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_parameter_is_the_gateways_own_or_one_that_a_provider_must_honour(name: str) -> None:
    request = _decode(**{name: SAMPLES[name]})
    parameters = request.generation.parameters
    if name in _GATEWAYS_OWN:
        assert request != _decode() or SAMPLES[name] in ("Hi", {"include_obfuscation": False})
    else:
        assert parameters[name] == name
        assert name in PARAMETERS
    for canonical, spelling in parameters.items():
        assert spelling in PARAMETERS[canonical].responses or (canonical, spelling) == ("logprobs", "top_logprobs")
    assert set(request.generation.passthrough) == {n for n in parameters if PARAMETERS[n].passthrough}


def test_every_kind_of_item_is_known() -> None:
    kinds = _kinds(ResponseInputItemParam)
    assert {"message", "function_call", "reasoning", "mcp_call"} <= kinds
    for kind in kinds:
        error = _complaint(input=[{"type": kind}])
        assert error is None or error.param != "input[0].type", kind


@pytest.mark.parametrize(
    ("role", "union"),
    [("user", ResponseInputContentParam), ("user", ResponseInputAudioParam)],
)
def test_every_field_of_every_content_part_is_known(role: str, union: Any) -> None:
    for part in _members(union):
        (kind,) = _kinds(part)
        for field in _hints(part):
            error = _complaint(
                input=[{"role": role, "content": [{"type": kind, field: kind if field == "type" else []}]}]
            )
            assert error is None or error.reason is not Reason.UNKNOWN_PARAMETER, (kind, field)
            assert error is None or error.param != "input[0].content[0].type", kind


def test_every_kind_of_tool_output_part_is_known() -> None:
    for kind in _kinds(ResponseFunctionCallOutputItemParam):
        error = _complaint(input=[{"type": "function_call_output", "call_id": "c", "output": [{"type": kind}]}])
        assert error is None or error.param != "input[0].output[0].type", kind


def test_every_field_of_the_items_that_are_taken_apart_is_known() -> None:
    taken_apart = {"function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning"}
    seen = set()
    for item in _members(ResponseInputItemParam):
        for kind in _kinds(item) & taken_apart:
            seen.add(kind)
            for field in _hints(item).keys() - {"type"}:
                error = _complaint(input=[{"type": kind, field: None}])
                assert error is None or error.reason is not Reason.UNKNOWN_PARAMETER, (kind, field)
    assert seen == taken_apart


def test_every_field_of_a_message_is_known() -> None:
    messages = [
        item for item in _members(ResponseInputItemParam) if "role" in _hints(item) and "content" in _hints(item)
    ]
    assert len(messages) >= 3
    for message in messages:
        for role in (role for literal in _members(_hints(message)["role"]) for role in get_args(literal)):
            for field in _hints(message).keys() - {"role", "content"}:
                error = _complaint(input=[{"role": role, "content": "a", field: None}])
                assert error is None, (role, field)


def test_every_kind_of_tool_and_every_field_of_our_own_is_known() -> None:
    kinds = _kinds(ToolParam)
    assert {"function", "custom", "web_search", "mcp"} <= kinds
    for tool in _members(ToolParam):
        for kind in _kinds(tool):
            assert _complaint(tools=[{"type": kind, "name": "f"}]) is None, kind
            for field in _hints(tool).keys() - {"type", "name"}:
                assert _complaint(tools=[{"type": kind, "name": "f", field: None}]) is None, (kind, field)


def test_every_kind_of_tool_choice_is_known() -> None:
    choice = _hints(response_create_params.ResponseCreateParamsBase)["tool_choice"]
    modes = {value for member in _members(choice) if get_origin(member) is Literal for value in get_args(member)}
    assert modes == {"none", "auto", "required"}
    for mode in modes:
        assert _complaint(tool_choice=mode) is None
    for member in _members(choice):
        if get_origin(member) is not Literal:
            for kind in _kinds(member):
                of_its_own = {"mode": "auto", "tools": []} if kind == "allowed_tools" else {"name": "f"}
                assert _complaint(tool_choice={"type": kind, **of_its_own}) is None, kind


def test_every_option_of_text_and_reasoning_is_known() -> None:
    for field in _hints(ResponseTextConfigParam):
        assert _complaint(text={field: None}) is None, field
    for member in _members(_hints(ResponseTextConfigParam)["format"]):
        for field in _hints(member):
            error = _complaint(text={"format": {"type": next(iter(_kinds(member))), field: None}})
            assert error is None or error.reason is not Reason.UNKNOWN_PARAMETER, field
    for field in _hints(shared_params.Reasoning):
        assert _complaint(reasoning={field: None}) is None, field
    for field in _hints(response_create_params.StreamOptions):
        assert _complaint(stream_options={field: None}) is None, field
