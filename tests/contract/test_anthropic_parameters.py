"""The `anthropic` SDK's types of messages, walked to their leaves: nothing that it can send is unknown here.

From the types comes a request for every field at every depth. Each is either understood, or refused by name as known
and not supported; a new SDK with a new field fails until somebody decides what becomes of it.
"""

from __future__ import annotations

import collections.abc
import itertools
import json
import os
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import typing_extensions
from anthropic import BaseModel
from anthropic.types import message_count_tokens_params, message_create_params

from rest_bridge.messages_decode import decode_count_tokens, decode_messages
from server.domain.errors import GatewayError, Reason
from server.domain.parameters import PARAMETERS
from server.domain.request import BuiltInTool, GenerationRequest

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
MINIMAL: dict[str, Any] = {"model": "acme/test-1", "max_tokens": 9000, "messages": MESSAGES}
FOREIGN = (
    "container_upload",
    "search_result",
    "server_tool_use",
    "tool_reference",
    "browser_state",
    "_tool_result",
)
"""Kinds of blocks that belong to tools of Anthropic's own."""
NOT_SUPPORTED = {
    "container",
    "diagnostics",
    "inference_geo",
    "messages[].content[].caller",
    "messages[].content[].citations",
    "messages[].content[].toolset_name",
    "messages[].content[].transformations",
    "messages[].content[].type",
    "messages[].content[].content[].type",
    "messages[].content[].content[].citations",
    "messages[].content[].content[].transformations",
    "messages[].content[].content[].source.content[].transformations",
    "messages[].content[].source.content[].transformations",
    "speed",
    "thinking.type",
    "tools[].allowed_callers",
    "tools[].defer_loading",
    "tools[].input_examples",
    "user_profile_id",
    "workspace_id",
}
GATEWAYS_OWN = {"model", "messages", "stream", "system", "cache_control"}
ASKS_FOR_NOTHING: list[tuple[str, Any]] = [
    ("service_tier", "auto"),
    ("speed", "standard"),
    ("thinking", {"type": "disabled"}),
]

NEEDED: dict[str, dict[str, Any]] = {"tool_choice": {"tools": [{"name": "name", "input_schema": {"type": "object"}}]}}
"""What must stand beside a parameter."""

LEAVES: dict[tuple[str, str], list[Any]] = {
    ("Base64ImageSourceParam", "data"): ["iVBORw0KGgo="],
    ("Base64PDFSourceParam", "data"): ["JVBERi0xLjQ="],
    ("URLImageSourceParam", "url"): ["https://example.com/a.png"],
    ("URLPDFSourceParam", "url"): ["https://example.com/a.pdf"],
    ("ThinkingConfigEnabledParam", "budget_tokens"): [1024, 8000],
    ("ToolParam", "input_schema"): [{"type": "object", "properties": {"a": {"type": "string"}}}],
    ("JSONOutputFormatParam", "schema"): [{"type": "object"}],
}
"""Values of fields whose type says less than there is to say."""


OF_THE_CLIENT = (typing.IO, os.PathLike)


def hints(typed_dict: Any) -> dict[str, Any]:
    return typing_extensions.get_type_hints(typed_dict, include_extras=True)


def samples(kind: Any) -> Iterator[Any]:
    """Values of a type; of an object, one for each of its fields and each of that field's values."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing_extensions.Required, typing_extensions.NotRequired, typing.Annotated):
        yield from samples(arguments[0])
    elif origin in (Union, types.UnionType):
        yield from itertools.chain.from_iterable(samples(argument) for argument in arguments)
    elif origin is Literal:
        yield from arguments
    elif origin is dict:
        yield {"1": next(samples(arguments[1]))}
    elif origin in (list, collections.abc.Iterable, collections.abc.Sequence) or hasattr(origin, "__protocol_attrs__"):
        yield from ([value] for value in samples(arguments[0]))
    elif typing_extensions.is_typeddict(kind):
        yield from objects(kind)
    elif origin in OF_THE_CLIENT or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return  # a file that the SDK reads, or a block of an answer, which goes back as one of the others
    else:
        yield {str: "name", int: 1, float: 0.5, bool: True, object: {"a": 1}, type(None): None}[kind]


def objects(kind: Any) -> Iterator[dict[str, Any]]:
    fields = hints(kind)
    values = {name: LEAVES.get((kind.__name__, name)) or list(samples(hint)) for name, hint in fields.items()}
    least = {name: values[name][0] for name, hint in fields.items() if is_required(kind, hint)}
    yield least
    for name, each in values.items():
        for value in each:
            if value is not None or type(None) in get_args(fields[name]):
                yield {**least, name: value}


def is_required(kind: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    return origin is typing_extensions.Required or (kind.__total__ and origin is not typing_extensions.NotRequired)


def requests(kind: Any, minimal: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, hint in hints(kind).items():
        if name not in ("model", "messages", "max_tokens"):
            for value in samples(hint):
                yield name, {**minimal, **NEEDED.get(name, {}), name: value}
    for value in samples(hints(kind)["messages"]):
        if fits(value[0]):
            yield "messages", {**minimal, "messages": value}


def fits(message: dict[str, Any]) -> bool:
    """The types let a message of any role hold blocks of any kind; the API does not."""
    said = {"tool_use", "thinking", "redacted_thinking"}
    content = message["content"]
    kinds = {block["type"] for block in content} if isinstance(content, list) else set()
    if any(kind.endswith(FOREIGN) and kind != "tool_result" for kind in kinds):
        return True
    match message["role"]:
        case "assistant":
            return kinds <= said | {"text"}
        case "user":
            return not kinds & said
        case _:
            return kinds <= {"text"}


CREATE = list(requests(message_create_params.MessageCreateParamsBase, MINIMAL))
CREATE += [("stream", {**MINIMAL, "stream": stream}) for stream in (True, False)]
COUNT = list(
    requests(message_count_tokens_params.MessageCountTokensParams, {"model": "acme/test-1", "messages": MESSAGES})
)


def created(body: dict[str, Any]) -> GenerationRequest:
    return decode_messages(json.dumps(body).encode()).request


def counted(body: dict[str, Any]) -> GenerationRequest:
    return decode_count_tokens(json.dumps(body).encode())


def refusal(decode: Any, body: dict[str, Any]) -> str | None:
    """The field for which the request is refused as known and not supported; None where it is understood."""
    try:
        decode(body)
    except GatewayError as error:
        if error.reason is Reason.UNSUPPORTED_PARAMETER and error.param is not None:
            return re.sub(r"\[\d+\]", "[]", error.param)
        raise AssertionError(f"{error.description} {json.dumps(body)[:600]}") from None
    return None


def test_every_field_that_the_sdk_can_send_is_known() -> None:
    assert len(CREATE) > 300
    assert {refusal(created, body) for _, body in CREATE} - {None} == NOT_SUPPORTED


def test_every_field_of_a_count_is_known() -> None:
    refused = {refusal(counted, body) for _, body in COUNT} - {None}
    assert refused <= NOT_SUPPORTED


@pytest.mark.parametrize("name", sorted({name for name, _ in CREATE}))
def test_no_parameter_vanishes(name: str) -> None:
    """It is refused by name, or a provider must honour it, or it is a hint, or the gateway sees to it itself."""
    for body in (body for parameter, body in CREATE if parameter == name):
        value = body[name]
        if refusal(created, body) is not None or value is None or (name, value) in ASKS_FOR_NOTHING:
            continue
        request = created(body)
        if name in GATEWAYS_OWN:
            assert name not in PARAMETERS
        elif name == "service_tier":
            assert bytes(request.hints["service_tier"]) == b'"default"'
        elif name == "metadata":
            assert ("user" in request.hints) == bool(value.get("user_id"))
        elif name == "thinking":
            assert request.reasoning is not None
            assert request.reasoning.thinking == value["type"]
        elif name == "output_config":
            assert len(request.parameters) == 1 + sum(1 for field in value.values() if field is not None)
        elif name == "tool_choice" and value["type"] == "auto":
            assert ("parallel_tool_calls" in request.parameters) == value.get("disable_parallel_tool_use", False)
        else:
            spelt = {spelling: canonical for canonical, spelling in request.parameters.items()}
            assert name in spelt, body
            assert name in PARAMETERS[spelt[name]].messages


def test_tools_of_anthropics_own_reach_the_router_by_name() -> None:
    """It refuses them where no offer can run them."""
    kinds = set()
    for name, body in CREATE:
        if name == "tools" and refusal(created, body) is None:
            [tool] = created(body).tools
            if isinstance(tool, BuiltInTool):
                assert tool.param == "tools[0]"
                kinds.add(tool.type)
    assert {"bash_20250124", "web_search_20250305", "web_fetch_20250910"} <= kinds


def test_the_walk_reaches_every_depth() -> None:
    """The walk itself: a message, a block in it, a block in that."""
    texts = {json.dumps(body["messages"]) for name, body in CREATE if name == "messages"}
    assert any('"tool_result"' in text and '"base64"' in text for text in texts)
    assert any('"content": [{"content"' in text or '"1h"' in text for text in texts)
