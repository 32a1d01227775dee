"""Every parameter on every surface against every upstream: it is in the upstream's body, or it is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from server.domain.catalog import ProviderProfile
from server.domain.errors import GatewayError, Reason
from server.domain.parameters import PARAMETERS, Parameter
from server.domain.request import (
    BuiltInTool,
    Endpoint,
    FunctionTool,
    GenerationRequest,
    OutputFormat,
    ReasoningOptions,
    Sampling,
    ToolChoice,
)
from server.providers.openai import OpenAIAdapter
from server.providers.openai_apis import Api, api_for, unsupported
from server.providers.openai_chat_encode import encode_chat
from server.providers.openai_responses_encode import encode_responses
from server.providers.provider_options import FORBIDDEN_OPTIONS
from tests.unit.openai_cases import BOTH, CHAT, RESPONSES, CountingIds, FixedClock, ask, offer

SCHEMA = msgspec.Raw(b'{"zebra": 1.50, "type" : "object", "apple": {}}')

SET: dict[str, dict[str, Any]] = {
    "temperature": {"sampling": Sampling(temperature=0.25)},
    "top_p": {"sampling": Sampling(top_p=0.5)},
    "frequency_penalty": {"sampling": Sampling(frequency_penalty=0.5)},
    "presence_penalty": {"sampling": Sampling(presence_penalty=-0.5)},
    "seed": {"sampling": Sampling(seed=7)},
    "stop": {"sampling": Sampling(stop=("END",))},
    "max_output_tokens": {"sampling": Sampling(max_output_tokens=99)},
    "n": {"sampling": Sampling(n=2)},
    "logprobs": {"sampling": Sampling(logprobs=True)},
    "top_logprobs": {"sampling": Sampling(top_logprobs=3)},
    "logit_bias": {"sampling": Sampling(logit_bias=msgspec.Raw(b'{"50256": -100}'))},
    "tools": {"tools": (FunctionTool("f", parameters=SCHEMA),)},
    "tool_choice": {"tool_choice": ToolChoice("required")},
    "parallel_tool_calls": {"parallel_tool_calls": False},
    "response_format": {"output_format": OutputFormat("json_object")},
    "reasoning_effort": {"reasoning": ReasoningOptions(effort="low")},
    "reasoning_summary": {"reasoning": ReasoningOptions(summary="auto")},
    "reasoning_encrypted_content": {},
}
"""How the surfaces set each parameter that is not only passed through."""

CHAT_BODY: dict[str, Any] = {
    "temperature": {"temperature": 0.25},
    "top_p": {"top_p": 0.5},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "presence_penalty": {"presence_penalty": -0.5},
    "seed": {"seed": 7},
    "stop": {"stop": ["END"]},
    "max_output_tokens": {"max_tokens": 99},
    "n": {"n": 2},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"top_logprobs": 3},
    "logit_bias": {"logit_bias": {"50256": -100}},
    "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": json.loads(bytes(SCHEMA))}}]},
    "tool_choice": {"tool_choice": "required"},
    "parallel_tool_calls": {"parallel_tool_calls": False},
    "response_format": {"response_format": {"type": "json_object"}},
    "reasoning_effort": {"reasoning_effort": "low"},
}
RESPONSES_BODY: dict[str, Any] = {
    "temperature": {"temperature": 0.25},
    "top_p": {"top_p": 0.5},
    "max_output_tokens": {"max_output_tokens": 99},
    "logprobs": {"include": ["message.output_text.logprobs"]},
    "top_logprobs": {"top_logprobs": 3},
    "tools": {"tools": [{"type": "function", "name": "f", "parameters": json.loads(bytes(SCHEMA))}]},
    "tool_choice": {"tool_choice": "required"},
    "parallel_tool_calls": {"parallel_tool_calls": False},
    "response_format": {"text": {"format": {"type": "json_object"}}},
    "verbosity": {"text": {"verbosity": ["canary"]}},
    "reasoning_effort": {"reasoning": {"effort": "low"}},
    "reasoning_summary": {"reasoning": {"summary": "auto"}},
    "reasoning_encrypted_content": {"include": ["reasoning.encrypted_content"]},
}
"""Where each must stand in the upstream's body; one that is not listed and not passed through must be refused."""

CANARY = msgspec.Raw(b'["canary"]')
UPSTREAMS: dict[Api, ProviderProfile] = {"chat": CHAT, "responses": RESPONSES}


def matrix() -> Iterator[Any]:
    for parameter in PARAMETERS.values():
        for surface, spellings in ((Endpoint.CHAT, parameter.chat), (Endpoint.RESPONSES, parameter.responses)):
            for spelling in spellings:
                for upstream in UPSTREAMS:
                    case = f"{parameter.name} as {spelling} on {surface} to {upstream}"
                    yield pytest.param(parameter, surface, spelling, upstream, id=case)


def with_parameter(parameter: Parameter, surface: Endpoint, spelling: str) -> GenerationRequest:
    fields = {"passthrough": {parameter.name: CANARY}} if parameter.passthrough else SET[parameter.name]
    return ask(endpoint=surface, parameters={parameter.name: spelling}, **fields)


def body_of(request: GenerationRequest, upstream: Api) -> dict[str, Any]:
    encode = encode_chat if upstream == "chat" else encode_responses
    decoded = json.loads(encode(offer(UPSTREAMS[upstream]), request))
    assert isinstance(decoded, dict)
    return decoded


@pytest.mark.parametrize(("parameter", "surface", "spelling", "upstream"), list(matrix()))
def test_p10_no_parameter_vanishes(parameter: Parameter, surface: Endpoint, spelling: str, upstream: Api) -> None:
    request = with_parameter(parameter, surface, spelling)

    refused = unsupported(request, upstream)

    expected = (CHAT_BODY if upstream == "chat" else RESPONSES_BODY).get(parameter.name)
    if expected is None and parameter.passthrough:
        expected = {parameter.name: ["canary"]}
    if refused is not None:
        assert refused == spelling
        return
    assert expected is not None, "neither refused nor expected in the body"
    body = body_of(request, upstream)
    for key, value in expected.items():
        assert plain(body[key]) == value


def plain(value: Any) -> Any:
    """Without `strict`, which the Responses API is told explicitly where the client said nothing."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {key: item for key, item in value.items() if key != "strict"} if isinstance(value, dict) else value


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_p10_what_is_refused_is_just_what_the_api_lacks(upstream: Api) -> None:
    refused = {
        parameter.name
        for parameter in PARAMETERS.values()
        for surface, spellings in ((Endpoint.CHAT, parameter.chat), (Endpoint.RESPONSES, parameter.responses))
        for spelling in spellings
        if unsupported(with_parameter(parameter, surface, spelling), upstream) is not None
    }

    lacking: dict[Api, set[str]] = {
        "chat": {
            "reasoning_summary", "reasoning_encrypted_content", "access_programs", "background", "background_options",
            "context_management", "conversation", "image", "include", "max_tool_calls", "prompt", "truncation",
            "audio", "modalities", "functions", "function_call",
        },
        "responses": {
            "frequency_penalty", "presence_penalty", "seed", "stop", "n", "logit_bias", "audio", "modalities",
            "prediction", "web_search_options", "functions", "function_call", "background",
        },
    }  # fmt: skip
    assert refused == lacking[upstream]


def test_every_parameter_has_a_sample() -> None:
    generating = {
        name for name, parameter in PARAMETERS.items() if parameter.chat or parameter.responses or parameter.messages
    }

    assert {name for name in generating if not PARAMETERS[name].passthrough} == set(SET)


def test_a_parameter_that_nobody_knows_is_refused_too() -> None:
    assert unsupported(ask(parameters={"mystery": "my.mystery"}), "chat") == "my.mystery"


@pytest.mark.parametrize(
    ("raw", "upstream", "name"),
    [(b'["text"]', "chat", "modalities"), (b'[ "text" ]', "chat", "modalities"), (b"false", "responses", "background")],
)
def test_values_that_ask_for_nothing_special_pass(raw: bytes, upstream: Api, name: str) -> None:
    request = ask(parameters={name: name}, passthrough={name: msgspec.Raw(raw)})

    assert unsupported(request, upstream) is None
    assert body_of(request, upstream)[name] == json.loads(raw)


@pytest.mark.parametrize(
    ("endpoint", "profile", "api"),
    [
        (Endpoint.CHAT, CHAT, "chat"),
        (Endpoint.CHAT, RESPONSES, "responses"),
        (Endpoint.CHAT, BOTH, "chat"),
        (Endpoint.RESPONSES, CHAT, "chat"),
        (Endpoint.RESPONSES, RESPONSES, "responses"),
        (Endpoint.RESPONSES, BOTH, "responses"),
        (Endpoint.MESSAGES, BOTH, "chat"),
        (Endpoint.MESSAGES, RESPONSES, "responses"),
    ],
)
def test_the_api_of_the_surface_is_preferred(endpoint: Endpoint, profile: ProviderProfile, api: Api) -> None:
    assert api_for(endpoint, profile) == api


def test_include_is_merged_and_keeps_what_the_client_wrote() -> None:
    request = ask(
        endpoint=Endpoint.RESPONSES,
        parameters={"include": "include", "logprobs": "include"},
        passthrough={"include": msgspec.Raw(b'["web_search_call.results"]')},
        sampling=Sampling(logprobs=True),
    )

    assert body_of(request, "responses")["include"] == ["web_search_call.results", "message.output_text.logprobs"]


# provider_options.


class NoTransport:
    """Nothing here may reach the network."""


def supports(request: GenerationRequest) -> str | None:
    adapter = OpenAIAdapter(NoTransport(), FixedClock(), CountingIds())  # type: ignore[arg-type]
    return adapter.supports(offer(), request)


def options(**fields: bytes) -> dict[str, dict[str, msgspec.Raw]]:
    return {"acme": {key: msgspec.Raw(value) for key, value in fields.items()}}


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_provider_options_are_merged_as_they_are(upstream: Api) -> None:
    request = ask(provider_options=options(top_k=b'{"b" : 1.0, "a":2}', temperature=b"0.9"))
    encode = encode_chat if upstream == "chat" else encode_responses

    body = encode(offer(UPSTREAMS[upstream]), request)

    assert b'"top_k":{"b" : 1.0, "a":2}' in body
    assert json.loads(body)["temperature"] == 0.9


def test_options_of_other_providers_stay_away() -> None:
    request = ask(provider_options={"other": {"base_url": msgspec.Raw(b'"x"'), "top_k": msgspec.Raw(b"1")}})

    assert supports(request) is None
    assert "top_k" not in body_of(request, "chat")


@pytest.mark.parametrize("key", [*sorted(FORBIDDEN_OPTIONS), "Base_URL", "api_key "])
def test_x3_options_that_would_move_the_request_are_refused_by_name(key: str) -> None:
    request = ask(provider_options={"acme": {key: msgspec.Raw(b'"http://evil.test"')}})

    for attempt in (lambda: supports(request), lambda: body_of(request, "chat"), lambda: body_of(request, "responses")):
        with pytest.raises(GatewayError) as caught:
            attempt()
        assert caught.value.reason is Reason.UNSUPPORTED_PARAMETER
        assert caught.value.param == f"provider_options.acme.{key}"


def test_supports_names_built_in_tools_on_a_chat_upstream() -> None:
    tool = BuiltInTool("web_search", msgspec.Raw(b'{"type":"web_search"}'), "tools[1]")
    request = ask(tools=(FunctionTool("f"), tool), parameters={"tools": "tools"})

    assert supports(request) == "tools[1]"
    assert unsupported(request, "responses") is None
    assert body_of(request, "responses")["tools"][1] == {"type": "web_search"}
