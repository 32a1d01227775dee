"""Any body to any route is a success or an error of the contract: never a 5xx, silence, or another shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.upstreams import UpstreamThread
from tests.fakes.bodies import FormBody, Json, bodies
from tests.fakes.contract import Told, check, check_error
from tests.fakes.hostile import SCALARS, UTF_8, any_json, corpus, mutations, parsed, places, replaced, written
from tests.fakes.routes import RestRoute, rest_routes
from tests.integration.lone_worker import LoneWorker

WITH_BODY = [route for route in rest_routes() if route.body]
A_METHOD = list({route.target: route for route in WITH_BODY}.values())
"""One route of each method: its other paths are the same to it."""
A_BODY = [(route, body) for route in A_METHOD for body in bodies(route) if not isinstance(body, FormBody)]
OF_NOTHING = ("nothing", "white space", "single quotes", "Python")
"""The last two are `{}`, where a body has nothing in it."""
MAY_BE_EMPTY = {
    "RotateApiKey": ("nothing", "white space"),
    "RotateWebhookSecret": ("nothing", "white space"),
    "CancelVideo": OF_NOTHING,
    "TestWebhook": OF_NOTHING,
    "ReplayWebhookDelivery": OF_NOTHING,
    "CreateVideoDownloadUrl": OF_NOTHING,
}
TAKES_A_BODY = {"POST", "PUT", "PATCH"}

of_a_route = pytest.mark.parametrize("route", WITH_BODY, ids=str)
of_a_method = pytest.mark.parametrize("route", A_METHOD, ids=str)
of_a_body = pytest.mark.parametrize(("route", "body"), A_BODY, ids=[str(route) for route, _ in A_BODY])
many = settings(max_examples=16, suppress_health_check=list(HealthCheck))


def checked(reply: Told) -> None:
    check(reply)
    assert reply.status < 500, reply


def test_every_route_that_may_take_a_body_has_one_here() -> None:
    assert {str(route) for route in rest_routes() if route.method in TAKES_A_BODY} == {
        str(route) for route in WITH_BODY
    }
    assert [str(route) for route in WITH_BODY if not bodies(route)] == []


@of_a_body
def test_what_is_mutated_is_valid(lone_worker: LoneWorker, route: RestRoute, body: Json) -> None:
    reply = lone_worker.rest(route, json.dumps(body).encode(), **lone_worker.ids(route))
    assert check(reply) is None, reply


@of_a_route
def test_no_route_takes_what_is_no_request(
    lone_worker: LoneWorker, quiet_upstream: UpstreamThread, route: RestRoute
) -> None:
    ids = lone_worker.ids(route)
    quiet_upstream.reset()
    for name, body in corpus(bodies(route)[0]).items():
        if name in MAY_BE_EMPTY.get(route.target.name, ()):
            continue
        reply = lone_worker.rest(route, body, **ids)
        assert check_error(reply)["error"] == "validation_error", name
    assert quiet_upstream.requests == []


@of_a_method
@many
@given(st.data())
def test_any_json(lone_worker: LoneWorker, route: RestRoute, data: st.DataObject) -> None:
    checked(lone_worker.rest(route, written(data.draw(any_json())), **lone_worker.ids(route)))


@of_a_method
@many
@given(st.binary())
def test_any_bytes(lone_worker: LoneWorker, route: RestRoute, body: bytes) -> None:
    checked(lone_worker.rest(route, body, **lone_worker.ids(route)))


@of_a_body
@many
@given(st.data())
def test_any_mutation_of_a_valid_body(
    lone_worker: LoneWorker, route: RestRoute, body: Json, data: st.DataObject
) -> None:
    checked(lone_worker.rest(route, data.draw(mutations(body)), **lone_worker.ids(route)))


@of_a_body
def test_every_field_as_everything(lone_worker: LoneWorker, route: RestRoute, body: Json) -> None:
    """Each value in turn as values at the edges of what types hold: a third of them, its neighbour another third."""
    tree, ids = parsed(body), lone_worker.ids(route)
    for number, place in enumerate(places(tree)):
        for value in SCALARS[number % 3 :: 3]:
            checked(lone_worker.rest(route, written(replaced(tree, place, value)), **ids))


# What stands in paths and queries. Envoy hands on no text that is not UTF-8.

ASKED_FOR = st.text(UTF_8, max_size=30) | st.sampled_from(
    (
        "resp_" + "0" * 32,
        "gen_x",
        "..",
        "a/b",
        "a%2Fb",
        "%00",
        "\x00",
        "é" * 9000,
        "1" * 5000,
        "-1",
        "true",
        "2026-13-45",
    )
)
VALUES = {
    FieldDescriptor.CPPTYPE_STRING: ASKED_FOR,
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def queries(route: RestRoute) -> st.SearchStrategy[dict[str, Any]]:
    """Values for any of the fields that a path and a query fill."""
    return st.fixed_dictionaries(
        {},
        optional={
            field.name: st.lists(VALUES[field.cpp_type], max_size=4) if field.is_repeated else VALUES[field.cpp_type]
            for field in route.target.input.DESCRIPTOR.fields
            if field.cpp_type in VALUES
        },
    )


@pytest.mark.parametrize("route", [route for route in rest_routes() if route.is_bridged and not route.body], ids=str)
@many
@given(st.data())
def test_any_query(lone_worker: LoneWorker, route: RestRoute, data: st.DataObject) -> None:
    checked(lone_worker.rest(route, **data.draw(queries(route))))
