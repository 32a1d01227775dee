"""The `openai` SDK's types of chat completions, walked to their leaves: nothing that it can send is unknown here.

From the types comes a request for every field at every depth. Each is either understood, or refused by name as known
and not supported; a new SDK with a new field fails until somebody decides what becomes of it.
"""

from __future__ import annotations

import collections.abc
import itertools
import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import typing_extensions
from openai.types.chat import completion_create_params as sdk
from openai.types.chat.chat_completion_content_part_param import FileFile

from rest_bridge.chat_decode import ChatOrder, decode_chat
from server.domain.errors import GatewayError, Reason
from server.domain.parameters import PARAMETERS

MINIMAL: dict[str, Any] = {"model": "acme/test-1", "messages": [{"role": "user", "content": "hi"}]}
GATEWAYS_OWN = {"model", "messages", "stream", "stream_options"}
NOT_SUPPORTED = {
    "audio",
    "function_call",
    "functions",
    "messages[].audio",
    "messages[].content[].prompt_cache_breakpoint",
    "messages[].function_call",
    "messages[].role",
    "modalities",
    "stream_options.include_obfuscation",
}
ASKS_FOR_NOTHING: list[tuple[str, Any]] = [
    ("n", 1),
    ("modalities", ["text"]),
    ("response_format", {"type": "text"}),
]

NEEDED: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "tool_choice": {
        "tools": [
            {"type": "function", "function": {"name": "name"}},
            {"type": "custom", "custom": {"name": "tool"}},
        ]
    },
    "top_logprobs": {"logprobs": True},
}
"""What must stand beside a parameter."""

LEAVES: dict[tuple[str, str], list[Any]] = {
    ("ImageURL", "url"): ["https://example.com/a.png", "data:image/png;base64,iVBORw0KGgo="],
    ("InputAudio", "data"): ["UklGRg=="],
    ("File", "file"): [
        {"file_id": "file-1"},
        {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"},
    ],
    ("ChatCompletionNamedToolChoiceCustomParam", "custom"): [{"name": "tool"}],
    ("JSONSchema", "schema"): [{"type": "object"}],
}
"""Values of fields whose type says less than there is to say."""

BESIDE: dict[str, dict[str, Any]] = {
    "ChatCompletionAssistantMessageParam": {"content": "text", "refusal": "text"},
    "JSONSchema": {"schema": {"type": "object"}},
}
"""What an object needs beside what its type requires."""


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
    else:
        yield {str: "name", int: 1, float: 0.5, bool: True, object: {"a": 1}, type(None): None}[kind]


def objects(kind: Any) -> Iterator[dict[str, Any]]:
    fields = hints(kind)
    values = {name: LEAVES.get((kind.__name__, name)) or list(samples(hint)) for name, hint in fields.items()}
    required = {name: values[name][0] for name, hint in fields.items() if is_required(kind, hint)}
    least = {**required, **BESIDE.get(kind.__name__, {})}
    yield least
    for name, each in values.items():
        for value in each:
            if value is not None or type(None) in get_args(fields[name]):
                yield {**least, name: value}


def is_required(kind: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    return origin is typing_extensions.Required or (kind.__total__ and origin is not typing_extensions.NotRequired)


def requests() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, hint in hints(sdk.CompletionCreateParamsBase).items():
        if name != "model":
            for value in samples(hint):
                yield name, {**MINIMAL, **NEEDED.get(name, {}), name: value}
    for stream in (True, False, None):
        yield "stream", {**MINIMAL, "stream": stream}


ALL = list(requests())


def decode(body: dict[str, Any]) -> ChatOrder:
    return decode_chat(json.dumps(body).encode())


def refusal(body: dict[str, Any]) -> str | None:
    """The field for which the request is refused as known and not supported; None where it is understood.

    A field that is unknown, or a value that is wrong, is what these tests are there to find.
    """
    try:
        decode(body)
    except GatewayError as error:
        if error.reason is Reason.UNSUPPORTED_PARAMETER and error.param is not None:
            return re.sub(r"\[\d+\]", "[]", error.param)
        raise
    return None


def test_every_field_that_the_sdk_can_send_is_known() -> None:
    assert len(ALL) > 150
    assert {refusal(body) for _, body in ALL} - {None} == NOT_SUPPORTED


@pytest.mark.parametrize("name", sorted({name for name, _ in ALL}))
def test_no_parameter_vanishes(name: str) -> None:
    """It is refused by name, or a provider must honour it, or the gateway does so itself."""
    for body in (body for parameter, body in ALL if parameter == name):
        value = body[name]
        if refusal(body) is not None or value is None or (name, value) in ASKS_FOR_NOTHING:
            continue
        if name in GATEWAYS_OWN:
            assert name not in PARAMETERS
            continue
        spelt = {spelling: canonical for canonical, spelling in decode(body).request.parameters.items()}
        assert name in spelt, body
        assert name in PARAMETERS[spelt[name]].chat


def test_the_samples_of_a_file_have_all_of_its_fields() -> None:
    """One of two fields must be there, which the type does not say."""
    assert {name for sample in LEAVES["File", "file"] for name in sample} == hints(FileFile).keys()


def test_the_walk_reaches_every_depth() -> None:
    """The walk itself: a message, a part in it, an object in that, a field in that."""
    texts = {json.dumps(body["messages"]) for name, body in ALL if name == "messages"}
    assert any('"detail": "original"' in text for text in texts)
    assert any('"tool_calls"' in text and '"custom"' in text for text in texts)
    assert any('"timezone"' in json.dumps(body) for _, body in ALL)
    assert any('"syntax": "lark"' in json.dumps(body) for _, body in ALL)
