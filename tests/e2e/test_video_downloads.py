"""Downloads through the front door: however long a film is, it costs no memory."""

from __future__ import annotations

import httpx

from tests.e2e.gateway import Gateway
from tests.e2e.test_uploads import GROWN_BYTES, MIB, forget_peak, peak_bytes
from tests.e2e.test_videos import until_done
from tests.fakes.film_wire import FILM, LONG_FILM_BYTES

PATIENCE_S = 60.0


def made(gateway: Gateway, model: str) -> str:
    """Where its content is."""
    reply = gateway.post("/v1/videos", {"model": model, "prompt": "x"})
    assert reply.status_code == httpx.codes.ACCEPTED, reply.text
    return str(until_done(gateway, reply.json()["id"])["content_url"])


def downloaded(gateway: Gateway, url: str) -> int:
    size = 0
    with httpx.stream("GET", f"{gateway.url}{url}", headers=gateway.headers, timeout=PATIENCE_S) as reply:
        assert reply.status_code == httpx.codes.OK
        for piece in reply.iter_raw():
            size += len(piece)
    return size


def test_50_megabytes_grow_no_process_by_8(gateway: Gateway) -> None:
    """While they are also copied to where the gateway keeps them. What a worker needs for its first is not counted."""
    for _ in range(6):
        assert downloaded(gateway, made(gateway, "acme/film:free")) == len(FILM)
    first = made(gateway, "acme/long-film:free")
    for _ in gateway.workers():
        assert downloaded(gateway, first) == LONG_FILM_BYTES
    processes = [*gateway.workers(), gateway.envoy()]
    before = [process.memory_info().rss for process in processes]
    for process in processes:
        forget_peak(process)
    url = made(gateway, "acme/long-film:free")
    for _ in range(2):
        assert downloaded(gateway, url) == LONG_FILM_BYTES
    grown = [peak_bytes(process) - rss for process, rss in zip(processes, before, strict=True)]
    assert max(grown) < GROWN_BYTES, [f"{bytes_ / MIB:.1f} MiB" for bytes_ in grown]
