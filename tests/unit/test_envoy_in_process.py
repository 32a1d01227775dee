"""`envoy.yaml` for a worker inside Envoy: what the router did is done by others, and nothing else is different."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rest_bridge.envoy import EnvoyOptions, InProcess, render
from tests.unit.test_envoy_config import manager, routes

HEADERS, APP = "gateway.headers", "gateway.app"


@pytest.fixture(scope="module")
def behind() -> Any:
    return yaml.safe_load(render(EnvoyOptions(admin_socket="a", worker_sockets=("w",))))


@pytest.fixture(scope="module")
def inside() -> Any:
    worker = InProcess("/lib/module.so", "some.module:app", "/dev/fd/199")
    return yaml.safe_load(render(EnvoyOptions(admin_socket="a", in_process=worker)))


def added(place: dict[str, Any], side: str) -> list[Any]:
    return list(place.get(f"{side}_headers_to_add", ()))


def mutated(mutations: dict[str, Any], side: str) -> list[Any]:
    return [one["append"] for one in mutations[f"{side}_mutations"]]


def test_the_worker_stands_before_the_router_and_behind_everything_else(behind: Any, inside: Any) -> None:
    was, now = manager(behind)["http_filters"], manager(inside)["http_filters"]
    assert now[:-3] == was[:-1]
    assert [one["name"] for one in now[-3:]] == [HEADERS, APP, "envoy.filters.http.router"]
    config = now[-2]["typed_config"]
    assert config["dynamic_module_config"] == {"module": {"local": {"filename": "/lib/module.so"}}}
    assert yaml.safe_load(config["filter_config"]["value"])["app"] == "some.module:app"
    assert "clusters" not in inside["static_resources"]


@pytest.mark.parametrize("side", ["request", "response"])
def test_every_header_that_the_router_would_add_is_added(behind: Any, inside: Any, side: str) -> None:
    (was,), (now,) = (manager(config)["route_config"]["virtual_hosts"] for config in (behind, inside))
    everywhere = mutated(manager(inside)["http_filters"][-3]["typed_config"]["mutations"], side)
    assert everywhere[: len(added(was, side))] == added(was, side)
    trailers = [one["header"] for one in everywhere[len(added(was, side)) :]]
    assert trailers == ([{"key": "te", "value": "trailers"}] if side == "request" else [])
    for before, after in zip(was["routes"], now["routes"], strict=True):
        if "route" in before:
            assert mutated(after["typed_per_filter_config"][HEADERS]["mutations"], side) == added(before, side)


def test_what_envoy_answers_itself_passes_the_worker_by(behind: Any, inside: Any) -> None:
    forwarded = 0
    for before, after in zip(routes(behind), routes(inside), strict=True):
        per_filter = after["typed_per_filter_config"]
        if "route" in before:
            forwarded += 1
            assert "route" not in after
            assert after["non_forwarding_action"] == {}
            assert APP not in per_filter
        else:
            assert after["direct_response"] == before["direct_response"]
            assert all(per_filter[name]["disabled"] for name in (HEADERS, APP))
        assert after["match"] == before["match"]
        assert before.get("typed_per_filter_config", {}).items() <= per_filter.items()
    assert forwarded >= 20


def test_what_a_client_streams_waits_in_little_room(behind: Any, inside: Any) -> None:
    streamed = 0
    for before, after in zip(routes(behind), routes(inside), strict=True):
        own = after["typed_per_filter_config"].get("envoy.filters.http.grpc_json_transcoder", {})
        if room := before.get("request_body_buffer_limit"):
            streamed += 1
            assert own["services"]
            assert own["max_request_body_size"] == own["max_response_body_size"] == room
        else:
            assert not own.get("services")
    assert streamed >= 3


def test_the_worker_hears_of_requests_that_do_not_end_well(behind: Any, inside: Any) -> None:
    was, now = manager(behind)["access_log"], manager(inside)["access_log"]
    assert now[:-1] == was
    assert now[-1]["filter"] == {"response_flag_filter": {}}
    assert now[-1]["typed_config"]["path"] == "/dev/fd/199"
    assert now[-1]["typed_config"]["log_format"]["text_format_source"]["inline_string"] == "%REQ(X-REQUEST-ID)%\n"
