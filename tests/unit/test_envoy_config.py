"""What must hold of Envoy's configuration, committed and rendered, whatever else changes in it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from google.api.annotations_pb2 import http  # type: ignore[import-untyped]  # the package has no stubs
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from rest_bridge.app import MAX_BODY_BYTES
from rest_bridge.envoy import EnvoyOptions, descriptors_path, render, source_path
from server.preflight import envoy_binary
from tests.fakes.routes import rest_routes

ROOT = Path(__file__).parents[2]
COMMITTED = source_path()


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    """One with everything that can be rendered."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = trustme.CA().issue_cert("127.0.0.2")
    certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    options = EnvoyOptions(
        worker_sockets=tuple(str(tmp_path / f"worker-{index}.sock") for index in range(3)),
        admin_socket=str(tmp_path / "admin.sock"),
        http_host="127.0.0.2",
        http_port=8443,
        tls_cert=str(certificate),
        tls_key=str(key),
    )
    path = tmp_path / "envoy.yaml"
    path.write_text(render(options))
    return path


@pytest.fixture(params=["committed", "rendered"])
def config(request: pytest.FixtureRequest) -> Any:
    """Both, parsed: what is demanded of one is demanded of the other."""
    path = COMMITTED if request.param == "committed" else request.getfixturevalue("rendered")
    return yaml.safe_load(path.read_text())


def manager(config: Any) -> Any:
    """The HTTP connection manager."""
    [listener] = config["static_resources"]["listeners"]
    [chain] = listener["filter_chains"]
    [network_filter] = chain["filters"]
    return network_filter["typed_config"]


def http_filter(config: Any, name: str) -> Any:
    return next(one["typed_config"] for one in manager(config)["http_filters"] if one["name"].endswith(name))


def routes(config: Any) -> list[Any]:
    [host] = manager(config)["route_config"]["virtual_hosts"]
    found: list[Any] = host["routes"]
    return found


def texts(value: Any) -> Iterator[str]:
    """Every key and every text, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    argv = [str(envoy_binary()), "--mode", "validate", "--log-level", "warning", "-c", str(path)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30)


def test_the_committed_file_is_valid_without_a_word_of_warning() -> None:
    checked = validate(COMMITTED)
    assert checked.returncode == 0, checked.stderr
    assert checked.stderr == ""


def test_a_rendered_one_with_tls_and_three_workers_is_valid(rendered: Path) -> None:
    checked = validate(rendered)
    assert checked.returncode == 0, checked.stderr
    assert checked.stderr == ""


def test_what_is_rendered_differs_only_in_what_the_options_name(rendered: Path, tmp_path: Path) -> None:
    config, committed = yaml.safe_load(rendered.read_text()), yaml.safe_load(COMMITTED.read_text())
    [listener], [as_committed] = config["static_resources"]["listeners"], committed["static_resources"]["listeners"]
    assert listener["address"] == {"socket_address": {"address": "127.0.0.2", "port_value": 8443}}
    tls = listener["filter_chains"][0].pop("transport_socket")["typed_config"]["common_tls_context"]
    assert tls["alpn_protocols"] == ["h2", "http/1.1"]
    assert tls["tls_params"] == {"tls_minimum_protocol_version": "TLSv1_2"}
    [endpoints] = config["static_resources"]["clusters"][0]["load_assignment"]["endpoints"]
    sockets = [one["endpoint"]["address"]["pipe"]["path"] for one in endpoints["lb_endpoints"]]
    assert sockets == [str(tmp_path / f"worker-{index}.sock") for index in range(3)]
    assert Path(http_filter(config, "transcoder")["proto_descriptor"]) == descriptors_path()

    listener["address"] = as_committed["address"]
    config["admin"] = committed["admin"]
    endpoints["lb_endpoints"] = committed["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0][
        "lb_endpoints"
    ]
    http_filter(config, "transcoder")["proto_descriptor"] = http_filter(committed, "transcoder")["proto_descriptor"]
    assert config == committed


def test_the_committed_files_paths_are_those_of_a_checkout() -> None:
    committed = yaml.safe_load(COMMITTED.read_text())
    assert ROOT / http_filter(committed, "transcoder")["proto_descriptor"] == descriptors_path()
    assert [text for text in texts(committed) if text.startswith(("/home", "/root", "/work", "/tmp"))] == []


def test_no_route_has_a_deadline_of_its_own(config: Any) -> None:
    """Fifteen seconds are the default, and they cut streams."""
    forwarding = [route["route"] for route in routes(config) if "route" in route]
    assert len(forwarding) >= 7
    for route in forwarding:
        assert route["timeout"] == "0s"
        assert route["idle_timeout"] == "0s"
        assert route["max_stream_duration"] == {"grpc_timeout_header_max": "0s"}
    assert manager(config)["stream_idle_timeout"] == "0s"


def test_only_what_reached_no_worker_is_sent_again(config: Any) -> None:
    [host] = manager(config)["route_config"]["virtual_hosts"]
    assert host["retry_policy"]["retry_on"] == "connect-failure,refused-stream"
    assert [route for route in routes(config) if "retry_policy" in route.get("route", {})] == []
    assert "hedge_policy" not in set(texts(config))


def test_bodies_may_have_64_mib(config: Any) -> None:
    transcoder = http_filter(config, "transcoder")
    assert transcoder["max_request_body_size"] == transcoder["max_response_body_size"] == MAX_BODY_BYTES == 64 << 20


def test_what_our_parts_tell_each_other_cannot_be_said_from_outside(config: Any) -> None:
    [extension] = manager(config)["early_header_mutation_extensions"]
    removed = {one["remove_on_match"]["key_matcher"].get("prefix") for one in extension["typed_config"]["mutations"]}
    assert {"x-gw-", "x-internal-", "x-envoy-"} <= removed


def test_nothing_tells_what_the_inside_looks_like(config: Any) -> None:
    assert [text for text in texts(config) if "RESPONSE_CODE_DETAILS" in text] == []
    assert [text for text in texts(config) if "UPSTREAM_HOST" in text or "UPSTREAM_TRANSPORT_FAILURE" in text] == []


def test_neither_queries_nor_keys_are_logged(config: Any) -> None:
    [log] = manager(config)["access_log"]
    said = " ".join(texts(log["typed_config"]["log_format"]["json_format"]))
    assert "%PATH(NQ:ORIG_OR_PATH)%" in said
    assert not re.search(r"REQ\((:PATH|X-ENVOY-ORIGINAL-PATH|AUTHORIZATION|COOKIE|X-API-KEY)", said)


def test_every_error_of_envoys_own_has_a_shape(config: Any) -> None:
    """The last mapper takes what the others leave, so no local reply goes out in Envoy's words."""
    mappers = manager(config)["local_reply_config"]["mappers"]
    fields = {"generation_id", "status_code", "error", "error_type", "error_origin", "description", "reason", "param",
              "details"}  # fmt: skip
    for mapper in mappers:
        body = mapper["body_format_override"]
        assert body["content_type"] == "application/json"
        assert set(body["json_format"]) == fields
        named = {one["header"]["key"]: one["header"]["value"] for one in mapper.get("headers_to_add", ())}
        assert named.get("x-generation-id") == body["json_format"]["generation_id"]
    last = mappers[-1]["filter"]["status_code_filter"]["comparison"]
    assert (last["op"], last["value"]["default_value"]) == ("GE", 400)


def test_the_admin_interface_is_a_socket_of_this_user(config: Any) -> None:
    address = config["admin"]["address"]
    assert list(address) == ["pipe"]
    assert address["pipe"]["mode"] == 0o600


def test_the_safety_set(config: Any) -> None:
    http_manager = manager(config)
    assert http_manager["normalize_path"] is http_manager["merge_slashes"] is True
    assert http_manager["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"
    assert http_manager["preserve_external_request_id"] is False
    assert http_manager["max_request_headers_kb"] == 32
    assert {"request_headers_timeout", "request_timeout"} <= set(http_manager)
    [monitor] = config["overload_manager"]["resource_monitors"]
    assert monitor["typed_config"]["max_active_downstream_connections"] > 0
    assert http_filter(config, "transcoder")["request_validation_options"] == {
        "reject_unknown_method": True,
        "reject_unknown_query_parameters": True,
    }


def bindings() -> Iterator[tuple[str, str]]:
    """Method and a path of every REST route that the protos declare, variables filled in."""
    described = FileDescriptorSet.FromString(descriptors_path().read_bytes())
    for file in described.file:
        for service in file.service:
            for method in service.method:
                rule = method.options.Extensions[http]
                for one in (rule, *rule.additional_bindings):
                    if verb := one.WhichOneof("pattern"):
                        own = (one.custom.kind, one.custom.path) if verb == "custom" else (verb, getattr(one, verb))
                        yield own[0].upper(), re.sub(r"\{\w+(=[^}]*)?\}", "x", own[1])


def matches(route: Any, method: str, path: str, content_type: str | None = None) -> bool:
    match = route["match"]
    if "path" in match and match["path"] != path:
        return False
    if "prefix" in match and not path.startswith(match["prefix"]):
        return False
    if "safe_regex" in match and not re.fullmatch(match["safe_regex"]["regex"], path):
        return False
    for header in match.get("headers", ()):
        value = {":method": method, "content-type": content_type}.get(header["name"])
        if value is None:
            return False
        wanted = header["string_match"]
        if "prefix" in wanted:
            if not value.startswith(wanted["prefix"]):
                return False
        elif value != wanted.get("exact") and not re.fullmatch(wanted.get("safe_regex", {}).get("regex", ""), value):
            return False
    return True


def test_every_route_of_the_protos_is_forwarded_and_answers_405_to_other_methods(config: Any) -> None:
    declared = set(bindings())
    assert ("POST", "/v1/chat/completions") in declared
    assert ("GET", "/v1/models") in declared
    for path in {path for _, path in declared}:
        takes = {method for method, one in declared if one == path}
        for method in ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"):
            route = next(one for one in routes(config) if matches(one, method, path))
            if method in takes:
                assert "route" in route, (method, path)
                assert route["request_headers_to_add"][0]["header"] == {"key": "x-gw-rest", "value": "1"}
            else:
                assert route["direct_response"] == {"status": 405}, (method, path)
                [allow] = route["response_headers_to_add"]
                assert {*allow["header"]["value"].split(", ")} == takes, (method, path)


def typed_methods() -> Iterator[str]:
    described = FileDescriptorSet.FromString(descriptors_path().read_bytes())
    for file in described.file:
        for service in file.service:
            yield from (f"/{file.package}.{service.name}/{method.name}" for method in service.method)
    yield "/grpc.health.v1.Health/Watch"
    for version in ("v1", "v1alpha"):
        yield f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc-web+proto"])
def test_every_typed_method_is_forwarded_and_what_cannot_be_one_is_not(config: Any, content_type: str) -> None:
    for path in typed_methods():
        assert "route" in next(one for one in routes(config) if matches(one, "POST", path, content_type)), path
        for other in (path.rpartition("/")[0], f"{path}%ff", f"{path}/", f"/x{path}", path.replace(".v1", ".%ff")):
            route = next(one for one in routes(config) if matches(one, "POST", other, content_type))
            assert route["direct_response"] == {"status": 404}, other


def test_what_a_client_streams_is_kept_nowhere_whole(config: Any) -> None:
    assert any(route.target.takes_stream for route in rest_routes())
    for one in rest_routes():
        if one.body:
            route = next(route for route in routes(config) if matches(route, one.method, one.at(*one.variables)))
            if one.target.takes_stream:
                assert route["request_body_buffer_limit"] <= 1024 * 1024, one
            else:
                assert "request_body_buffer_limit" not in route, one


def test_every_service_that_has_routes_is_handed_on(config: Any) -> None:
    described = FileDescriptorSet.FromString(descriptors_path().read_bytes())
    having_routes = {
        f"{file.package}.{service.name}"
        for file in described.file
        for service in file.service
        if any(method.options.HasExtension(http) for method in service.method)
    }
    assert set(http_filter(config, "transcoder")["services"]) == having_routes


def test_what_is_no_route_is_404_and_last(config: Any) -> None:
    last = routes(config)[-1]
    assert last["match"] == {"prefix": "/"}
    assert last["direct_response"] == {"status": 404}
