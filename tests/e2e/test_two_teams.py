"""Two teams, and every way there is to ask: what is one's is to the other as if it had never been.

The ways are read from the descriptors. One that takes an id which the tables here do not know fails a test.
"""

from __future__ import annotations

import json
import re
import secrets
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import httpx
import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.purse import PAID, Purse
from tests.e2e.test_errors import FREE
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.bodies import FILMER, SPEAKER, bodies, request_of
from tests.fakes.contract import check, check_error, check_rpc_error, told
from tests.fakes.routes import RestRoute, TypedMethod, rest_routes, typed_methods

OWNED: Mapping[str, str] = {
    "response_id": "response", "previous_response_id": "response", "generation_id": "generation", "id": "generation",
    "video_id": "video", "key_id": "key", "actor": "key", "target": "key", "after": "generation",
    "webhook_id": "webhook", "delivery_id": "delivery",
}  # fmt: skip
"""What fields of requests, and variables of paths, are the ids of."""
PUBLIC = {"model_id", "name"}
"""Those that name what everybody may see: a model, a file of the documentation."""
UNRECORDED = ("/v1/api-keys", "/v1/webhooks")
MARKER = f"canary-{secrets.token_hex(8)}"
TIMINGS = 25

ROUTES = [route for route in rest_routes() if not route.is_alias]
WITH_IDS = [route for route in ROUTES if any(name in OWNED for name in route.variables)]
LISTS = [route for route in ROUTES if route.method == "GET" and not route.variables]
TYPED = [method for method in typed_methods() if not method.name.startswith("Watch")]


class Owner(Purse):
    """A team that has made one of everything, with a canary wherever a client's words are kept."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self._run("teams", "set", self.team, "--store-content", "on")
        self.again = {"idempotency-key": f"again-{MARKER}"}
        chat = {"model": PAID, "messages": [{"role": "user", "content": MARKER}], "max_tokens": 9}
        self.asked = {"model": FREE, "input": MARKER, "metadata": {"of": MARKER}}
        made = [
            self.made("/v1/responses", self.asked, headers=self.again),
            self.made("/v1/chat/completions", chat),
            self.made("/v1/messages", chat),
            self.made("/v1/api-keys", {"name": MARKER, "limit": 1}),
            self.made("/v1/moderations", {"model": "acme/nobody", "input": MARKER}, status=404),
            self.made("/v1/embeddings", {"model": "acme/embeddings-only:free", "input": MARKER}),
            self.made("/v1/audio/speech", {"model": SPEAKER, "input": MARKER, "voice": "alloy"}),
            self.made("/v1/videos", {"model": FILMER, "prompt": MARKER}),
            self.made("/v1/webhooks", {"url": "https://hooks.invalid/", "description": MARKER}),
        ]
        webhook = made[8].json()["data"]["id"]
        delivery = self.made(f"/v1/webhooks/{webhook}/test", {}).json()["data"]["id"]
        httpx.patch(f"{gateway.url}/v1/webhooks/{webhook}", json={"disabled": True}, headers=self.headers)
        self.ids = {
            "response": made[0].json()["id"].removeprefix("resp_"),
            "generation": made[1].headers["x-generation-id"].removeprefix("gen_"),
            "key": made[3].json()["data"]["id"],
            "video": made[7].json()["id"].removeprefix("video_"),
            "webhook": webhook.removeprefix("wh_"),
            "delivery": delivery.removeprefix("whd_"),
        }
        while self.get(f"/v1/videos/{self.ids['video']}").json()["status"] != "completed":
            time.sleep(0.1)
        self.link = (
            self.made(f"/v1/videos/{self.ids['video']}/download_url", {}).json()["url"].removeprefix(gateway.url)
        )
        self.traces = {
            MARKER, self.get("/v1/key").json()["data"]["team_id"], self.key, self.key.split("_")[3], *self.ids.values(),
            *(one.headers["x-generation-id"].removeprefix("gen_") for one in made if one.url.path not in UNRECORDED),
            *(reply.headers["x-request-id"] for reply in made),
        }  # fmt: skip

    def made(self, path: str, body: Any, status: int | None = None, **options: Any) -> httpx.Response:
        reply = self.post(path, body, **options)
        assert reply.status_code in ({200, 201, 202} if status is None else {status}), reply.text
        return reply

    def id(self, name: str) -> str:
        return f"wh_{self.ids['webhook']}" if name == "webhook_id" else self.ids[OWNED[name]]

    def state(self) -> dict[str, Any]:
        """Everything that it sees of its own, but for when its keys were last used."""
        seen = {str(route): self.get(route.path) for route in LISTS}
        for route in WITH_IDS:
            if route.method == "GET":
                path = route.at(*(self.id(name) for name in route.variables))
                seen[str(route)] = self.get(self.link if path.endswith("/download") else path)
        return {name: _still(reply) for name, reply in seen.items() if "/health" not in name}


def _still(reply: httpx.Response) -> Any:
    assert reply.is_success or reply.json()["param"] == "id", reply.text
    text = re.sub(r'"last_used_at":("[^"]*"|null)', '"last_used_at":0', reply.text)
    return re.sub(r'"generation_id":"gen_\w+"', "", text)


@pytest.fixture(scope="module")
def owner(gateway: Gateway, acme_upstream: UpstreamThread) -> Owner:
    acme_upstream.reset()
    return Owner(gateway)


@pytest.fixture(scope="module")
def other(gateway: Gateway) -> Purse:
    """Of another team, with every right in it and credit of its own."""
    return Purse(gateway, "10.00")


@pytest.fixture(scope="module")
def client(other: Purse) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=other.gateway.url, headers=other.headers, timeout=30) as client:
        yield client


def spellings(kind: str, suffix: str) -> list[str]:
    """Every way to write an id, and the ids next to it."""
    number = int(suffix, 16)
    near = [f"{number + step:0{len(suffix)}x}" for step in (-1, 1)]
    if kind == "key":
        return [suffix, suffix.upper(), *near, f"aistats_v1_sk_{suffix}", f"{suffix}%20", f"..%2Fapi-keys%2F{suffix}"]
    prefixes = ("resp_", "gen_", "chatcmpl-", "chatcmpl_", "msg_", "modr-", "emb_", "video_", "wh_", "whd_", "evt_", "")
    written = [f"{prefix}{suffix}" for prefix in prefixes]
    written += [f"{prefix}{one}" for prefix in ("resp_", "gen_") for one in near]
    dashed = "-".join((suffix[:8], suffix[8:12], suffix[12:16], suffix[16:20], suffix[20:]))
    return [*written, f"gen_{suffix.upper()}", suffix.upper(), dashed, f"resp_{suffix}%20", f"%20gen_{suffix}"]


def never(kind: str, suffix: str) -> str:
    """An id like it, of what has never been: as old as it, so that it could have been."""
    return secrets.token_hex(8) if kind == "key" else suffix[:12] + "7" + secrets.token_hex(10)[:19]


def ask(client: httpx.Client, route: RestRoute, *ids: str) -> httpx.Response:
    return client.request(route.method, route.at(*ids), **(request_of(bodies(route)[0]) if route.body else {}))


def as_one(reply: httpx.Response, *ids: str) -> tuple[int, list[str], str]:
    """What a client can tell two replies by, the ids apart that it has named itself."""
    check_error(told(reply))
    text = re.sub(r'"generation_id":"gen_\w+"', "", reply.text)
    for one in ids:
        text = text.replace(one.replace("%20", " "), "?").replace(one, "?")
    return reply.status_code, sorted(reply.headers), text


# The tables know every id.


def test_every_id_that_can_be_asked_for_is_known_here() -> None:
    asked_for = {name for route in ROUTES for name in route.variables}
    messages = [method.input.DESCRIPTOR for method in TYPED] + [route.target.input.DESCRIPTOR for route in ROUTES]
    for message in messages:
        asked_for |= {field.name for field in message.fields if re.search(r"(^|_)ids?$", field.name)}
    assert asked_for - OWNED.keys() == PUBLIC


# REST.


@pytest.mark.parametrize("route", WITH_IDS, ids=str)
def test_what_is_anothers_has_never_been(client: httpx.Client, owner: Owner, route: RestRoute) -> None:
    kind, *others = (OWNED[name] for name in route.variables)
    others = [f"whd_{owner.ids[one]}" for one in others]
    suffix, unknown = owner.ids[kind], never(kind, owner.ids[kind])
    for theirs, nobodys in zip(spellings(kind, suffix), spellings(kind, unknown), strict=True):
        seen, expected = ask(client, route, theirs, *others), ask(client, route, nobodys, *others)
        assert as_one(seen, theirs, suffix) == as_one(expected, nobodys, unknown), theirs
        assert seen.status_code == httpx.codes.NOT_FOUND, theirs


@pytest.mark.parametrize("route", WITH_IDS, ids=str)
def test_nor_does_it_take_longer(client: httpx.Client, owner: Owner, route: RestRoute) -> None:
    kind, *others = (OWNED[name] for name in route.variables)
    others = [f"whd_{owner.ids[one]}" for one in others]
    took_s: dict[str, list[float]] = {owner.ids[kind]: [], never(kind, owner.ids[kind]): []}
    for _ in range(TIMINGS):
        for one, times in took_s.items():
            asked_s = time.perf_counter()
            ask(client, route, one, *others)
            times.append(time.perf_counter() - asked_s)
    theirs_s, nobodys_s = (statistics.median(times) for times in took_s.values())
    assert abs(theirs_s - nobodys_s) < 0.5 * max(theirs_s, nobodys_s) + 0.002


@pytest.mark.parametrize("route", LISTS, ids=str)
def test_no_list_has_anything_of_anothers(client: httpx.Client, owner: Owner, other: Purse, route: RestRoute) -> None:
    """As it is, and asked for what is another's by each of its ids, in each of the parameters that take a text."""
    fields = [field.name for field in route.target.input.DESCRIPTOR.fields if field.cpp_type == field.CPPTYPE_STRING]
    times = {"from_date", "to_date", "from", "to"}
    response, generation = owner.ids["response"], owner.ids["generation"]
    texts = (owner.ids["key"], response, f"resp_{response}", generation, f"gen_{generation}", MARKER)
    queries = [{name: text} for name in fields if name not in times for text in texts]
    for query in ({}, *queries):
        reply = client.get(route.path, params=query)
        check(told(reply))
        found = reply.text
        for asked in query.values():
            found = found.replace(asked, "?")
        assert [trace for trace in owner.traces if trace in found] == [], query


def test_nothing_that_another_writes_changes_it(
    client: httpx.Client, owner: Owner, other: Purse, acme: UpstreamThread
) -> None:
    before = owner.state()
    acme.reset()
    for route in WITH_IDS:
        if route.method != "GET":
            ids = [owner.id(name) for name in route.variables]
            assert ask(client, route, *ids).status_code == httpx.codes.NOT_FOUND
    response, unknown = owner.ids["response"], never("response", owner.ids["response"])
    for stream in (False, True):
        goes_on = {"model": FREE, "input": "x", "stream": stream}
        seen, expected = (
            client.post("/v1/responses", json={**goes_on, "previous_response_id": f"resp_{one}"})
            for one in (response, unknown)
        )
        assert as_one(seen, response) == as_one(expected, unknown)
    named = {"type": "item_reference", "id": f"msg_{response}"}
    check_error(told(client.post("/v1/responses", json={"model": FREE, "input": [named]})))
    assert acme.requests == []
    again = client.post("/v1/responses", json=owner.asked, headers=owner.again)
    assert again.status_code == httpx.codes.OK
    assert "idempotent-replayed" not in again.headers
    assert again.json()["id"] != f"resp_{response}"
    assert owner.state() == before


# Typed.


def call(channel: grpc.Channel, method: TypedMethod, key: str, **fields: Any) -> Any:
    """The replies of a method to a request, or its error."""
    ask: Any = channel.unary_stream(
        method.path,
        request_serializer=method.input.SerializeToString,
        response_deserializer=method.output.FromString,
    )
    try:
        return list(ask(method.input(**fields), metadata=[("authorization", f"Bearer {key}")], timeout=30))
    except grpc.RpcError as failed:
        return failed


def texts_of(method: TypedMethod) -> list[str]:
    return [
        field.name
        for field in method.input.DESCRIPTOR.fields
        if field.cpp_type == field.CPPTYPE_STRING and not field.is_repeated
    ]


COMPLETE: Mapping[str, Any] = {"model": FREE, "input": [{"role": 2, "parts": [{"text": {"text": "hi"}}]}]}


@pytest.mark.parametrize("method", [one for one in TYPED if OWNED.keys() & {*texts_of(one)} - {"after"}], ids=str)
def test_typed_clients_find_nothing_of_anothers(
    channel: grpc.Channel, owner: Owner, other: Purse, method: TypedMethod
) -> None:
    complete = {name: value for name, value in COMPLETE.items() if name in method.input.DESCRIPTOR.fields_by_name}
    for name in OWNED.keys() & {*texts_of(method)}:
        kind = OWNED[name]
        suffix = owner.ids[kind]
        unknown = never(kind, suffix)
        for theirs, nobodys in zip(spellings(kind, suffix), spellings(kind, unknown), strict=True):
            seen = call(channel, method, other.key, **complete, **{name: theirs})
            expected = call(channel, method, other.key, **complete, **{name: nobodys})
            assert as_said(seen, theirs) == as_said(expected, nobodys), theirs
            assert not any(trace in str(seen) for trace in owner.traces - {suffix}), theirs


def as_said(said: Any, named: str) -> Any:
    if isinstance(said, grpc.RpcError):
        reason = check_rpc_error(said)
        return reason, str(said.details()).replace(named, "?")
    return said


@pytest.mark.parametrize("method", TYPED, ids=str)
def test_no_typed_list_has_anything_of_anothers(
    channel: grpc.Channel, owner: Owner, other: Purse, method: TypedMethod
) -> None:
    said = call(channel, method, other.key)
    if isinstance(said, grpc.RpcError):
        check_rpc_error(said)
    assert [trace for trace in owner.traces if trace in str(said)] == []


def test_the_owner_has_it_all_still(owner: Owner) -> None:
    """What the other tests looked for is there to be found."""
    seen = json.dumps(owner.state())
    assert [trace for trace in owner.traces - {owner.key} if trace not in seen] == []
