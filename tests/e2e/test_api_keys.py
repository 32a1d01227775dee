"""API keys over REST, through Envoy: made, shown, changed, rotated under traffic, ended; and whose they are."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from phaseo import Phaseo

from aistats.gateway.v1 import api_keys_pb2, api_keys_pb2_grpc
from tests.e2e.gateway import Gateway
from tests.e2e.purse import Purse
from tests.e2e.test_errors import assert_contract
from tests.e2e.test_grpc_clients import error_info
from tests.e2e.test_isolation import bearer
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import chat_unary
from tests.fakes.typed_client import refused as refused_call

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
HELD: dict[str, Any] = {
    "name": "held to much",
    "scopes": ["inference"],
    "expires_at": "2035-01-31T12:00:00Z",
    "disabled": False,
    "limit": 5.25,
    "limit_reset": "weekly",
    "allowed_models": ["acme/*", "*:free"],
    "allowed_providers": ["acme", "backup"],
    "allowed_cidrs": ["127.0.0.0/8", "2001:db8::/32", "203.0.113.7"],
}


@pytest.fixture(scope="module")
def owner(gateway: Gateway) -> Purse:
    return Purse(gateway)


@pytest.fixture(scope="module")
def neighbour(gateway: Gateway) -> Purse:
    return Purse(gateway)


def send(owner: Purse, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    url = f"{owner.gateway.url}{path}"
    return httpx.request(method, url, json=body, headers={**owner.headers, **headers}, timeout=30)


def make(owner: Purse, **settings: Any) -> dict[str, Any]:
    made = owner.post("/v1/api-keys", {"name": "test", **settings})
    assert made.status_code == httpx.codes.CREATED, made.text
    data: dict[str, Any] = made.json()["data"]
    return data


def chat(owner: Purse, key: str, model: str = "acme/test-1:free") -> httpx.Response:
    return owner.gateway.post("/v1/chat/completions", {"model": model, **CHAT}, headers=bearer(key))


def test_b10_each_field_reads_back_as_written_and_no_other_is_taken(owner: Purse) -> None:
    made = owner.post("/v1/api-keys", HELD)
    assert made.status_code == httpx.codes.CREATED, made.text
    assert made.headers["cache-control"] == "no-store"
    data = made.json()["data"]
    key_id, secret = data["id"], data.pop("key").rpartition("_")[2]
    for reply in (owner.get(f"/v1/api-keys/{key_id}"), owner.get(f"/v1/keys/{key_id}")):
        assert reply.json() == {"ok": True, "data": data}
        assert {name: reply.json()["data"][name] for name in HELD} == HELD
    changes = {
        "name": "other", "scopes": ["inference", "management"], "expires_at": None, "disabled": True, "limit": 7,
        "limit_reset": None, "allowed_models": None, "allowed_providers": ["acme"], "allowed_cidrs": ["::1"],
    }  # fmt: skip
    for name, value in changes.items():
        changed = send(owner, "PATCH", f"/v1/api-keys/{key_id}", {name: value})
        assert changed.json()["data"][name] == value, changed.text
    shown = owner.get(f"/v1/api-keys/{key_id}").json()["data"]
    assert {name: shown[name] for name in changes} == changes
    assert (shown["limit_nanos"], shown["limit_remaining_nanos"]) == (7_000_000_000, 7_000_000_000)
    for method, path in (("POST", "/v1/api-keys"), ("PATCH", f"/v1/api-keys/{key_id}"), ("POST", "/v1/keys")):
        refused = send(owner, method, path, {"name": "x", "budget": 5})
        assert_contract(refused, 400, "validation_error", reason="unknown_parameter", param="budget")
    listed = owner.get("/v1/api-keys").text + owner.get("/v1/audit-log").text
    assert key_id in listed
    assert secret not in listed
    assert secret not in owner.gateway.log


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({}, "name", "required"),
        ({"name": "  "}, "name", "not blank"),
        ({"name": "x" * 101}, "name", "1 to 100"),
        ({"name": "a\x00b"}, "name", "printable"),
        ({"name": "x", "scopes": []}, "scopes", "at least one"),
        ({"name": "x", "scopes": ["admin"]}, "scopes[0]", "inference"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "time to come"),
        ({"name": "x", "expires_at": 99999999999999}, "expires_at", "3650 days"),
        ({"name": "x", "limit_reset": "daily"}, "limit_reset", "needs `limit`"),
        ({"name": "x", "limit": -1}, "limit", "0 to"),
        ({"name": "x", "allowed_models": []}, "allowed_models", "null for no restriction"),
        ({"name": "x", "allowed_models": ["acme/*", "acme/tset-1"]}, "allowed_models[1]", "acme/test-1"),
        ({"name": "x", "allowed_models": ["acme/*", "acme/*"]}, "allowed_models[1]", "twice"),
        ({"name": "x", "allowed_models": ["a*b*"]}, "allowed_models[0]", "one asterisk"),
        ({"name": "x", "allowed_models": ["acme/*"] * 101}, "allowed_models", "at most 100"),
        ({"name": "x", "allowed_providers": ["acne"]}, "allowed_providers[0]", "did you mean acme"),
        ({"name": "x", "allowed_cidrs": ["10.1.0.0/8"]}, "allowed_cidrs[0]", "the network is 10.0.0.0/8"),
        ({"name": "x", "allowed_cidrs": ["here"]}, "allowed_cidrs[0]", "203.0.113.7"),
        ({"name": "x", "allowed_cidrs": ["2001:db8::1%a 203.0.113.7"]}, "allowed_cidrs[0]", "must be an address"),
    ],
)
def test_what_is_wrong_is_named(owner: Purse, body: Any, param: str, told: str) -> None:
    refused = owner.post("/v1/api-keys", body)
    assert_contract(refused, 400, "validation_error", param=param)
    assert told in refused.json()["description"]


def test_one_team_can_neither_see_nor_change_nor_guess_anothers_keys(owner: Purse, neighbour: Purse) -> None:
    theirs = make(neighbour, name="theirs")
    path = f"/v1/api-keys/{theirs['id']}"
    for method, where, body in (
        ("GET", path, None),
        ("PATCH", path, {"disabled": True}),
        ("DELETE", path, None),
        ("POST", f"{path}/rotate", {}),
    ):
        of_theirs = send(owner, method, where, body)
        of_nobody = send(owner, method, where.replace(theirs["id"], "f" * 16), body)
        assert_contract(of_theirs, 404, "not_found_error", reason="resource_not_found")
        assert _told(of_theirs) == _told(of_nobody)
    assert theirs["id"] not in owner.get("/v1/api-keys?limit=250").text + owner.get("/v1/audit-log?limit=250").text
    assert neighbour.get(path).json()["data"]["status"] == "active"
    for strange in ("a'%20OR%20'1'='1", "..%2f..%2fkey", "x" * 500):
        assert_contract(send(owner, "GET", f"/v1/api-keys/{strange}"), 404, "not_found_error")


def _told(reply: httpx.Response) -> Any:
    return {name: value for name, value in reply.json().items() if name != "generation_id"}


def test_only_management_manages_and_any_key_sees_itself(owner: Purse) -> None:
    plain = make(owner, name="plain", limit=2)
    for method, path in (
        ("GET", "/v1/api-keys"),
        ("POST", "/v1/api-keys"),
        ("GET", f"/v1/api-keys/{plain['id']}"),
        ("PATCH", f"/v1/keys/{plain['id']}"),
        ("DELETE", f"/v1/api-keys/{plain['id']}"),
        ("POST", f"/v1/api-keys/{plain['id']}/rotate"),
        ("GET", "/v1/audit-log"),
    ):
        refused = send(owner, method, path, None if method == "GET" else {}, **bearer(plain["key"]))
        assert_contract(refused, 403, "authorization_error", reason="missing_scope")
        assert_contract(send(owner, method, path, None, authorization="Bearer x"), 401, "authentication_error")
    own = owner.gateway.get("/v1/key", headers=bearer(plain["key"])).json()["data"]
    assert (own["id"], own["name"], own["scopes"]) == (plain["id"], "plain", ["inference"])
    assert (own["limit"], own["spent"], own["limit_remaining"]) == (2, 0, 2)
    assert "key" not in own
    assert owner.get("/v1/key").json()["data"]["scopes"] == ["inference", "management"]


def test_a_key_widens_neither_its_own_rights_nor_anothers(owner: Purse) -> None:
    manager = make(
        owner, scopes=["management"], allowed_models=["acme/*"], allowed_cidrs=["127.0.0.0/8"],
        expires_at="2030-01-01T00:00:00Z",
    )  # fmt: skip
    as_manager, path = bearer(manager["key"]), f"/v1/api-keys/{manager['id']}"
    gift = {"name": "x", "scopes": ["management"], "expires_at": "2029-01-01T00:00:00Z",
            "allowed_models": ["acme/test-1"], "allowed_cidrs": ["127.0.0.1"]}  # fmt: skip
    for wider, field in (
        ({"scopes": ["inference"]}, "scopes"),
        ({"expires_at": None}, "expires_at"),
        ({"allowed_models": ["*:free"]}, "allowed_models"),
        ({"allowed_cidrs": ["0.0.0.0/0"]}, "allowed_cidrs"),
    ):
        for method, where, body in (("POST", "/v1/api-keys", {**gift, **wider}), ("PATCH", path, wider)):
            refused = send(owner, method, where, body, **as_manager)
            assert_contract(refused, 403, "authorization_error", reason="beyond_own_rights", param=field)
    bootstrap = owner.get("/v1/key").json()["data"]["id"]
    refused = send(owner, "POST", f"/v1/api-keys/{bootstrap}/rotate", {"overlap_s": 0}, **as_manager)
    assert_contract(refused, 403, "authorization_error", reason="beyond_own_rights")
    assert send(owner, "POST", "/v1/api-keys", gift, **as_manager).status_code == httpx.codes.CREATED
    narrowed = send(owner, "PATCH", path, {"allowed_models": ["acme/test-1"]}, **as_manager)
    assert narrowed.json()["data"]["allowed_models"] == ["acme/test-1"]


def test_a_key_is_held_to_its_models_and_providers(owner: Purse, acme: UpstreamThread, backup: UpstreamThread) -> None:
    held = make(owner, allowed_models=["acme/two:free", "acme/test-*"], allowed_providers=["backup"])["key"]
    backup.script(chat_unary("Hi"))
    assert chat(owner, held, "acme/two:free").status_code == httpx.codes.OK
    assert acme.requests == []
    refused = chat(owner, held, "acme/native:free")
    assert_contract(refused, 403, "authorization_error", reason="model_not_allowed", param="model")
    refused = chat(owner, held, "acme/test-1:free")
    assert_contract(refused, 403, "authorization_error", reason="provider_not_allowed", param="model")
    assert acme.requests == []
    models = owner.gateway.get("/v1/models", headers=bearer(held)).json()["data"]
    assert [model["id"] for model in models] == ["acme/two:free"]


def test_a_key_works_from_its_addresses_only(owner: Purse) -> None:
    near = make(owner, allowed_cidrs=["127.0.0.1"])
    far = make(owner, allowed_cidrs=["203.0.113.0/24", "2001:db8::/32"])
    assert owner.gateway.get("/v1/key", headers=bearer(near["key"])).status_code == httpx.codes.OK
    for pretence in ({}, {"x-forwarded-for": "203.0.113.7"}, {"x-gw-client": "203.0.113.7"}):
        refused = owner.gateway.get("/v1/key", headers={**bearer(far["key"]), **pretence})
        assert_contract(refused, 403, "authorization_error", reason="address_not_allowed")
        assert "203.0.113" not in refused.text
    for port in (owner.gateway.http_port, owner.gateway.grpc_port):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            own = api_keys_pb2_grpc.ApiKeysServiceStub(channel).GetCurrentApiKey
            for key, code in ((near, None), (far, grpc.StatusCode.PERMISSION_DENIED)):
                metadata = (("authorization", f"Bearer {key['key']}"), ("x-gw-client", "203.0.113.7"))
                if code is None:
                    assert own(api_keys_pb2.GetCurrentApiKeyRequest(), metadata=metadata).api_key.id == key["id"]
                else:
                    refused = refused_call(own, api_keys_pb2.GetCurrentApiKeyRequest(), metadata)
                    assert (refused.code(), error_info(refused).reason) == (code, "ADDRESS_NOT_ALLOWED")


def test_behind_proxies_the_address_is_what_the_outermost_of_them_saw(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, workers=1, environ={"AISTATS_TRUSTED_PROXIES": "1"}).start()
    try:
        made = gateway.run("keys", "create", "--team", "default", "--name", "far", "--scope", "inference",
                           "--cidr", "203.0.113.0/24")  # fmt: skip
        for forwarded, status in (("6.6.6.6, 203.0.113.9", 200), ("203.0.113.9, 6.6.6.6", 403), ("", 403)):
            headers = {**bearer(made.stdout.strip()), "x-forwarded-for": forwarded}
            assert gateway.get("/v1/key", headers=headers).status_code == status
    finally:
        assert gateway.stop() == 0


def test_what_ends_a_key_ends_it_within_a_second_on_every_worker(owner: Purse) -> None:
    def is_let_in(key: str) -> set[int]:
        return {owner.gateway.get("/v1/key", headers=bearer(key)).status_code for _ in range(8)}

    disabled, deleted, rotated = (make(owner) for _ in range(3))
    for key in (disabled, deleted, rotated):
        assert is_let_in(key["key"]) == {200}
    send(owner, "PATCH", f"/v1/api-keys/{disabled['id']}", {"disabled": True})
    assert send(owner, "DELETE", f"/v1/api-keys/{deleted['id']}").json()["deleted"] is True
    renewed = send(owner, "POST", f"/v1/api-keys/{rotated['id']}/rotate", {"overlap_s": 0}).json()["data"]
    assert is_let_in(renewed["key"]) == {200}
    time.sleep(1)
    for key in (disabled, deleted, rotated):
        assert is_let_in(key["key"]) == {401}
    send(owner, "PATCH", f"/v1/api-keys/{disabled['id']}", {"disabled": False})
    time.sleep(1)
    assert is_let_in(disabled["key"]) == {200}
    assert_contract(send(owner, "DELETE", f"/v1/api-keys/{deleted['id']}"), 404, "not_found_error")
    assert_contract(owner.get(f"/v1/api-keys/{deleted['id']}"), 404, "not_found_error")
    assert deleted["id"] in owner.get("/v1/api-keys?status=revoked&limit=250").text


def test_a_rotation_under_traffic_loses_no_request(owner: Purse) -> None:
    key = make(owner)
    current, statuses, is_over = [key["key"]], [], threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=owner.gateway.url, timeout=30) as client:
            while not is_over.is_set():
                statuses.append(client.get("/v1/key", headers=bearer(current[-1])).status_code)

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    for _ in range(3):
        rotated = send(owner, "POST", f"/v1/api-keys/{key['id']}/rotate", {"overlap_s": 60})
        current.append(rotated.json()["data"]["key"])
        time.sleep(0.3)
    is_over.set()
    for client in clients:
        client.join()
    assert len(statuses) > 20
    assert set(statuses) == {200}
    shown = owner.get(f"/v1/api-keys/{key['id']}").json()["data"]
    assert shown["previous_key_expires_at"] is not None
    assert owner.gateway.get("/v1/key", headers=bearer(current[-2])).status_code == httpx.codes.OK
    time.sleep(1)
    assert owner.gateway.get("/v1/key", headers=bearer(current[-3])).status_code == httpx.codes.UNAUTHORIZED


def test_a_secret_is_told_to_who_asked_first_and_to_nobody_again(owner: Purse) -> None:
    once = {"idempotency-key": "make-one"}
    first = send(owner, "POST", "/v1/api-keys", {"name": "once"}, **once)
    again = send(owner, "POST", "/v1/keys", {"name": "once"}, **once)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotent-replayed"] == "true"
    told, repeated = first.json()["data"], again.json()["data"]
    secret = told["key"].rpartition("_")[2]
    assert repeated == {**told, "key": None}
    assert len(owner.get("/v1/api-keys?name=ONCE").json()["data"]) == 1
    database = b"".join(file.read_bytes() for file in (owner.gateway.directory / "data").glob("gateway.db*"))
    assert told["id"].encode() in database
    assert secret.encode() not in database


def test_the_audit_log_tells_who_did_what(owner: Purse) -> None:
    key = make(owner, name="watched", limit=5)
    changed = send(owner, "PATCH", f"/v1/api-keys/{key['id']}", {"limit": 7})
    owner.gateway.run("keys", "set", key["id"], "--name", "seen")
    send(owner, "DELETE", f"/v1/api-keys/{key['id']}")
    page = owner.get(f"/v1/audit-log?target={key['id']}").json()
    assert [(entry["actor"], entry["action"]) for entry in page["data"]] == [
        (owner.key.split("_")[3], "key.revoke"),
        ("cli", "key.update"),
        (owner.key.split("_")[3], "key.update"),
        (owner.key.split("_")[3], "key.create"),
    ]
    update = page["data"][2]
    assert update["request_id"] == changed.headers["x-request-id"]
    assert (update["before"], update["after"]) == ({"limit_nanos": 5 * 10**9}, {"limit_nanos": 7 * 10**9})
    first = owner.get("/v1/audit-log?limit=2").json()
    rest = owner.get(f"/v1/audit-log?limit=2&after={first['next_cursor']}").json()
    assert first["has_more"]
    assert max(int(entry["id"]) for entry in rest["data"]) < min(int(entry["id"]) for entry in first["data"])
    for query, param in (("action=key.steal", "action"), ("limit=0", "limit"), ("after=x", "after"), ("who=me", "who"),
                         ("from=soon", "from"), ("from=20&to=10", "from")):  # fmt: skip
        assert_contract(owner.get(f"/v1/audit-log?{query}"), 400, "validation_error", param=param)


def test_pages_and_filters(owner: Purse) -> None:
    names = [f"page-{number}" for number in range(3)]
    made = {make(owner, name=name, disabled=name == "page-1")["id"] for name in names}
    pages = [owner.get(f"/v1/api-keys?name=Page-&limit=2&offset={offset}").json() for offset in (0, 2)]
    assert [len(page["data"]) for page in pages] == [2, 1]
    assert {key["id"] for page in pages for key in page["data"]} == made
    assert {page["total"] for page in pages} == {3}
    assert [key["name"] for key in owner.get("/v1/api-keys?name=page-&status=disabled").json()["data"]] == ["page-1"]
    assert owner.get("/v1/api-keys?name=page-&scope=management").json()["data"] == []
    assert owner.get("/v1/api-keys?name=%25").json()["data"] == []
    wrong = {"limit=0": "limit", "limit=251": "limit", "status=dead": "status", "scope=all": "scope", "name=": "name",
             "page=2": "page"}  # fmt: skip
    for query, param in wrong.items():
        assert_contract(owner.get(f"/v1/api-keys?{query}"), 400, "validation_error", param=param)


def test_what_is_spent_is_told_with_what_is_left(owner: Purse, acme: UpstreamThread) -> None:
    key = make(owner, limit=3, limit_reset="daily")
    acme.script(chat_unary("Hi"))
    reply = chat(owner, key["key"], "acme/test-1")
    assert reply.status_code == httpx.codes.OK, reply.text
    cost = reply.json()["usage"]["pricing"]["total_nanos"]
    own = owner.gateway.get("/v1/key", headers=bearer(key["key"])).json()["data"]
    assert cost > 0
    assert (own["usage_nanos"], own["spent_nanos"], own["limit_remaining_nanos"]) == (cost, cost, 3 * 10**9 - cost)


def test_other_methods_are_not_taken(owner: Purse) -> None:
    for path, allowed in (
        ("/v1/api-keys", "GET, POST"),
        ("/v1/keys/x1y2", "GET, PATCH, DELETE"),
        ("/v1/api-keys/x1y2/rotate", "POST"),
        ("/v1/key", "GET"),
        ("/v1/audit-log", "GET"),
    ):
        refused = send(owner, "PUT", path, {})
        assert_contract(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == allowed


@pytest.fixture
def phaseo(owner: Purse) -> Phaseo:
    return Phaseo(api_key=owner.key, base_url=owner.gateway.base_url, timeout=60)


def test_the_products_own_sdk_manages_keys(phaseo: Phaseo, owner: Purse) -> None:
    made = phaseo.create_api_key({"name": "sdk", "limit": 5, "limit_reset": "monthly", "scopes": ["inference"]})["data"]
    assert made["key"].startswith(f"{made['prefix']}_")
    assert phaseo.get_api_key(made["id"])["data"]["limit"] == 5
    assert phaseo.update_api_key(made["id"], {"disabled": True})["data"]["status"] == "disabled"
    assert phaseo.list_api_keys({"name": "sdk"})["total_count"] == 1
    assert phaseo.get_current_api_key()["data"]["id"] == owner.key.split("_")[3]
    assert phaseo.delete_api_key(made["id"])["deleted"] is True
