"""ApiKeysService as a typed client sees it, over the real store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from aistats.gateway.v1 import api_keys_pb2 as pb
from aistats.gateway.v1 import api_keys_pb2_grpc
from server.clock import SystemClock
from server.domain.identity import Scope
from server.pipeline.api_keys import ApiKeys
from server.rpc.api_keys import ApiKeysServicer
from server.storage import api_key
from server.storage.api_keys import SqlApiKeys
from server.storage.database import Database
from server.storage.key_records import KeyRecords
from tests.fakes.catalogues import Source
from tests.fakes.rpc_host import HostThread, Metadata, bearer
from tests.fakes.typed_client import details, refused

Stub = Any
INFERENCE, MANAGEMENT = pb.API_KEY_SCOPE_INFERENCE, pb.API_KEY_SCOPE_MANAGEMENT
UNKNOWN = "f" * 16


@pytest.fixture(scope="module")
def database(_grpc_server: HostThread) -> Database:
    return Database.open(_grpc_server.database_url)


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return api_keys_pb2_grpc.add_ApiKeysServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer(database: Database) -> ApiKeysServicer:
    clock = SystemClock()
    return ApiKeysServicer(ApiKeys(SqlApiKeys(database, clock), Source(), clock))


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return api_keys_pb2_grpc.ApiKeysServiceStub


@pytest.fixture(scope="module", autouse=True)
def closing(grpc_server: HostThread, database: Database) -> Iterator[None]:
    yield
    grpc_server.run(database.close())


@pytest.fixture(scope="module")
def as_both(grpc_server: HostThread, database: Database) -> Metadata:
    """A key with both scopes."""
    made = KeyRecords(database, SystemClock()).create(team="acme", name="both", scopes=frozenset(Scope))
    return bearer(grpc_server.run(made).key)


def create(stub: Stub, metadata: Metadata, **settings: Any) -> pb.CreateApiKeyResponse:
    request = pb.CreateApiKeyRequest(settings=pb.ApiKeySettings(**{"name": "test", **settings}))
    reply: pb.CreateApiKeyResponse = stub.CreateApiKey(request, metadata=metadata)
    return reply


def update(stub: Stub, metadata: Metadata, key_id: str, *mask: str, **settings: Any) -> pb.ApiKey:
    request = pb.UpdateApiKeyRequest(
        key_id=key_id, settings=pb.ApiKeySettings(**settings), update_mask=FieldMask(paths=mask)
    )
    key: pb.ApiKey = stub.UpdateApiKey(request, metadata=metadata).api_key
    return key


def test_a_key_is_made_as_it_was_asked_for_and_shown_without_its_secret(grpc_stub: Stub, as_both: Metadata) -> None:
    settings = pb.ApiKeySettings(
        name="held",
        scopes=[INFERENCE, MANAGEMENT],
        expires_at=int(SystemClock().now()) + 1000,
        disabled=True,
        limit_nanos=5,
        limit_reset=pb.API_KEY_LIMIT_RESET_WEEKLY,
        allowed_models=["acme/*"],
        allowed_providers=["ready"],
        allowed_cidrs=["10.0.0.0/8"],
    )
    made = grpc_stub.CreateApiKey(pb.CreateApiKeyRequest(settings=settings), metadata=as_both)
    token = api_key.parse(made.key)
    assert token is not None
    assert (made.api_key.id, made.api_key.prefix) == (token.kid, f"aistats_v1_sk_{token.kid}")
    assert made.api_key.settings == settings
    assert made.api_key.status == pb.API_KEY_STATUS_DISABLED
    assert made.api_key.limit_remaining_nanos == 5
    shown = grpc_stub.GetApiKey(pb.GetApiKeyRequest(key_id=token.kid), metadata=as_both)
    listed = grpc_stub.ListApiKeys(pb.ListApiKeysRequest(name="HELD"), metadata=as_both)
    assert shown.api_key == made.api_key
    assert (list(listed.keys), listed.total, listed.limit) == ([made.api_key], 1, 50)
    assert token.secret not in str(shown) + str(listed)


def test_a_field_is_set_or_lifted_and_the_others_stay(grpc_stub: Stub, as_both: Metadata) -> None:
    key = create(grpc_stub, as_both, limit_nanos=5, allowed_models=["acme/*"]).api_key
    assert key.settings.scopes == [INFERENCE]
    changed = update(grpc_stub, as_both, key.id, limit_nanos=7, name="new")
    assert (changed.settings.name, changed.settings.limit_nanos) == ("new", 7)
    assert changed.settings.allowed_models == ["acme/*"]
    changed = update(grpc_stub, as_both, key.id, "limit_nanos", "allowed_models", "disabled", disabled=True, name="not")
    assert not changed.settings.HasField("limit_nanos")
    assert (changed.settings.allowed_models, changed.settings.disabled, changed.settings.name) == ([], True, "new")
    assert update(grpc_stub, as_both, key.id, "disabled").status == pb.API_KEY_STATUS_ACTIVE
    assert update(grpc_stub, as_both, key.id) == update(grpc_stub, as_both, key.id)


def test_a_secret_is_renewed_and_a_key_ended(grpc_stub: Stub, as_both: Metadata) -> None:
    made = create(grpc_stub, as_both, scopes=[MANAGEMENT, INFERENCE])
    own = pb.GetCurrentApiKeyRequest()
    rotated = grpc_stub.RotateApiKey(pb.RotateApiKeyRequest(key_id=made.api_key.id), metadata=as_both)
    assert rotated.api_key.previous_key_expires_at > SystemClock().now() + 86_000
    for text in (made.key, rotated.key):
        assert grpc_stub.GetCurrentApiKey(own, metadata=bearer(text)).api_key.id == made.api_key.id
    grpc_stub.DeleteApiKey(pb.DeleteApiKeyRequest(key_id=made.api_key.id), metadata=as_both)
    error = refused(grpc_stub.DeleteApiKey, pb.DeleteApiKeyRequest(key_id=made.api_key.id), as_both)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    error = refused(grpc_stub.CreateApiKey, pb.CreateApiKeyRequest(settings={"name": "x"}), bearer(rotated.key))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    revoked = pb.ListApiKeysRequest(status=[pb.API_KEY_STATUS_REVOKED], limit=250)
    assert made.api_key.id in {key.id for key in grpc_stub.ListApiKeys(revoked, metadata=as_both).keys}


def test_who_may(grpc_stub: Stub, as_inference: Metadata, as_management: Metadata) -> None:
    calls = [
        (grpc_stub.ListApiKeys, pb.ListApiKeysRequest()),
        (grpc_stub.GetApiKey, pb.GetApiKeyRequest(key_id=UNKNOWN)),
        (grpc_stub.CreateApiKey, pb.CreateApiKeyRequest()),
        (grpc_stub.UpdateApiKey, pb.UpdateApiKeyRequest(key_id=UNKNOWN)),
        (grpc_stub.DeleteApiKey, pb.DeleteApiKeyRequest(key_id=UNKNOWN)),
        (grpc_stub.RotateApiKey, pb.RotateApiKeyRequest(key_id=UNKNOWN)),
        (grpc_stub.ListAuditLog, pb.ListAuditLogRequest()),
    ]
    for method, request in calls:
        assert refused(method, request, as_inference).code() is grpc.StatusCode.PERMISSION_DENIED
        assert refused(method, request, ()).code() is grpc.StatusCode.UNAUTHENTICATED
    for metadata, scope in ((as_inference, INFERENCE), (as_management, MANAGEMENT)):
        own = grpc_stub.GetCurrentApiKey(pb.GetCurrentApiKeyRequest(), metadata=metadata).api_key
        assert own.settings.scopes == [scope]


def test_a_key_gives_no_more_than_it_has(grpc_stub: Stub, as_management: Metadata, as_both: Metadata) -> None:
    error = refused(grpc_stub.CreateApiKey, pb.CreateApiKeyRequest(settings={"name": "x"}), as_management)
    info = details(error)[1]
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert (info.reason, info.metadata["param"]) == ("BEYOND_OWN_RIGHTS", "scopes")
    assert create(grpc_stub, as_management, scopes=[MANAGEMENT]).api_key.settings.scopes == [MANAGEMENT]
    plain = create(grpc_stub, as_both).api_key.id
    error = refused(grpc_stub.RotateApiKey, pb.RotateApiKeyRequest(key_id=plain), as_management)
    assert details(error)[1].reason == "BEYOND_OWN_RIGHTS"


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "\n"}, "name"),
        ({"scopes": [0]}, "scopes"),
        ({"scopes": [9]}, "scopes"),
        ({"expires_at": 1}, "expires_at"),
        ({"limit_nanos": -1}, "limit"),
        ({"limit_nanos": 10**18 + 1}, "limit"),
        ({"limit_reset": 1}, "limit_reset"),
        ({"limit_nanos": 1, "limit_reset": 9}, "limit_reset"),
        ({"allowed_models": ["nobody/nothing"]}, "allowed_models[0]"),
        ({"allowed_providers": ["ready", "nobody"]}, "allowed_providers[1]"),
        ({"allowed_cidrs": ["10.0.0.1/8"]}, "allowed_cidrs[0]"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(grpc_stub: Stub, as_both: Metadata, settings: dict[str, Any], param: str) -> None:
    request = pb.CreateApiKeyRequest(settings=pb.ApiKeySettings(**{"name": "x", **settings}))
    error = refused(grpc_stub.CreateApiKey, request, as_both)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[1].metadata["param"] == param


def test_a_mask_names_fields_that_there_are(grpc_stub: Stub, as_both: Metadata) -> None:
    key_id = create(grpc_stub, as_both).api_key.id
    request = pb.UpdateApiKeyRequest(key_id=key_id, update_mask=FieldMask(paths=["budget"]))
    error = refused(grpc_stub.UpdateApiKey, request, as_both)
    assert (error.code(), details(error)[1].metadata["param"]) == (grpc.StatusCode.INVALID_ARGUMENT, "update_mask")
    request = pb.UpdateApiKeyRequest(key_id=key_id, settings={"limit_reset": 1})
    assert details(refused(grpc_stub.UpdateApiKey, request, as_both))[1].metadata["param"] == "limit_reset"
    for method, empty in (
        (grpc_stub.GetApiKey, pb.GetApiKeyRequest()),
        (grpc_stub.UpdateApiKey, pb.UpdateApiKeyRequest()),
        (grpc_stub.RotateApiKey, pb.RotateApiKeyRequest()),
    ):
        assert details(refused(method, empty, as_both))[1].metadata["param"] == "key_id"
    late = pb.RotateApiKeyRequest(key_id=key_id, overlap_s=2_592_001)
    assert details(refused(grpc_stub.RotateApiKey, late, as_both))[1].metadata["param"] == "overlap_s"


def test_the_audit_log_page_by_page(grpc_stub: Stub, as_both: Metadata) -> None:
    key = create(grpc_stub, as_both, name="watched").api_key
    update(grpc_stub, as_both, key.id, name="seen")
    first = grpc_stub.ListAuditLog(pb.ListAuditLogRequest(target=key.id, limit=1), metadata=as_both)
    [entry] = first.entries
    assert (entry.action, json.loads(entry.before_json)) == ("key.update", {"name": "watched"})
    assert json.loads(entry.after_json) == {"name": "seen"}
    assert (entry.actor, entry.HasField("request_id")) == (as_both[0][1].split("_")[3], True)
    rest = pb.ListAuditLogRequest(target=key.id, limit=1, after=first.next_cursor)
    second = grpc_stub.ListAuditLog(rest, metadata=as_both)
    assert [one.action for one in second.entries] == ["key.create"]
    assert not second.entries[0].HasField("before_json")
    assert not second.HasField("next_cursor")
    error = refused(grpc_stub.ListAuditLog, pb.ListAuditLogRequest(action="key.steal"), as_both)
    assert details(error)[1].metadata["param"] == "action"
