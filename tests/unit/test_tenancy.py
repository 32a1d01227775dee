"""No id of a shared provider account goes through."""

from __future__ import annotations

import msgspec
import pytest

from server.domain.errors import GatewayError, Reason
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


def test_a_made_up_provider_is_named_no_longer_than_anything_else() -> None:
    asked = msgspec.structs.replace(asking(), provider_options={"x" * 100_000: {"s" + "_" * 100_000 + "tore": ID}})
    with pytest.raises(GatewayError) as refused:
        refuse_shared_ids(asked)
    assert len(refused.value.param or "") < 500


def test_options_that_only_shape_the_answer_are_none_of_this() -> None:
    names = ("top_k", "cache_control", "safetySettings", "generationConfig", "metadata", "response_format")
    asked = msgspec.structs.replace(asking(), provider_options={"acme": dict.fromkeys(names, msgspec.Raw(b"{}"))})
    refuse_shared_ids(asked)
