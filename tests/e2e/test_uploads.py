"""Uploads through the front door: they cost no memory, and one that is not whole reaches nobody."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.contract import Told, check, check_error, told
from tests.fakes.image_wire import png

EDITS = "/v1/images/edits"
FIELDS = {"model": "acme/draw:free", "prompt": "A cat."}
MIB = 1024 * 1024
LARGE = 25 * MIB - 1024
GROWN_BYTES = 8 * MIB
PATIENCE_S = 30.0
BOUNDARY = "here-it-is-cut"


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=PATIENCE_S) as client:
        yield client


def picture(size: int) -> bytes:
    return png(padding=size - len(png()))


def upload(client: httpx.Client, size: int, **headers: str) -> Told:
    files = {"image": ("a.png", picture(size), "image/png")}
    return told(client.post(EDITS, data=FIELDS, files=files, headers=headers))


def form(data: bytes, boundary: str = BOUNDARY) -> bytes:
    head = f"--{boundary}\r\ncontent-disposition: form-data; name="
    fields = "".join(f'{head}"{name}"\r\n\r\n{value}\r\n' for name, value in FIELDS.items())
    opening = f'{fields}{head}"image"; filename="a.png"\r\ncontent-type: image/png\r\n\r\n'
    return opening.encode() + data + f"\r\n--{boundary}--\r\n".encode()


def declared(boundary: str = BOUNDARY) -> dict[str, str]:
    return {"content-type": f"multipart/form-data; boundary={boundary}"}


def send(gateway: Gateway, pieces: Iterable[bytes], length: int, *, every_s: float = 0.0) -> Told:
    """What comes back for a form that is sent piece by piece. Raises ConnectionError or HTTPException for nothing."""
    with socket.create_connection(("127.0.0.1", gateway.http_port), PATIENCE_S) as connection:
        connection.sendall(
            f"POST {EDITS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
            f"content-type: multipart/form-data; boundary={BOUNDARY}\r\ncontent-length: {length}\r\n\r\n".encode()
        )
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(every_s)
        connection.shutdown(socket.SHUT_WR)
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        return Told(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read(), EDITS)


def peak_bytes(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def forget_peak(process: psutil.Process) -> None:
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def spooled(gateway: Gateway) -> int:
    """Unnamed files that workers have open."""
    found = 0
    for worker in gateway.workers():
        folder = f"/proc/{worker.pid}/fd"
        for number in os.listdir(folder):
            try:
                found += "/#" in os.readlink(f"{folder}/{number}")
            except OSError:
                continue
    return found


def holds_no_uploads(gateway: Gateway) -> bool:
    end_s = time.monotonic() + PATIENCE_S
    while spooled(gateway):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def test_25_megabytes_grow_no_process_by_8(gateway: Gateway, acme: UpstreamThread, client: httpx.Client) -> None:
    for _ in range(6):
        assert upload(client, 2 * MIB).status == 200
    processes = [*gateway.workers(), gateway.envoy()]
    before = [process.memory_info().rss for process in processes]
    for process in processes:
        forget_peak(process)
    for _ in range(2):
        assert check(upload(client, LARGE)) is None
    grown = [peak_bytes(process) - rss for process, rss in zip(processes, before, strict=True)]
    assert max(grown) < GROWN_BYTES, [f"{bytes_ / MIB:.1f} MiB" for bytes_ in grown]
    assert picture(LARGE) in acme.requests[-1].body
    assert holds_no_uploads(gateway)


def test_several_files_arrive_whole_and_in_order(acme: UpstreamThread, client: httpx.Client) -> None:
    pictures = [png(number, padding=300_000 * number) for number in range(3)]
    files = [("image[]", (f"{number}.png", data, "image/png")) for number, data in enumerate(pictures)]
    assert check(told(client.post(EDITS, data=FIELDS, files=files))) is None
    body = acme.requests[-1].body
    places = [body.find(data) for data in pictures]
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.parametrize("size", [25 * MIB + 1, 40 * MIB])
def test_what_is_too_large_is_refused(gateway: Gateway, acme: UpstreamThread, client: httpx.Client, size: int) -> None:
    refused = check_error(upload(client, size))
    assert (refused["status_code"], refused["error"], refused["param"]) == (413, "request_too_large", "image")
    assert acme.requests == []
    assert holds_no_uploads(gateway)


def test_nobody_uploads_without_a_key(acme: UpstreamThread, client: httpx.Client) -> None:
    assert check_error(upload(client, LARGE, authorization="Bearer nobodys"))["error"] == "authentication_error"
    assert acme.requests == []


WHOLE = form(picture(300_000))
BROKEN: dict[str, tuple[bytes, dict[str, str], str | None]] = {
    "another boundary": (WHOLE, declared("elsewhere"), "content-type"),
    "no boundary": (WHOLE, {"content-type": "multipart/form-data"}, "content-type"),
    "no form": (WHOLE, {"content-type": "text/plain"}, "content-type"),
    "no content type": (WHOLE, {}, None),
    "a coded form": (WHOLE, declared() | {"content-encoding": "gzip"}, "content-encoding"),
    "cut in the file": (WHOLE[:-100_000], declared(), "image"),
    "cut in the last boundary": (WHOLE[:-5], declared(), "image"),
    "nothing": (b"", declared(), "content-type"),
    "a part without a name": (WHOLE.replace(b'name="image"; ', b""), declared(), "content-disposition"),
    "a transfer encoding": (
        WHOLE.replace(b"content-type: image/png", b"content-transfer-encoding: base64"),
        declared(),
        "image",
    ),
    "headers without end": (WHOLE.replace(b"image/png", b"image/png" + b"x" * 100_000), declared(), None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_whole_form_reaches_nobody(
    gateway: Gateway, acme: UpstreamThread, client: httpx.Client, name: str
) -> None:
    body, headers, param = BROKEN[name]
    refused = check_error(told(client.post(EDITS, content=body, headers=headers)))
    assert refused["status_code"] == 400
    assert refused["param"] == param
    assert acme.requests == []
    assert holds_no_uploads(gateway)


def test_a_connection_that_breaks_in_an_upload_reaches_nobody(gateway: Gateway, acme: UpstreamThread) -> None:
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        send(gateway, [WHOLE[:-1000]], len(WHOLE))
    assert holds_no_uploads(gateway)
    assert acme.requests == []


def test_an_upload_that_drips_is_waited_for(gateway: Gateway, acme: UpstreamThread) -> None:
    pieces = [WHOLE[start : start + 30_000] for start in range(0, len(WHOLE), 30_000)]
    assert check(send(gateway, pieces, len(WHOLE), every_s=0.1)) is None
    assert len(acme.requests) == 1


def test_the_same_form_is_answered_once(acme: UpstreamThread, client: httpx.Client) -> None:
    key = {"idempotency-key": "an-upload"}
    first = told(client.post(EDITS, content=WHOLE, headers=declared() | key))
    again = told(client.post(EDITS, content=form(picture(300_000), "other"), headers=declared("other") | key))
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    assert again.headers["idempotent-replayed"] == "true"
    other = told(client.post(EDITS, content=form(picture(300_001)), headers=declared() | key))
    assert check_error(other)["reason"] == "idempotency_key_reused"
    assert len(acme.requests) == 1
