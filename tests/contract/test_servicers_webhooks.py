"""WebhooksService as a typed client sees it, over the real store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from aistats.gateway.v1 import webhooks_pb2 as pb
from aistats.gateway.v1 import webhooks_pb2_grpc
from server.clock import SystemClock, UuidV7
from server.pipeline.webhooks import Webhooks
from server.rpc.webhooks import WebhooksServicer
from server.storage.database import Database
from server.storage.webhooks import SqlWebhooks
from tests.fakes.rpc_host import HostThread, Metadata
from tests.fakes.typed_client import details, refused

Stub = Any
URL = "https://hooks.invalid/videos"
UNKNOWN = f"wh_{'0' * 32}"


@pytest.fixture(scope="module")
def database(_grpc_server: HostThread) -> Database:
    return Database.open(_grpc_server.database_url)


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return webhooks_pb2_grpc.add_WebhooksServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer(database: Database) -> WebhooksServicer:
    clock = SystemClock()
    store = SqlWebhooks(database, clock, UuidV7())
    return WebhooksServicer(Webhooks(store, clock, allow_http=False, allow_private=False))


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return webhooks_pb2_grpc.WebhooksServiceStub


@pytest.fixture(scope="module", autouse=True)
def closing(grpc_server: HostThread, database: Database) -> Iterator[None]:
    yield
    grpc_server.run(database.close())


def create(stub: Stub, metadata: Metadata, **settings: Any) -> pb.CreateWebhookResponse:
    request = pb.CreateWebhookRequest(settings=pb.WebhookSettings(**{"url": URL, **settings}))
    reply: pb.CreateWebhookResponse = stub.CreateWebhook(request, metadata=metadata)
    return reply


def update(stub: Stub, metadata: Metadata, webhook_id: str, *mask: str, **settings: Any) -> pb.WebhookSettings:
    request = pb.UpdateWebhookRequest(
        webhook_id=webhook_id, settings=pb.WebhookSettings(**settings), update_mask=FieldMask(paths=mask)
    )
    changed: pb.WebhookSettings = stub.UpdateWebhook(request, metadata=metadata).webhook.settings
    return changed


def test_a_webhook_is_made_changed_and_forgotten(grpc_stub: Stub, as_management: Metadata) -> None:
    settings: dict[str, Any] = {"events": ["video.completed", "video.failed"], "description": "a site"}
    made = create(grpc_stub, as_management, **settings)
    assert made.secret.startswith("whsec_")
    assert made.webhook.settings == pb.WebhookSettings(url=URL, **settings)
    assert not made.webhook.HasField("updated_at")
    named = pb.GetWebhookRequest(webhook_id=made.webhook.id)
    assert grpc_stub.GetWebhook(named, metadata=as_management).webhook == made.webhook
    assert made.webhook in grpc_stub.ListWebhooks(pb.ListWebhooksRequest(), metadata=as_management).webhooks
    changed = update(grpc_stub, as_management, made.webhook.id, description="another")
    assert (changed.description, list(changed.events)) == ("another", settings["events"])
    changed = update(grpc_stub, as_management, made.webhook.id, "events", "disabled", disabled=True, description="not")
    assert (changed.description, list(changed.events), changed.disabled) == ("another", [], True)
    assert not update(grpc_stub, as_management, made.webhook.id, "disabled").disabled
    rotate = pb.RotateWebhookSecretRequest(webhook_id=made.webhook.id, overlap_s=60)
    rotated = grpc_stub.RotateWebhookSecret(rotate, metadata=as_management)
    assert rotated.secret != made.secret
    assert rotated.webhook.HasField("previous_secret_expires_at")
    grpc_stub.DeleteWebhook(pb.DeleteWebhookRequest(webhook_id=made.webhook.id), metadata=as_management)
    assert refused(grpc_stub.GetWebhook, named, as_management).code() is grpc.StatusCode.NOT_FOUND


def test_what_was_sent_is_listed_and_sent_again(grpc_stub: Stub, as_management: Metadata) -> None:
    webhook_id = create(grpc_stub, as_management).webhook.id
    test = pb.TestWebhookRequest(webhook_id=webhook_id)
    queued = [grpc_stub.TestWebhook(test, metadata=as_management).delivery for _ in range(2)]
    assert {one.state for one in queued} == {pb.WEBHOOK_DELIVERY_STATE_PENDING}
    assert {(one.event_type, one.subject, one.attempts) for one in queued} == {("webhook.test", webhook_id, 0)}
    asked = pb.ListWebhookDeliveriesRequest(webhook_id=webhook_id, limit=1)
    first = grpc_stub.ListWebhookDeliveries(asked, metadata=as_management)
    asked.after = first.next_cursor
    second = grpc_stub.ListWebhookDeliveries(asked, metadata=as_management)
    assert [*second.deliveries, *first.deliveries] == queued
    assert not second.HasField("next_cursor")
    update(grpc_stub, as_management, webhook_id, disabled=True)
    dead = pb.ListWebhookDeliveriesRequest(webhook_id=webhook_id, state=pb.WEBHOOK_DELIVERY_STATE_DEAD)
    ended = grpc_stub.ListWebhookDeliveries(dead, metadata=as_management).deliveries
    assert {(one.error, one.HasField("next_attempt_at")) for one in ended} == {("disabled", False)}
    replay = pb.ReplayWebhookDeliveryRequest(webhook_id=webhook_id, delivery_id=ended[0].event_id)
    error = refused(grpc_stub.ReplayWebhookDelivery, replay, as_management)
    assert error.code() is grpc.StatusCode.ABORTED
    update(grpc_stub, as_management, webhook_id, "disabled")
    again = grpc_stub.ReplayWebhookDelivery(replay, metadata=as_management).delivery
    assert (again.id, again.state) == (ended[0].id, pb.WEBHOOK_DELIVERY_STATE_PENDING)
    since = pb.ReplayDeadWebhookDeliveriesRequest(webhook_id=webhook_id)
    assert grpc_stub.ReplayDeadWebhookDeliveries(since, metadata=as_management).replayed == 1


@pytest.mark.parametrize(
    ("method", "request_", "param"),
    [
        ("CreateWebhook", pb.CreateWebhookRequest(), "url"),
        ("CreateWebhook", pb.CreateWebhookRequest(settings=pb.WebhookSettings(url="https://127.0.0.1/")), "url"),
        ("CreateWebhook", pb.CreateWebhookRequest(settings=pb.WebhookSettings(url=URL, events=["x"])), "events[0]"),
        ("GetWebhook", pb.GetWebhookRequest(), "webhook_id"),
        (
            "UpdateWebhook",
            pb.UpdateWebhookRequest(webhook_id=UNKNOWN, update_mask=FieldMask(paths=["x"])),
            "update_mask",
        ),
        ("UpdateWebhook", pb.UpdateWebhookRequest(webhook_id=UNKNOWN, update_mask=FieldMask(paths=["url"])), "url"),
        ("RotateWebhookSecret", pb.RotateWebhookSecretRequest(webhook_id=UNKNOWN, overlap_s=2**31), "overlap_s"),
        ("ListWebhookDeliveries", pb.ListWebhookDeliveriesRequest(webhook_id=UNKNOWN, after="x"), "after"),
        ("ListWebhookDeliveries", pb.ListWebhookDeliveriesRequest(webhook_id=UNKNOWN, limit=0), "limit"),
        ("ReplayWebhookDelivery", pb.ReplayWebhookDeliveryRequest(webhook_id=UNKNOWN), "delivery_id"),
        ("ReplayDeadWebhookDeliveries", pb.ReplayDeadWebhookDeliveriesRequest(webhook_id=UNKNOWN, since=-1), "since"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(
    grpc_stub: Stub, as_management: Metadata, method: str, request_: Any, param: str
) -> None:
    error = refused(getattr(grpc_stub, method), request_, as_management)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[1].metadata["param"] == param


def test_only_management_may(grpc_stub: Stub, as_inference: Metadata) -> None:
    error = refused(grpc_stub.ListWebhooks, pb.ListWebhooksRequest(), as_inference)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
