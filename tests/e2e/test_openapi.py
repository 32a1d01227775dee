"""The description against a whole gateway: real replies of every route are as it says, and its page is served."""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from rest_bridge.documents import PAGE_FILES
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.bodies import FILMED, LISTENER, VIDEO_PATHS, FormBody, request_of
from tests.fakes.openapi import Checker, document, operations

ASKED = [{"role": "user", "content": "Say hello."}]
PAID = "acme/test-1:free"
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def described(gateway: Gateway) -> Mapping[str, Any]:
    reply = httpx.get(f"{gateway.url}/openapi.json", timeout=30)
    assert reply.status_code == 200
    found: Mapping[str, Any] = reply.json()
    return found


@pytest.fixture(scope="module")
def checker(described: Mapping[str, Any]) -> Checker:
    return Checker(described, strict=True)


def test_what_is_served_is_what_the_handlers_make(described: Mapping[str, Any]) -> None:
    assert described == {**document(), "info": {**document()["info"], "version": described["info"]["version"]}}


def test_real_replies_of_every_route_are_as_described(
    gateway: Gateway, acme: UpstreamThread, checker: Checker, described: Mapping[str, Any]
) -> None:
    """A route that has none here fails the test."""
    seen: set[tuple[str, str]] = set()

    def ask(method: str, path: str, address: str | None = None, body: Any = None, **options: Any) -> httpx.Response:
        options.setdefault("headers", gateway.headers)
        sent = {} if body is None else {"json": body}
        reply = httpx.request(method, f"{gateway.url}{address or path}", timeout=60, **sent, **options)
        checker.check_reply(method, path, reply)
        if reply.is_success:
            seen.add((method, path))
        return reply

    made: dict[str, Any] = {}
    for path, operation in ((path, one) for method, path, one in operations(described) if method == "POST"):
        if "{" in path:
            continue
        content = operation["requestBody"]["content"]
        for example in content.get("application/json", {"examples": {}})["examples"].values():
            if path in VIDEO_PATHS[1:]:
                example = {"value": FILMED[0]}  # which is made at once
            reply = ask("POST", path, body=example["value"])
            assert reply.is_success, (example, reply.text)
            made[path] = reply.json() if "json" in reply.headers["content-type"] else None
        if "/audio" in path:  # the embedded model translates nothing
            for example in content.get("multipart/form-data", {"examples": {}})["examples"].values():
                fields = {name: str(value).lower() for name, value in example["value"].items() if name != "file"}
                reply = ask("POST", path, **request_of(FormBody({**fields, "model": LISTENER})))
                assert reply.is_success, (example, reply.text)
        assert ask("POST", path, body={"model": 1}).status_code == 400
        assert ask("POST", path, body={}, headers={}).status_code == 401
    extras = {"model": PAID, "meta": True, "debug": {"trace": True}}
    for stream in (False, True):
        chat = ask("POST", "/v1/chat/completions", body={**extras, "messages": ASKED, "stream": stream, "usage": True})
        ask("POST", "/v1/messages", body={**extras, "messages": ASKED, "max_tokens": 16, "stream": stream})
        kept = ask("POST", "/v1/responses", body={**extras, "input": "Say hello.", "stream": stream, "user": "u"})
    assert ask("POST", "/v1/chat/completions", body={"model": "acme/dead:free", "messages": ASKED}).status_code == 502
    assert ask("POST", "/v1/messages", body={"model": "acme/dead:free", "messages": ASKED, "max_tokens": 1}).is_error
    assert ask("POST", "/v1/chat/completions", body={"model": "acme/test-1", "messages": ASKED}).status_code == 402
    kept = ask("POST", "/v1/responses", body={"model": PAID, "input": "Say hello.", "metadata": {"a": "b"}})
    one, other = f"/v1/responses/{kept.json()['id']}", "/v1/responses/{response_id}"
    ask("GET", other, one)
    ask("DELETE", other, one)
    assert ask("GET", other, one).status_code == 404

    for path in ("/v1/api-keys", "/v1/keys"):
        key, address = f"{path}/{{key_id}}", f"{path}/{made[path]['data']['id']}"
        ask("GET", path)
        ask("GET", key, address)
        ask("PATCH", key, address, {"name": "renamed", "limit": None})
        ask("POST", f"{key}/rotate", f"{address}/rotate", {"overlap_s": 0})
        ask("DELETE", key, address)
        assert ask("GET", key, f"{path}/none").status_code == 404
    for path in VIDEO_PATHS:
        video, address = f"{path}/{{video_id}}", f"{path}/{made[path]['id']}"
        while ask("GET", video, address).json()["status"] != "completed":
            time.sleep(0.2)
        ask("GET", path)
        ask("GET", f"{path}/models")
        for method in ("GET", "HEAD"):
            assert ask(method, f"{video}/content", f"{address}/content").status_code == 200
        signed = (
            ask("POST", f"{video}/download_url", f"{address}/download_url", {}).json()["url"].removeprefix(gateway.url)
        )
        if path == VIDEO_PATHS[0]:
            for method in ("GET", "HEAD"):
                assert ask(method, f"{video}/download", signed, headers={}).status_code == 200
        assert ask("POST", f"{video}/remix", f"{address}/remix", {"prompt": "At night"}).status_code == 202
        assert ask("POST", f"{video}/cancel", f"{address}/cancel", {}).status_code == 200
        ask("DELETE", video, address)
        assert ask("GET", video, address).status_code == 404
    ask("GET", "/v1/key")
    ask("GET", "/v1/audit-log")
    hook, address = "/v1/webhooks/{webhook_id}", f"/v1/webhooks/{made['/v1/webhooks']['data']['id']}"
    queued = ask("POST", f"{hook}/test", f"{address}/test").json()["data"]
    ask("POST", f"{hook}/deliveries/{{delivery_id}}/replay", f"{address}/deliveries/{queued['id']}/replay")
    ask("POST", f"{hook}/replay", f"{address}/replay", {"since": 0})
    ask("POST", f"{hook}/rotate_secret", f"{address}/rotate_secret", {"overlap_s": 60})
    ask("GET", f"{hook}/deliveries", f"{address}/deliveries?state=pending&limit=1")
    ask("PATCH", hook, address, {"description": "renamed", "disabled": True})
    assert ask("POST", f"{hook}/test", f"{address}/test").status_code == 409
    for one in ask("GET", "/v1/webhooks").json()["data"]:
        ask("GET", hook, f"/v1/webhooks/{one['id']}")
        ask("DELETE", hook, f"/v1/webhooks/{one['id']}")
    assert ask("GET", hook, address).status_code == 404

    generation = chat.headers["x-generation-id"]
    for path in ("/v1/generation", "/v1/generations"):
        ask("GET", path, f"{path}?id={generation}")
    ask("GET", "/v1/generation/{generation_id}", f"/v1/generation/{generation}")
    assert ask("GET", "/v1/generation/{generation_id}", "/v1/generation/gen_none").is_error
    assert len(ask("GET", "/v1/generations", "/v1/generations?limit=50").json()["data"]) > 3
    for path in ("/v1/credits", "/v1/activity", "/v1/analytics", "/v1/health", "/healthz", "/v1/pricing/models"):
        ask("GET", path)
    assert ask("GET", "/v1/activity", "/v1/activity?limit=0").status_code == 400
    assert ask("GET", "/v1/activity", "/v1/activity?none=0").status_code == 400

    listed = ask("GET", "/v1/models")
    ask("GET", "/v1/models/me")
    ask("GET", "/v1/models", "/v1/models?include_endpoints=chat&limit=250")
    has_it = {**gateway.headers, "if-none-match": listed.headers["etag"]}
    assert ask("GET", "/v1/models", headers=has_it).status_code == 304
    assert ask("GET", "/v1/models", "/v1/models?status=none").status_code == 400
    for suffix in ("", "/endpoints"):
        path = f"/v1/models/{{model_id}}{suffix}"
        ask("GET", path, f"/v1/models/{LOCAL_MODEL}{suffix}")
        ask("GET", path, f"/v1/models/{LOCAL_MODEL.replace('/', '%2F')}{suffix}")
        assert ask("GET", path, f"/v1/models/acme/none{suffix}").status_code == 404
    for path in ("/openapi.json", "/openapi.yaml", "/docs"):
        ask("GET", path, headers={})
    ask("GET", "/docs/{name}", "/docs/page.js", headers={})
    assert ask("GET", "/docs/{name}", "/docs/none", headers={}).status_code == 404
    every = {(method, path) for method, path, _ in operations(described)}
    assert every - seen == set()


SERVED = ["/docs", "/openapi.yaml", "/openapi.json", *(f"/docs/{name}" for name in PAGE_FILES if name != "index.html")]


@pytest.mark.parametrize("path", SERVED)
def test_what_the_page_consists_of_is_served_whole_compressed_and_once(gateway: Gateway, path: str) -> None:
    plain = httpx.get(f"{gateway.url}{path}", headers={"accept-encoding": "identity"}, timeout=30)
    assert plain.status_code == 200
    assert "content-encoding" not in plain.headers
    assert int(plain.headers["content-length"]) == len(plain.content)
    assert plain.headers["x-content-type-options"] == "nosniff"
    assert plain.headers["cache-control"].startswith("public, ")
    with httpx.stream("GET", f"{gateway.url}{path}", headers={"accept-encoding": "gzip"}, timeout=30) as small:
        raw = b"".join(small.iter_raw())
        assert int(small.headers["content-length"]) == len(raw)
        assert (gzip.decompress(raw) if small.headers.get("content-encoding") == "gzip" else raw) == plain.content
        assert small.headers.get("content-encoding") == "gzip" or len(raw) < 1400
    again = httpx.get(f"{gateway.url}{path}", headers={"if-none-match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == plain.headers["etag"]
    refused = httpx.post(f"{gateway.url}{path}")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")


def test_the_page_may_load_only_what_the_gateway_serves(gateway: Gateway) -> None:
    page = httpx.get(f"{gateway.url}/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy["script-src"], policy["style-src"], policy["connect-src"]} == {"'self'"}
    assert "http" not in page.text.replace("http-equiv", "")
