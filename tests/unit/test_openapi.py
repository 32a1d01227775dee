"""The OpenAPI description: valid, whole, and of the same routes as the protos, Envoy and the handlers have."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from rest_bridge.documents import PAGE_FILES, as_yaml
from rest_bridge.envoy import source_path
from rest_bridge.errors import ErrorBody
from rest_bridge.http import Route
from rest_bridge.openapi import WITHOUT_KEY, describe
from rest_bridge.openapi_protos import Binding, protos
from rest_bridge.openapi_surfaces import SURFACES
from server.domain.errors import ErrorCode, Reason
from server.domain.limits import RANGES
from tests.fakes.openapi import VERSION, Checker, document, operations, resolved, rest_routes

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
OPERATIONS = [
    pytest.param(method, path, operation, id=f"{method} {path}") for method, path, operation in operations(document())
]
WITH_BODY = [one for one in OPERATIONS if "requestBody" in one.values[2]]  # type: ignore[operator]
BINDINGS = [pytest.param(binding, id=f"{binding.method} {binding.path}") for binding in protos().bindings()]


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def test_yaml_says_the_same_as_json() -> None:
    assert yaml.load(as_yaml(document()), Loader=yaml.CSafeLoader) == document()


def test_every_route_of_the_protos_is_described_and_no_other() -> None:
    described = {(method, path) for method, path, _ in operations(document())}
    assert described == {(binding.method, binding.path) for binding in protos().bindings()}


def test_every_handler_has_a_route_in_the_protos_and_the_other_way_round() -> None:
    handlers = {(route.method, plain(route.path)) for route in rest_routes()}
    faces = {
        (binding.method, plain(binding.path))
        for binding in protos().bindings()
        if binding.is_face and binding.service != WITHOUT_KEY
    }
    assert handlers == faces


def test_envoy_transcodes_every_service_that_has_routes() -> None:
    assert set(transcoder()["services"]) == {f"aistats.gateway.v1.{one.service}" for one in protos().bindings()}


@pytest.mark.parametrize("binding", BINDINGS)
def test_envoy_forwards_the_route_and_refuses_its_other_methods(binding: Binding) -> None:
    path = re.sub(r"\{\w+\}", "page.js" if binding.service == WITHOUT_KEY else "x1", binding.path)
    allowed = {one.method for one in protos().bindings() if plain(one.path) == plain(binding.path)}
    for method in METHODS:
        route = found(method, path)
        if method in allowed:
            assert "route" in route, (method, path)
        else:
            assert route["direct_response"]["status"] == 405, (method, path)
            [added] = [one["header"] for one in route["response_headers_to_add"] if one["header"]["key"] == "allow"]
            assert {one.strip() for one in added["value"].split(",")} == allowed


def test_a_route_without_types_is_not_described() -> None:
    described = SURFACES["ChatRestService.CreateChatCompletion"]
    del SURFACES["ChatRestService.CreateChatCompletion"]  # type: ignore[attr-defined]
    try:
        with pytest.raises(LookupError, match="no line in the table of surfaces"):
            describe(rest_routes(), VERSION)
    finally:
        SURFACES["ChatRestService.CreateChatCompletion"] = described  # type: ignore[index]


def test_a_handler_that_no_proto_names_is_not_described() -> None:
    stranger = Route("GET", "/v1/stranger", rest_routes()[0].handler)
    with pytest.raises(LookupError, match="/v1/stranger"):
        describe([*rest_routes(), stranger], VERSION)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_an_operation_says_all_that_there_is_to_know(method: str, path: str, operation: Any) -> None:
    assert operation["summary"]
    assert operation["description"]
    [tag] = operation["tags"]
    assert tag in {one["name"] for one in document()["tags"]}
    for parameter in operation["parameters"]:
        parameter = resolved(document(), parameter)
        assert parameter["description"], parameter["name"]
        assert parameter["schema"], parameter["name"]
    variables = {one["name"] for one in operation["parameters"] if one.get("in") == "path"}
    assert variables == set(re.findall(r"\{(\w+)\}", path))
    if method in ("POST", "PATCH") and "requestBody" in operation:
        assert all(content["examples"] for content in operation["requestBody"]["content"].values())
    for status, response in operation["responses"].items():
        response = resolved(document(), response)
        assert response["description"]
        assert {"x-generation-id", "x-request-id"} <= response["headers"].keys()
        for content in response.get("content", {}).values():
            assert "example" in content, status


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_examples_are_what_schemas_allow(method: str, path: str, operation: Any) -> None:
    checker = strict()
    body = operation.get("requestBody", {"content": {}})["content"]
    for content in body.values():
        for name, example in content["examples"].items():
            assert checker.problems(content["schema"], example["value"]) == [], name
    for status, response in operation["responses"].items():
        for content in resolved(document(), response).get("content", {}).values():
            assert checker.problems(content["schema"], content["example"]) == [], status


@pytest.mark.parametrize(("method", "path", "operation"), WITH_BODY)
def test_every_field_at_the_top_of_a_body_is_described(method: str, path: str, operation: Any) -> None:
    for content in operation["requestBody"]["content"].values():
        schema = resolved(document(), content["schema"])
        assert [name for name, field in schema["properties"].items() if not field.get("description")] == []


def test_ids_of_operations_are_unique() -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document())]
    assert len(ids) == len(set(ids))


def test_every_error_is_described_with_its_reasons() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["Error"]["properties"]["error"]["enum"] == [code.value for code in ErrorCode]
    assert schemas["Error"]["properties"]["reason"]["enum"] == [reason.value for reason in Reason]
    said = schemas["Error"]["properties"]["reason"]["description"]
    for reason in Reason:
        assert re.search(rf"- `{reason.value}` \(\d+\): .{{10,}}\.", said), reason
    assert schemas["Error"]["properties"].keys() == {field.name for field in msgspec.structs.fields(ErrorBody)}


def test_routes_that_generate_may_answer_with_what_only_they_can() -> None:
    responses = document()["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {"402", "409", "429", "502"} <= responses.keys()
    assert not {"402", "409", "429", "502"} & document()["paths"]["/v1/models"]["get"]["responses"].keys()


def test_bounds_are_those_that_decoders_check() -> None:
    fields = document()["components"]["schemas"]["ChatRequest"]["properties"]
    for name in ("temperature", "top_p", "frequency_penalty", "n", "top_logprobs", "max_completion_tokens"):
        limits = RANGES["max_output_tokens" if name == "max_completion_tokens" else name]
        assert fields[name]["exclusiveMinimum" if limits.above else "minimum"] == limits.low
        assert fields[name]["maximum"] == (limits.high or 2**63 - 1)
    assert fields["messages"]["minItems"] == 1
    assert fields["tools"]["maxItems"] == 128


def test_keys_are_asked_for_where_they_are_needed() -> None:
    described = document()
    assert described["security"] == [{"bearer": []}]
    keyless = {path for _, path, operation in operations(described) if operation.get("security") == []}
    signed = {"/v1/videos/{video_id}/download"}
    assert keyless == {"/healthz", "/openapi.json", "/openapi.yaml", "/docs", "/docs/{name}"} | signed
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        assert described["paths"][path]["post"]["security"] == [{"bearer": []}, {"x-api-key": []}]


def test_streams_are_described_event_by_event() -> None:
    streaming = {
        path: operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
        for _, path, operation in operations(document())
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
    }
    assert streaming.keys() >= {
        "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/images/generations", "/v1/images/edits",
        "/v1/audio", "/v1/audio/speech", "/v1/audio/transcriptions",
    }  # fmt: skip
    for schema in streaming.values():
        assert schema["x-event-schema"]
        assert "event" in schema["description"]


def test_the_page_names_only_files_that_are_served() -> None:
    page = (files("rest_bridge") / "docs_page" / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert set(named) <= {f"/docs/{name}" for name in PAGE_FILES} | {"/openapi.yaml"}
    assert "<style" not in page
    assert "onclick" not in page
    assert re.search(r"<script(?![^>]*src=)", page) is None


@cache
def strict() -> Checker:
    return Checker(document(), strict=True)


def plain(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


@cache
def manager() -> Any:
    config = yaml.load(source_path().read_text(), Loader=yaml.CSafeLoader)
    return config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def transcoder() -> Any:
    return next(one for one in manager()["http_filters"] if one["name"].endswith("grpc_json_transcoder"))[
        "typed_config"
    ]


def found(method: str, path: str) -> Any:
    """The route that Envoy takes for a plain request: the first that matches."""
    for route in manager()["route_config"]["virtual_hosts"][0]["routes"]:
        match = route["match"]
        if any(one["name"] not in (":method",) for one in match.get("headers", ())):
            continue  # of gRPC, or of a browser's preflight
        if "path" in match:
            fits = match["path"] == path
        elif "safe_regex" in match:
            fits = re.fullmatch(match["safe_regex"]["regex"], path) is not None
        else:
            fits = path.startswith(match["prefix"])
        for header in match.get("headers", ()):
            wanted = header["string_match"]
            pattern = wanted["safe_regex"]["regex"] if "safe_regex" in wanted else re.escape(wanted["exact"])
            fits = fits and re.fullmatch(pattern, method) is not None
        if fits:
            return route
    raise AssertionError(f"no route for {path}")
