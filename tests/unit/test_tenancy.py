"""No id of a shared provider account goes through."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rest_bridge.responses_decode import decode_request
from server.domain.embedding import EmbeddingRequest
from server.domain.errors import GatewayError, Reason
from server.domain.images import ImageRequest
from server.domain.request import (
    BuiltInTool,
    Endpoint,
    File,
    GenerationRequest,
    Image,
    Opaque,
    Role,
    Text,
    ToolResult,
    Turn,
)
from server.pipeline.tenancy import refuse_shared_ids

ID = msgspec.Raw(b'"resp_of_another_team"')


def asking(*turns: Turn, tool: bytes | None = None, **passthrough: bytes) -> GenerationRequest:
    kind = msgspec.json.decode(tool)["type"] if tool else ""
    return GenerationRequest(
        endpoint=Endpoint.RESPONSES,
        model="a/b",
        turns=turns,
        tools=(BuiltInTool(kind, msgspec.Raw(tool), "tools[0]"),) if tool else (),
        passthrough={name: msgspec.Raw(value) for name, value in passthrough.items()},
        parameters={name: name for name in passthrough},
    )


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (asking(Turn(Role.USER, (Image(file_id="file-1"),))), "file_id"),
        (asking(Turn(Role.USER, (Text("x"), File(file_id="file-1")))), "file_id"),
        (asking(Turn(Role.TOOL, (ToolResult("call_1", (Image(file_id="file-1"),)),))), "file_id"),
        (asking(Turn(Role.USER, (Opaque("item_reference", msgspec.Raw(b"{}"), "input[3]"),))), "input[3]"),
        (asking(conversation=b'"conv_1"'), "conversation"),
        (asking(prompt=b'{"id": "pmpt_1"}'), "prompt"),
        (asking(tool=b'{"type": "file_search", "vector_store_ids": ["vs_1"]}'), "tools[0]"),
        (asking(tool=b'{"type": "code_interpreter", "container": "cntr_1"}'), "tools[0]"),
    ],
)
def test_an_id_of_the_providers_is_refused_by_name(request_: GenerationRequest, param: str) -> None:
    with pytest.raises(GatewayError) as refused:
        refuse_shared_ids(request_)
    assert (refused.value.reason, refused.value.param) == (Reason.UNSUPPORTED_PARAMETER, param)


@pytest.mark.parametrize(
    "request_",
    [
        asking(Turn(Role.USER, (Image(url="https://example.com/x.png"), File(data="eA==", filename="x.pdf")))),
        asking(tool=b'{"type": "code_interpreter", "container": {"type": "auto"}}'),
        asking(tool=b'{"type": "web_search"}'),
        asking(user=b'"somebody"'),
    ],
)
def test_what_the_client_brings_itself_is_not(request_: GenerationRequest) -> None:
    refuse_shared_ids(request_)


def sent(**fields: Any) -> GenerationRequest:
    """What a client asks for over HTTP."""
    return decode_request(msgspec.json.encode({"model": "a/b", "input": "Hi", **fields})).generation


def adding(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "additional_tools", "role": "developer", "tools": [tool]}


FILE = {"type": "input_file", "file_id": "file-1"}
SCHEMA = {"type": "object", "properties": {"file_id": {"type": "string"}, "container": {"const": "x"}}}


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "user", "phase": "commentary", "content": [FILE]}, "file_id"),
        ({"type": "function_call_output", "call_id": "c", "name": "f", "output": [FILE]}, "file_id"),
        ({"type": "function_call_output", "call_id": "c", "namespace": "n", "output": [FILE]}, "file_id"),
        (
            {"type": "computer_call_output", "call_id": "c", "output": {**FILE, "type": "computer_screenshot"}},
            "file_id",
        ),
        (adding({"type": "file_search", "vector_store_ids": ["vs_1"]}), "vector_store_ids"),
        (adding({"type": "code_interpreter", "container": "cntr_1"}), "container"),
        ({"id": "msg_1"}, "input[0]"),
    ],
)  # fmt: skip
def test_no_id_is_hidden_in_an_item(item: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as refused:
        refuse_shared_ids(sent(input=[item, {"role": "user", "content": "Hi"}]))
    assert (refused.value.reason, refused.value.param) == (Reason.UNSUPPORTED_PARAMETER, param)


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "code_interpreter", "container": "cntr_1"},
        {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}},
        {"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_1"}},
        {"type": "shell", "environment": {"type": "container_auto", "file_ids": ["file-1"]}},
        {"type": "shell", "environment": {"type": "container_auto", "skills": [{"skill_id": "skill_1"}]}},
        {"type": "image_generation", "input_image_mask": {"file_id": "file-1"}},
        {"type": "namespace", "name": "n", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
    ],
)
def test_no_id_is_hidden_in_a_tool(tool: dict[str, Any]) -> None:
    with pytest.raises(GatewayError) as refused:
        refuse_shared_ids(sent(tools=[tool]))
    assert (refused.value.reason, refused.value.param) == (Reason.UNSUPPORTED_PARAMETER, "tools[0]")


@pytest.mark.parametrize(
    "tool",
    [
        rb'{"type": "image_generation", "input_image_mask": {"file\u005fid": "file-1"}}',
        rb'{"type": "image_generation", "input_image_mask": {"file_id": "file-1", "file_id": null}}',
        rb'{"type": "image_generation", "input_image_mask": {"file_id": "file-1"}, "n": %b}' % (b"9" * 5000),
    ],
)
def test_however_it_is_written(tool: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        refuse_shared_ids(decode_request(b'{"model": "a/b", "input": "Hi", "tools": [%b]}' % tool).generation)
    assert (refused.value.reason, refused.value.param) == (Reason.UNSUPPORTED_PARAMETER, "tools[0]")


def test_what_is_nested_too_deeply_to_be_looked_into_is_refused() -> None:
    deep = BuiltInTool("web_search", msgspec.Raw(b"[" * 100_000 + b"]" * 100_000), "tools[0]")
    with pytest.raises(GatewayError) as refused:
        refuse_shared_ids(msgspec.structs.replace(asking(), tools=(deep,)))
    assert (refused.value.reason, refused.value.param) == (Reason.MALFORMED_JSON, "tools[0]")


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "name": "f", "defer_loading": True, "parameters": SCHEMA}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": [], "memory_limit": "4g"}}]},
        {"tools": [{"type": "image_generation", "input_image_mask": {"image_url": "data:x", "file_id": None}}]},
        {"tools": [{"type": "mcp", "server_label": "s", "server_url": "https://x.example", "headers": {"a": "b"}}]},
        {"input": [{"type": "code_interpreter_call", "container_id": "cntr_1", "code": "1", "outputs": []}]},
        {"input": [{"type": "shell_call", "call_id": "c", "action": {"commands": []},
                    "environment": {"type": "container_reference", "container_id": "cntr_1"}}]},
        {"input": [{"type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "f", "input_schema": SCHEMA}]}]},
        {"input": [{"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": [
            {"type": "container_file_citation", "container_id": "cntr_1", "file_id": "file-1"}]}]}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "name": "f", "output": '{"file_id": "mine"}'}]},
    ],
)  # fmt: skip
def test_schemas_and_what_comes_back_of_an_answer_hold_none(fields: dict[str, Any]) -> None:
    refuse_shared_ids(sent(**fields))


@pytest.mark.parametrize(
    "key",
    [
        *("previous_response_id", "conversation", "prompt", "tools", "store", "background", "include"),
        *("cached_content", "cachedContent", "user", "safety_identifier", "prompt_cache_key", "Previous_Response_ID "),
    ],
)
def test_options_for_a_provider_reach_nothing_shared_either(key: str) -> None:
    asked = asking(Turn(Role.USER, (Text("x"),)))
    asked = msgspec.structs.replace(asked, provider_options={"acme": {"top_k": msgspec.Raw(b"1"), key: ID}})
    with pytest.raises(GatewayError) as refused:
        refuse_shared_ids(asked)
    assert (refused.value.reason, refused.value.param) == (
        Reason.UNSUPPORTED_PARAMETER,
        f"provider_options.acme.{key.strip()}",
    )


@pytest.mark.parametrize("key", ["user", "safety_identifier", "prompt_cache_key", "Safety_Identifier "])
@pytest.mark.parametrize(
    "asked",
    [
        EmbeddingRequest(endpoint=Endpoint.EMBEDDINGS, model="a/b", inputs=("x",)),
        ImageRequest(endpoint=Endpoint.IMAGES, model="a/b", prompt="x"),
    ],
)
def test_no_provider_is_told_who_is_who(asked: EmbeddingRequest | ImageRequest, key: str) -> None:
    refuse_shared_ids(msgspec.structs.replace(asked, provider_options={"acme": {"prompt": ID, "tools": ID}}))
    with pytest.raises(GatewayError) as refused:
        refuse_shared_ids(msgspec.structs.replace(asked, provider_options={"acme": {key: ID}}))
    assert (refused.value.reason, refused.value.param) == (
        Reason.UNSUPPORTED_PARAMETER,
        f"provider_options.acme.{key.strip()}",
    )


def test_a_made_up_provider_is_named_no_longer_than_anything_else() -> None:
    asked = msgspec.structs.replace(asking(), provider_options={"x" * 100_000: {"s" + "_" * 100_000 + "tore": ID}})
    with pytest.raises(GatewayError) as refused:
        refuse_shared_ids(asked)
    assert len(refused.value.param or "") < 500


def test_options_that_only_shape_the_answer_are_none_of_this() -> None:
    names = ("top_k", "cache_control", "safetySettings", "generationConfig", "metadata", "response_format")
    asked = msgspec.structs.replace(asking(), provider_options={"acme": dict.fromkeys(names, msgspec.Raw(b"{}"))})
    refuse_shared_ids(asked)
