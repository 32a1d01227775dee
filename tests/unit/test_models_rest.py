"""`/v1/models`: the contract's JSON to the byte, filters, and replies that a client may keep."""

from __future__ import annotations

import gzip
import json
from typing import Any

import msgspec
import pytest

from rest_bridge.app import RestApp
from rest_bridge.models import ModelsRest
from server.domain.catalog import Model, Offer
from server.domain.identity import Arrival, Call, Scope
from server.domain.restrictions import Restrictions
from server.pipeline.health.view import MeasuredHealth
from server.pipeline.models import MAX_PAGES_KEPT
from tests.fakes.catalogues import CHAT, READY, Source, catalog
from tests.fakes.health import HandClock, steady
from tests.fakes.rest import KEY, OpenDoor, Reply, read, rest_request

IDS = ["acme/embed:free", "acme/test-1", "zeta/old"]


class Reception(OpenDoor):
    """Its one key is held to `restrictions`."""

    restrictions = Restrictions()

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        call = await super().authenticate(arrival, authorization, scope)
        principal = msgspec.structs.replace(call.principal, restrictions=self.restrictions)
        return msgspec.structs.replace(call, principal=principal)


class Door:
    """The surface over a catalogue that a test may replace."""

    def __init__(self) -> None:
        self.reception = Reception()
        self.source, clock = Source(), HandClock()
        surface = ModelsRest(self.source, MeasuredHealth(self.source, steady(clock), clock))
        self._app = RestApp(self.reception, surface.routes())

    async def get(self, path: str = "/v1/models", headers: dict[str, str] | None = None, **query: Any) -> Reply:
        request = rest_request(b"", method="GET", path=path, headers={"authorization": KEY, **(headers or {})})
        asked = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in query.items()}
        return await read(await self._app(msgspec.structs.replace(request, query=asked)))


@pytest.fixture
def door() -> Door:
    return Door()


async def test_a_page_to_the_byte(door: Door) -> None:
    reply = await door.get(organisation="acme", endpoints="chat", limit="1")
    assert reply.body == (
        b'{"object":"list",'
        b'"data":[{"id":"acme/test-1","object":"model","created":1700000000,"owned_by":"acme"}],'
        b'"ok":true,"limit":1,"offset":0,"total":1,'
        b'"models":[{"model_id":"acme/test-1","name":"Test 1","description":"A model.","organisation_id":"acme",'
        b'"release_date":"2023-11-14","status":"active","aliases":["acme/test-latest","test"],'
        b'"endpoints":["chat","responses"],"input_types":["text","image"],"output_types":["text"],'
        b'"context_length":4096,"max_output_tokens":1024,"supported_parameters":["seed","temperature","tools"],'
        b'"providers":[{"api_provider_id":"ready","endpoints":["chat","responses"],"params":["temperature","tools"],'
        b'"pricing":{"input_text_tokens":"0.0000001"},"status":"active"},'
        b'{"api_provider_id":"keyless","endpoints":["chat"],"params":["seed"],"pricing":{},'
        b'"status":"not_configured"}]}]}'
    )


async def test_what_is_not_known_is_null(door: Door) -> None:
    (model,) = (await door.get(organisation="zeta")).json["models"]
    assert [model[name] for name in ("release_date", "context_length", "max_output_tokens")] == [None] * 3


async def test_one_model_in_openais_shape_and_in_full(door: Door) -> None:
    reply = await door.get("/v1/models/acme%2Ftest-1")
    (listed,) = (await door.get(organisation="acme", endpoints="chat")).json["models"]
    assert reply.json == {
        "id": "acme/test-1", "object": "model", "created": 1_700_000_000, "owned_by": "acme", "model": listed,
    }  # fmt: skip
    assert (await door.get("/v1/models/test")).body == reply.body


async def test_who_serves_a_model_to_the_byte(door: Door) -> None:
    reply = await door.get("/v1/models/ready%3Aacme%2Ftest-1/endpoints")
    assert reply.body == (
        b'{"id":"acme/test-1","object":"model","created":1700000000,"owned_by":"acme","name":"Test 1",'
        b'"description":"A model.","input_types":["text","image"],"output_types":["text"],'
        b'"endpoints":[{"api_provider_id":"ready","provider_name":"Ready","provider_model":"test-1",'
        b'"status":"active","region":"eu","endpoints":["chat","responses"],"input_types":["text","image"],'
        b'"output_types":["text"],"context_length":4096,"max_output_tokens":1024,"params":["temperature","tools"],'
        b'"pricing":{"input_text_tokens":"0.0000001"},'
        b'"pricing_tiers":[{"input_tokens_above":2000,"service_tier":null,'
        b'"pricing":{"input_text_tokens":"0.0000002"}}],'
        b'"health":{"id":"ready","status":"ok","score":1.0,'
        b'"breaker":{"state":"closed","opened_at":null,"retry_at":null,"reason":""},"success_rate":1.0,'
        b'"latency_ms":{"p50":0.0,"p95":0.0},"ttft_ms":0.0,"throughput_tps":0.0,"in_flight":0,"requests_1m":0,'
        b'"routes":[{"model":"acme/test-1","endpoint":"chat","score":1.0,"breaker":"closed"},'
        b'{"model":"acme/test-1","endpoint":"responses","score":1.0,"breaker":"closed"}]}}]}'
    )


async def test_a_provider_without_a_key_is_told_of_and_scores_nothing(door: Door) -> None:
    _, keyless = (await door.get("/v1/models/test/endpoints")).json["endpoints"]
    assert (keyless["api_provider_id"], keyless["status"], keyless["region"]) == ("keyless", "not_configured", None)
    assert (keyless["input_types"], keyless["context_length"]) == (["text"], 2048)
    assert (keyless["health"]["status"], keyless["health"]["score"]) == ("not_configured", 0.0)


@pytest.mark.parametrize(
    "asked", ["chat,embeddings,video", ["chat", "embeddings", "video"], ["chat, embeddings", "video"]]
)
async def test_the_catalogues_of_all_surfaces_in_one_call(door: Door, asked: Any) -> None:
    told = (await door.get(include_endpoints=asked, limit="1")).json
    assert told["catalogues"] == {"chat": ["acme/test-1", "zeta/old"], "embeddings": ["acme/embed:free"], "video": []}
    assert list(told["catalogues"]) == ["chat", "embeddings", "video"]
    assert (told["total"], [one["id"] for one in told["data"]]) == (3, IDS[:1])


async def test_pages_follow_one_another(door: Door) -> None:
    pages = [(await door.get(limit="1", offset=str(offset))).json for offset in range(4)]
    assert [[one["id"] for one in page["data"]] for page in pages] == [[id_] for id_ in IDS] + [[]]
    assert {(page["limit"], page["total"]) for page in pages} == {(1, 3)}
    assert [page["offset"] for page in pages] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("query", "param", "told"),
    [
        ({"include_endpoints": "chat,chats"}, "include_endpoints", "chat, responses, messages, moderations"),
        ({"endpoints": ["chat", "x"]}, "endpoints", "embeddings, images, video, audio"),
        ({"organisation": "nobody"}, "organisation", "acme, zeta"),
        ({"provider": "nobody"}, "provider", "keyless, ready"),
        ({"status": "new"}, "status", "active, deprecated, retired"),
        ({"input_types": "smell"}, "input_types", "text, image, audio, file, video"),
        ({"output_types": "file"}, "output_types", "text, image, audio, video, embedding"),
        ({"params": "temprature"}, "params", "temperature"),
        ({"availability": "yes"}, "availability", "available, not_configured"),
        ({"limit": "0"}, "limit", "1 to 250"),
        ({"limit": "251"}, "limit", "1 to 250"),
        ({"limit": "ten"}, "limit", "whole number"),
        ({"offset": "-1"}, "offset", "whole number"),
        ({"limit": ["1", "2"]}, "limit", "once"),
        ({"if_none_match": "x"}, "if_none_match", "not a known parameter"),
    ],
)
async def test_a_filter_that_means_nothing_is_named(door: Door, query: Any, param: str, told: str) -> None:
    reply = await door.get(**query)
    assert (reply.status, reply.json["error"], reply.json["param"]) == (400, "validation_error", param)
    assert told in reply.json["description"]
    assert "etag" not in reply.headers


@pytest.mark.parametrize("path", ["acme%2Fnone", "nobody%3Aacme%2Ftest-1", "acme%2Fnone/endpoints"])
async def test_no_such_model(door: Door, path: str) -> None:
    reply = await door.get(f"/v1/models/{path}")
    assert (reply.status, reply.json["error"], reply.json["reason"]) == (404, "not_found_error", "unknown_model")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/test", "/v1/models/test/endpoints"])
async def test_what_a_client_has_is_not_sent_again(door: Door, path: str) -> None:
    first = await door.get(path)
    etag = first.headers["etag"]
    assert (first.status, first.headers["cache-control"]) == (200, "private, no-cache")
    for known in (etag, f'"x", {etag}', etag.removeprefix("W/"), "*"):
        again = await door.get(path, {"if-none-match": known})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == etag
        assert "content-type" not in again.headers
    assert (await door.get(path, {"if-none-match": 'W/"x"'})).body == first.body


async def test_an_etag_is_that_of_the_catalogue_and_the_question(door: Door) -> None:
    etags = [(await door.get(limit=limit)).headers["etag"] for limit in ("1", "2", "1")]
    assert etags[0] == etags[2] != etags[1]
    assert (await Door().get(limit="1")).headers["etag"] == etags[0], "another worker says the same"
    door.source.current = catalog(Model("abel/new:free", (Offer(READY, "new", CHAT),)))
    reply = await door.get(headers={"if-none-match": etags[0]}, limit="1")
    assert (reply.status, reply.json["total"]) == (200, 4)


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [
        ("gzip, deflate, br", "gzip"),
        ("br;q=1.0, GZIP ; q=0.5", "gzip"),
        ("identity", None),
        ("gzip;q=0", None),
        ("gzip; q=0.00", None),
        ("", None),
    ],
)
async def test_a_long_page_is_sent_compressed_to_who_takes_that(door: Door, accepts: str, coding: str | None) -> None:
    plain = await door.get()
    reply = await door.get(headers={"accept-encoding": accepts})
    assert reply.headers.get("content-encoding") == coding
    assert (gzip.decompress(reply.body) if coding else reply.body) == plain.body
    assert (reply.headers["etag"], reply.headers["vary"]) == (plain.headers["etag"], "accept-encoding")


@pytest.mark.parametrize(
    ("held_to", "ids"),
    [
        (Restrictions(cidrs=("10.0.0.0/8",)), IDS),
        (Restrictions(models=("acme/*",)), IDS[:2]),
        (Restrictions(models=("test",)), IDS[1:2]),
        (Restrictions(providers=("ready",)), IDS[:2]),
        (Restrictions(models=("zeta/*", "*:free"), providers=("ready",)), IDS[:1]),
        (Restrictions(models=("nobody/*",)), []),
    ],
)
async def test_a_key_sees_what_it_may_use(door: Door, held_to: Restrictions, ids: list[str]) -> None:
    etag = (await door.get()).headers["etag"]
    door.reception.restrictions = held_to
    reply = await door.get(include_endpoints="chat,embeddings")
    assert ([one["id"] for one in reply.json["data"]], reply.json["total"]) == (ids, len(ids))
    assert {*reply.json["catalogues"]["chat"], *reply.json["catalogues"]["embeddings"]} == set(ids)
    for id_ in IDS:
        for rest in ("", "/endpoints"):
            status = (await door.get(f"/v1/models/{id_.replace('/', '%2F')}{rest}")).status
            assert status == (200 if id_ in ids else 404)
    again = await door.get(headers={"if-none-match": etag})
    assert again.status == (304 if ids == IDS else 200)


async def test_of_a_model_a_key_sees_the_providers_that_it_may_use(door: Door) -> None:
    door.reception.restrictions = Restrictions(providers=("keyless",))
    (model,) = (await door.get(organisation="acme")).json["models"]
    rows = (await door.get("/v1/models/test/endpoints")).json["endpoints"]
    assert [one["api_provider_id"] for one in (*model["providers"], *rows)] == ["keyless", "keyless"]
    assert (model["endpoints"], model["supported_parameters"]) == (["chat"], ["seed"])
    assert (await door.get("/v1/models/ready%3Atest")).status == 404


async def test_any_number_of_questions_is_answered_rightly(door: Door) -> None:
    """More than are kept, twice."""
    for offset in [*range(2 * MAX_PAGES_KEPT)] * 2:
        told = json.loads((await door.get(offset=str(offset))).body)
        assert [one["id"] for one in told["data"]] == IDS[offset:]
