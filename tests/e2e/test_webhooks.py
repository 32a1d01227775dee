"""Webhooks through the whole gateway: made over REST, told of a video that the embedded provider makes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from phaseo import verify_async_webhook_signature
from standardwebhooks import Webhook

from server.probes import unused_port
from tests.e2e.gateway import Gateway
from tests.e2e.purse import Purse
from tests.e2e.receiver import Receiver, receiving

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"
VIDEO = {"model": "local/test-card-video:free", "prompt": "A boat", "seconds": 1, "size": "320x180"}
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def team(gateway: Gateway) -> Purse:
    return Purse(gateway)


def until(done: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := done()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def hook(team: Purse, url: str, **settings: Any) -> dict[str, Any]:
    reply = team.post("/v1/webhooks", {"url": url, **settings})
    assert reply.status_code == httpx.codes.CREATED, reply.text
    made: dict[str, Any] = reply.json()["data"]
    return made


def test_a_video_is_told_of_as_it_is(team: Purse, receiver: Receiver) -> None:
    made = hook(team, receiver.url)
    video = team.post("/v1/videos", VIDEO).json()
    page = f"/v1/webhooks/{made['id']}/deliveries?state=delivered"

    def completed() -> list[dict[str, Any]]:
        return [one for one in team.get(page).json()["data"] if one["event_type"] == "video.completed"]

    [delivery] = until(completed)
    events = [Webhook(made["secret"]).verify(body, headers) for headers, body in receiver.received]
    assert [event["type"] for event in events] in (["video.completed"], ["video.in_progress", "video.completed"])
    now = team.get(f"/v1/videos/{video['id']}").json()
    assert {**events[-1]["data"], "expires_at": 0} == {**now, "expires_at": 0}  # which is told anew where it is kept
    assert (delivery["subject"], delivery["event_id"], delivery["status_code"]) == (video["id"], events[-1]["id"], 204)
    headers, body = receiver.received[-1]
    assert verify_async_webhook_signature(secret=made["secret"], body=body, headers=headers)
    replayed = team.post(f"/v1/webhooks/{made['id']}/deliveries/{delivery['id']}/replay", {})
    assert replayed.status_code == httpx.codes.ACCEPTED
    until(lambda: len(receiver.received) > len(events))
    assert receiver.received[-1][1] == body
    assert team.send("DELETE", f"/v1/webhooks/{made['id']}").json()["deleted"]
    actions = [one["action"] for one in team.get(f"/v1/audit-log?target={made['id']}").json()["data"]]
    assert actions == ["webhook.delete", "webhook.create"]


def test_the_receiver_that_is_shown_receives(team: Purse) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) <= 25
    port = unused_port()
    made = hook(team, f"http://127.0.0.1:{port}/", events=["video.completed"])
    environ = {**os.environ, "WEBHOOK_SECRET": made["secret"], "PORT": str(port)}
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = f"/v1/webhooks/{made['id']}"
            assert team.post(f"{address}/test", {}).status_code == httpx.codes.ACCEPTED
            assert process.stdout.readline() == "webhook.test None\n"
            until(lambda: team.get(f"{address}/deliveries?state=delivered").json()["data"])
            assert httpx.post(f"http://127.0.0.1:{port}/", content=b"{}").status_code == httpx.codes.BAD_REQUEST
            video = team.post("/v1/videos", VIDEO).json()["id"]
            assert process.stdout.readline() == f"video.completed {video}\n"
        finally:
            process.terminate()
    team.send("DELETE", f"/v1/webhooks/{made['id']}")


def test_a_secret_is_told_once(team: Purse, gateway: Gateway) -> None:
    again = {"idempotency-key": "a-webhook"}
    body = {"url": "https://hooks.invalid/", "disabled": True}
    first, second = (team.post("/v1/webhooks", body, headers=again).json()["data"] for _ in range(2))
    assert (second["id"], second["secret"]) == (first["id"], None)
    address = f"/v1/webhooks/{first['id']}"
    rotated = team.post(f"{address}/rotate_secret", {"overlap_s": 60}).json()["data"]
    assert rotated["secret"] not in (None, first["secret"])
    assert rotated["previous_secret_expires_at"]
    for path in ("/v1/webhooks", address, "/v1/audit-log"):
        assert "whsec_" not in team.get(path).text
    assert "whsec_" not in gateway.log
    assert team.send("DELETE", address).is_success


def test_the_webhook_of_a_request_is_refused_by_name(team: Purse) -> None:
    refused = team.post("/v1/videos", {**VIDEO, "webhook": {"url": "https://hooks.invalid/"}})
    assert (refused.status_code, refused.json()["param"]) == (400, "webhook")
