"""The front door in a storm: whatever comes to any route is answered as the contract says, and costs nobody a cent."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.purse import Purse
from tests.e2e.test_errors import CHAT
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.bodies import FREE, PAID, bodies
from tests.fakes.contract import Told, check, check_error, told
from tests.fakes.hostile import corpus, forms
from tests.fakes.routes import RestRoute, rest_routes

MIB = 1024 * 1024
GROWN_BYTES = 200 * MIB
"""What workers and Envoy may keep of bodies of many megabytes."""
ANSWERED_WITHIN_S = 20.0
UNKNOWN = "0" * 32
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

ROUTES = [route for route in rest_routes() if not route.is_alias]
WITH_BODY = [route for route in ROUTES if route.body]
PATHS = list(dict.fromkeys(route.path for route in ROUTES))
of_a_route = pytest.mark.parametrize("route", ROUTES, ids=str)
of_a_route_that_takes_forms = pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.target.takes_stream], ids=str
)
of_a_route_with_a_body = pytest.mark.parametrize("route", WITH_BODY, ids=str)


class Storm:
    """A team with credit, which it may not lose, and the gateway as it was before."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.purse = Purse(gateway, "5.00")
        self.client = httpx.Client(base_url=gateway.url, headers=self.purse.headers, timeout=ANSWERED_WITHIN_S * 3)
        for _ in range(8):
            assert self.client.post("/v1/chat/completions", json=CHAT).status_code == httpx.codes.OK
        self.processes = {process.pid for process in self._processes()}
        self.resident = self.resident_bytes()
        self.logged = len(gateway.log)

    def _processes(self) -> list[psutil.Process]:
        return [*self.gateway.workers(), self.gateway.envoy()]

    def are_the_same(self) -> bool:
        """Whether every worker and Envoy are the processes that they were."""
        return {process.pid for process in self._processes()} == self.processes

    def resident_bytes(self) -> int:
        return sum(process.memory_info().rss for process in self._processes())

    def ask(self, method: str, path: str, **options: Any) -> Told:
        reply = told(self.client.request(method, path, **options))
        assert reply.status < 500, reply
        return reply

    def send(self, head: bytes, body: bytes = b"", *, every_s: float = 0.0, ends: bool = False) -> Told:
        """What comes back for the bytes of a request, the body sent in pieces of a few bytes where it is slow."""
        head = head.replace(b"KEY", self.purse.key.encode())
        with socket.create_connection(("127.0.0.1", self.gateway.http_port), ANSWERED_WITHIN_S) as connection:
            connection.sendall(head + (b"" if every_s else body))
            if every_s:
                for start in range(0, len(body), 20):
                    time.sleep(every_s)
                    connection.sendall(body[start : start + 20])
            if ends:
                connection.shutdown(socket.SHUT_WR)
            reply = http.client.HTTPResponse(connection, method=head.split(b" ")[0].decode("latin-1"))
            reply.begin()
            headers = {name.lower(): value for name, value in reply.getheaders()}
            path = head.split(b" ")[1].decode("latin-1")
            return Told(reply.status, headers, reply.read(), path)


@pytest.fixture(scope="module")
def storm(gateway: Gateway, acme_upstream: UpstreamThread) -> Iterator[Storm]:
    acme_upstream.reset()
    storm = Storm(gateway)
    yield storm
    storm.client.close()


def paid(route: RestRoute) -> dict[str, Any]:
    """The smallest body that the route takes, for a model that costs something."""
    body = dict(bodies(route)[0])
    return body | {"model": PAID} if body.get("model") == FREE else body


def somewhere(route: RestRoute) -> str:
    """A path of the route, of something that there is not."""
    return route.at(*(UNKNOWN for _ in route.variables))


# Bodies.


@of_a_route_with_a_body
def test_no_route_takes_what_is_no_request(storm: Storm, acme: UpstreamThread, route: RestRoute) -> None:
    for name, body in corpus(paid(route)).items():
        asked_s = time.monotonic()
        reply = storm.ask(route.method, somewhere(route), content=body, headers={"content-type": "application/json"})
        assert check_error(reply)["error"] in {"validation_error", "not_found_error"}, name
        assert time.monotonic() - asked_s < ANSWERED_WITHIN_S, name
    assert acme.requests == []


@of_a_route_that_takes_forms
def test_no_route_takes_what_is_no_form(storm: Storm, acme: UpstreamThread, route: RestRoute) -> None:
    for name, (kind, body) in forms({"model": PAID}).items():
        asked_s = time.monotonic()
        reply = storm.ask(route.method, somewhere(route), content=body, headers={"content-type": kind})
        expected = {"validation_error", "unsupported_model_or_endpoint", "request_too_large"}
        assert check_error(reply)["error"] in expected, name
        assert time.monotonic() - asked_s < ANSWERED_WITHIN_S, name
    assert acme.requests == []


KINDS = (
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml",
    "application/jsonp", "garbage", "a" * 9000, "application/octet-stream", "application/json/x",
)  # fmt: skip
CHARSETS = ("application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"', "application/problem+json", ";", "")


@of_a_route_with_a_body
def test_other_content_types_are_refused_by_name(storm: Storm, acme: UpstreamThread, route: RestRoute) -> None:
    body = json.dumps(paid(route)).encode()
    for kind in KINDS:
        reply = storm.ask(route.method, somewhere(route), content=body, headers={"content-type": kind})
        told_of = check_error(reply)
        if told_of["error"] != "not_found_error":
            assert (told_of["error"], told_of["param"]) == ("validation_error", "content-type"), kind
    assert acme.requests == []
    for kind in CHARSETS:
        check(storm.ask(route.method, somewhere(route), content=body.replace(PAID.encode(), FREE.encode()),
                        headers={"content-type": kind} if kind else {}))  # fmt: skip


def codings(body: bytes) -> Mapping[str, bytes]:
    bomb = zlib.compressobj(wbits=31)
    return {
        "gzip": gzip.compress(body),
        "GZIP": bomb.compress(bytes(64 * MIB)) + bomb.flush(),
        "gzip, gzip": gzip.compress(gzip.compress(body)),
        "deflate": zlib.compress(body),
        "br": body,
        "zstd": body,
        "nobody-knows-it": body,
    }


@of_a_route_with_a_body
def test_a_coded_body_is_not_decoded(storm: Storm, acme: UpstreamThread, route: RestRoute) -> None:
    for coding, body in codings(json.dumps(paid(route)).encode()).items():
        headers = {"content-type": "application/json", "content-encoding": coding}
        told_of = check_error(storm.ask(route.method, somewhere(route), content=body, headers=headers))
        if told_of["error"] != "not_found_error":
            assert (told_of["error"], told_of["param"]) == ("validation_error", "content-encoding"), coding
    assert acme.requests == []


HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer KEY\r\ncontent-type: application/json\r\n"
)
BODY = json.dumps(CHAT).encode()


def test_a_body_in_pieces_of_a_byte(storm: Storm, acme: UpstreamThread) -> None:
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    reply = storm.send(HEAD + b"transfer-encoding: chunked\r\n\r\n", pieces)
    assert (reply.status, check(reply)) == (200, None)
    with_more = (
        b"1;ext=" + b"x" * 200 + b"\r\n{\r\n" + b"%x\r\n%s\r\n" % (len(BODY) - 1, BODY[1:]) + b"0\r\nx-y: z\r\n\r\n"
    )
    assert check(storm.send(HEAD + b"transfer-encoding: chunked\r\n\r\n", with_more)) is None


def test_a_body_that_drips_is_waited_for(storm: Storm, acme: UpstreamThread) -> None:
    head = HEAD + b"content-length: %d\r\n\r\n" % len(BODY)
    assert check(storm.send(head, BODY, every_s=0.2)) is None


@pytest.mark.parametrize(
    ("more", "body"),
    [
        (b"content-length: 5000\r\n", BODY),
        (b"content-length: 5000\r\n", b""),
        (b"content-length: 1\r\n", b""),
        (b"transfer-encoding: chunked\r\n", b"ff\r\n{"),
        (b"transfer-encoding: chunked\r\n", b"5\r\n{}"),
        (b"transfer-encoding: chunked\r\n", b"-1\r\n{}\r\n0\r\n\r\n"),
        (b"transfer-encoding: chunked\r\n", b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        (b"transfer-encoding: gzip, chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n"),
        (b"transfer-encoding: nobody-knows-it\r\n", BODY),
        (b"content-length: 2\r\ntransfer-encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n"),
        (b"content-length: 2\r\ncontent-length: 3\r\n", b"{}x"),
        (b"content-length: -1\r\n", BODY),
        (b"content-length: " + b"9" * 40 + b"\r\n", BODY),
        (b"content-length: 0x2\r\n", b"{}"),
        (b"content-length: 65000000000\r\n", b"{"),
    ],
    ids=range(15),
)
def test_a_body_that_is_not_what_its_head_says(storm: Storm, acme: UpstreamThread, more: bytes, body: bytes) -> None:
    """What never arrives whole may be left without an answer; a client that has gone hears none."""
    asked_s = time.monotonic()
    try:
        reply = storm.send(HEAD + more + b"\r\n", body, ends=True)
    except (http.client.HTTPException, ConnectionError):
        pass
    else:
        assert check_error(reply, arrived="x-request-id" in reply.headers)["error_origin"] == "user"
    assert time.monotonic() - asked_s < ANSWERED_WITHIN_S
    assert acme.requests == []


def test_who_waits_to_be_told_to_go_on_is_told(storm: Storm, acme: UpstreamThread) -> None:
    head = HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    assert check(storm.send(head, BODY)) is None
    refused = storm.send(HEAD + b"expect: a-miracle\r\ncontent-length: %d\r\n\r\n" % len(BODY), BODY)
    assert refused.status < 500


@of_a_route
def test_a_body_where_none_is_wanted(storm: Storm, route: RestRoute) -> None:
    if not route.body:
        for body in (b"{}", b"[" * 1000, bytes(2 * MIB)):
            check(storm.ask(route.method, somewhere(route), content=body))


# Queries, headers, methods and paths.

QUERIES = (
    "x=1", "=", "&&&", "=&=", "limit=1&limit=2", "limit=abc", "limit=-1", "limit=1e400", "limit=", "limit[]=1",
    "limit.x=1",
    "limit=99999999999999999999", "%zz", "a=%", "a=%ff", "a=%00", "%00=1", "id=%ed%a0%80", "id=..%2f..", "stream=maybe",
    "from=2026-13-45", "__proto__=1", "a=" + "b" * 20_000, "&".join(f"k{number}=1" for number in range(2000)), '"\\<>',
    "body=1", "body.data=e30=", "content_type=x", "key_id=x&response_id=y&generation_id=z&model_id=w", "beta=1&beta=2",
)  # fmt: skip


@of_a_route
def test_queries_that_no_route_has(storm: Storm, acme: UpstreamThread, route: RestRoute) -> None:
    for query in QUERIES:
        body = bodies(route)[0] if route.body else None
        check(storm.ask(route.method, f"{somewhere(route)}?{query}", json=body))


HEADERS: tuple[Mapping[str, str], ...] = (
    {"accept": "text/plain;q=0, */*;q=nine"},
    {"accept-encoding": "identity;q=0, *;q=0"},
    {"range": "bytes=-1"},
    {"if-none-match": '"' + "x" * 5000},
    {"te": "trailers, nobody-knows-it"},
    {"x-http-method-override": "DELETE", "x-method-override": "DELETE"},
    {"x-forwarded-host": "evil.example", "x-forwarded-proto": "gopher", "forwarded": "for=_"},
    {"x-original-url": "/v1/api-keys", "x-rewrite-url": "/v1/api-keys"},
    {"idempotency-key": ""},
    {"idempotency-key": "k" * 9000},
    {"traceparent": "00-" + "0" * 32 + "-" + "f" * 16 + "-xx"},
    {"anthropic-version": "the day after tomorrow", "anthropic-beta": "x," * 2000},
    {"grpc-timeout": "0n"},
    {"grpc-timeout": "x"},
    {"cookie": "a=b; " * 1000 + "c=d"},
    {"authorization": "Bearer a, Bearer b"},
    {"authorization": "Digest " + "a" * 20_000},
    {"x-api-key": "x"},
    {"grpc-encoding": "nobody-knows-it"},
    {"grpc-previous-rpc-attempts": "x"},
    {"x-y-bin": "!!!"},
)


@of_a_route
def test_headers_that_nobody_sends(storm: Storm, acme: UpstreamThread, route: RestRoute) -> None:
    for headers in HEADERS:
        body = paid(route) | {"nobody_knows_me": 1} if route.body else None
        reply = told(storm.client.request(route.method, somewhere(route), headers=dict(headers), json=body))
        assert reply.status < 500 or (reply.status == 504 and "grpc-timeout" in headers), reply
        check(reply)
    assert acme.requests == []


@pytest.mark.parametrize(
    "line",
    [
        b"x-y: " + b"a" * 40_000, b"x-y: a\x00b", b"x y: z", b": z", b"x-y", b"x_y: z", b"\xff: \xfe",
        b" folded: x",
        b"x-y: a\rb", b"content-length: 0\r\n\r\nGET /v1/models HTTP/1.1",
    ],
    ids=range(10),
)  # fmt: skip
def test_heads_that_are_none(storm: Storm, line: bytes) -> None:
    for path in PATHS:
        head = b"GET %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\n" % path.partition("{")[0].encode()
        reply = storm.send(head + line + b"\r\n\r\n")
        check(reply, arrived="x-request-id" in reply.headers)


@pytest.mark.parametrize("path", PATHS)
def test_methods_that_no_route_takes(storm: Storm, path: str) -> None:
    routes = [route for route in ROUTES if route.path == path]
    takes, at = {route.method for route in rest_routes() if route.path == path}, somewhere(routes[0])
    for method in (*METHODS, "OPTIONS", "TRACE", "PROPFIND"):
        if method not in takes:
            assert check_error(storm.ask(method, at))["error"] == "method_not_allowed", method
    head = storm.ask("HEAD", at)
    assert head.body == b""
    assert (head.status == 405) == (not at.endswith(("/content", "/download")))
    for line in (
        b"G@T %s HTTP/1.1",
        b"M-SEARCH %s HTTP/1.1",
        b"get %s HTTP/1.1",
        b"GET %s HTTP/3.0",
        b"GET  %s HTTP/1.1",
        b"CONNECT %s HTTP/1.1",
    ):
        reply = storm.send(line % at.encode() + b"\r\nhost: x\r\n\r\n")
        check(reply, arrived="x-request-id" in reply.headers)


IDS = (
    "%2e%2e", "..%2f..%2fkeys", "%2f", "%5c", "%00", "%0d%0ax:y", "%c0%af", "%ff", "%ed%a0%80", "a" * 20_000,
    "%25%32%66",
    "%F0%9F%98%80", "'%20OR%20'1'='1", "{x}", "*", "~", "%", "%zz", "null", "-1", "resp_", "gen_" + "f" * 33,
)  # fmt: skip
SPELLINGS = (
    "{}/",
    "{}//",
    "/{}",
    "{}/.",
    "{}/..",
    "{};x=1",
    "{}%20",
    "{}%2f",
    "{}%00",
    "{}%ff",
    "{}#x",
    "{}\\",
    "/.{}",
    "{}" + "/x" * 4000,
)


@of_a_route
def test_paths_that_lead_nowhere(storm: Storm, acme: UpstreamThread, route: RestRoute) -> None:
    body = json.dumps(paid(route) | {"nobody_knows_me": 1}).encode() if route.body else b""
    paths = [spelling.format(somewhere(route)) for spelling in SPELLINGS]
    if route.variables:
        paths += [route.at(*(hostile for _ in route.variables)) for hostile in IDS]
    for path in paths:
        head = f"{route.method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer KEY\r\n"
        reply = storm.send(f"{head}content-length: {len(body)}\r\n\r\n".encode(), body)
        assert reply.status < 500, reply
        check(reply, arrived="x-request-id" in reply.headers)
    assert acme.requests == []


# And after it.


def test_after_the_storm_nothing_is_missing(storm: Storm, acme: UpstreamThread) -> None:
    for _ in range(8):
        assert check(storm.ask("POST", "/v1/chat/completions", json=CHAT)) is None
    assert storm.are_the_same()
    assert storm.resident_bytes() - storm.resident < GROWN_BYTES
    assert storm.purse.balance() == 5_000_000_000
    verified = storm.gateway.run("ledger", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    said = storm.gateway.log[storm.logged :]
    assert [word for word in ("unhandled_exception", "request_failed", "Traceback") if word in said] == []
