"""What may be asked of webhooks, field by field, and what their bodies may hold."""

from __future__ import annotations

from typing import Any

import pytest

from rest_bridge.webhooks_decode import decode_changes, decode_new_webhook, decode_nothing, decode_overlap, decode_since
from server.clock import SystemClock
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Arrival, Call, Principal
from server.domain.webhooks import IssuedWebhook, NewWebhook, WebhookChanges
from server.pipeline.webhooks import Webhooks

CALL = Call(Arrival("0" * 32, "req", 0.0, 0), Principal("team", "key", frozenset()))
HTTPS = "https://hooks.example/videos"


class Untouched:
    """A store that nothing comes to."""

    def __getattr__(self, name: str) -> Any:
        def asked(*_: object, **__: object) -> None:
            raise AssertionError(f"{name} is not to be asked")

        return asked


class Taking:
    """A store that keeps what it is given."""

    def __init__(self) -> None:
        self.made: list[NewWebhook] = []

    async def create(self, _: object, new: NewWebhook) -> IssuedWebhook:
        self.made.append(new)
        raise LookupError


def webhooks(store: object, *, allow_http: bool = False, allow_private: bool = False) -> Webhooks:
    return Webhooks(store, SystemClock(), allow_http=allow_http, allow_private=allow_private)  # type: ignore[arg-type]


async def refused(new: NewWebhook, **allowed: bool) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await webhooks(Untouched(), **allowed).create(CALL, new)
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/", "ftp://hooks.example/", "hooks.example", "https://", "//hooks.example/", "https:///x",
        "https://user@hooks.example/", "https://user:password@hooks.example/", "https://hooks.example/#part",
        "https://hooks.example/ x", "https://hooks.example/\n", "https://hooks.exämple/", "https://hooks.example:99999/",
        "https://hooks.example\\@127.0.0.1/", "https://[::1", f"https://hooks.example/{'x' * 2048}",
        "https://localhost/", "https://127.0.0.1/", "https://[::1]/", "https://0x7f.1/", "https://2130706433/",
        "https://10.0.0.1/", "https://192.168.0.1:8443/", "https://100.64.0.1/", "https://[fd00::1]/",
        "https://[::ffff:127.0.0.1]/", "https://db/", "https://receiver.internal/", "https://receiver.local./",
        "https://169.254.169.254/latest", "https://metadata.google.internal/", "https://0.0.0.0/", "https://224.0.0.1/",
    ],
)  # fmt: skip
async def test_where_no_webhook_may_be(url: str) -> None:
    error = await refused(NewWebhook(url))
    assert (error.reason, error.param) == (Reason.INVALID_VALUE, "url")
    with pytest.raises(GatewayError):
        await webhooks(Untouched()).change(CALL, f"wh_{'0' * 32}", WebhookChanges(url=url))


@pytest.mark.parametrize(
    "url", [HTTPS, "https://hooks.example:8443/a?b=c", "https://192.0.2.1.nip.example/", "https://8.8.8.8/"]
)
async def test_where_one_may_be(url: str) -> None:
    store = Taking()
    with pytest.raises(LookupError):
        await webhooks(store).create(CALL, NewWebhook(url))
    assert [new.url for new in store.made] == [url]


@pytest.mark.parametrize(
    ("url", "allowed", "is_fine"),
    [
        ("http://hooks.example/", {"allow_http": True}, True),
        ("http://127.0.0.1/", {"allow_http": True}, False),
        ("http://127.0.0.1/", {"allow_private": True}, False),
        ("https://10.0.0.1/", {"allow_private": True}, True),
        ("http://receiver.svc/", {"allow_http": True, "allow_private": True}, True),
        ("https://169.254.169.254/", {"allow_http": True, "allow_private": True}, False),
        ("https://100.100.100.200/", {"allow_http": True, "allow_private": True}, False),
    ],
)
async def test_what_an_operator_may_allow(url: str, allowed: dict[str, bool], is_fine: bool) -> None:
    if is_fine:
        with pytest.raises(LookupError):
            await webhooks(Taking(), **allowed).create(CALL, NewWebhook(url))
    else:
        assert (await refused(NewWebhook(url), **allowed)).param == "url"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"url": ""}, "url"),
        ({"events": ()}, "events"),
        ({"events": ("video.completed", "video.deleted")}, "events[1]"),
        ({"events": ("webhook.test",)}, "events[0]"),
        ({"events": ("video.failed", "video.failed")}, "events[1]"),
        ({"description": "x" * 201}, "description"),
        ({"description": "a\nb"}, "description"),
    ],
)
async def test_what_is_wrong_is_named(changes: dict[str, Any], param: str) -> None:
    assert (await refused(NewWebhook(**{"url": HTTPS, **changes}))).param == param


@pytest.mark.parametrize("webhook_id", ["", "wh_", "0" * 32, f"wh_{'0' * 31}g", f"wh_{'A' * 32}", f"whd_{'0' * 32}"])
async def test_what_can_be_no_id_is_not_looked_for(webhook_id: str) -> None:
    asked = webhooks(Untouched())
    for call in (
        asked.get(CALL, webhook_id),
        asked.delete(CALL, webhook_id),
        asked.test(CALL, webhook_id),
        asked.rotate(CALL, webhook_id),
        asked.deliveries(CALL, webhook_id),
        asked.replay(CALL, webhook_id, f"whd_{'0' * 32}"),
        asked.replay_dead(CALL, webhook_id, 0),
    ):
        with pytest.raises(GatewayError) as caught:
            await call
        assert caught.value.reason is Reason.RESOURCE_NOT_FOUND


def test_bodies() -> None:
    assert decode_new_webhook(b'{"url": "u"}') == NewWebhook("u")
    assert decode_changes(b'{"events": null}') == WebhookChanges(events=None)
    assert decode_changes(b"{}") == WebhookChanges()
    assert decode_overlap(b"") is None
    assert decode_since(b'{"since": "2026-01-31T12:00:00Z"}') == 1_769_860_800
    decode_nothing(b"")
    decode_nothing(b"{}")


@pytest.mark.parametrize(
    ("decode", "body", "reason", "param"),
    [
        (decode_new_webhook, b"{}", Reason.MISSING_FIELD, "url"),
        (decode_new_webhook, b'{"url": "u", "secret": "s"}', Reason.UNKNOWN_PARAMETER, "secret"),
        (decode_changes, b'{"url": null}', Reason.INVALID_VALUE, "url"),
        (decode_overlap, b'{"overlap_s": -1}', Reason.INVALID_VALUE, "overlap_s"),
        (decode_since, b'{"since": "yesterday"}', Reason.INVALID_VALUE, "since"),
        (decode_since, b"{}", Reason.MISSING_FIELD, "since"),
        (decode_nothing, b'{"a": 1}', Reason.UNKNOWN_PARAMETER, "a"),
    ],
)
def test_bodies_that_are_refused(decode: Any, body: bytes, reason: Reason, param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        decode(body)
    assert (caught.value.reason, caught.value.param) == (reason, param)
