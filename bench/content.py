"""What the gateway adds to a download of a video, and what downloads and uploads cost it in memory.

    python -m bench.content

Through the whole gateway, Envoy included, on its core; stand-in and client on the other. Once with content relayed
from its provider, once with content that the gateway keeps. First bytes are measured in turns: the stand-in itself,
then each gateway. Memory is the peak of a process over what it held before the transfer.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median

import msgspec
import yaml

from bench.machine import Cores, description, rss_bytes
from bench.stack import MODULE, Failed, Target, gateway, running
from tests.fakes.image_wire import png
from tests.fakes.video_upstream import KEYS, Media, Plan, VideoUpstream

MB = 1_000_000
MIB = 1024 * 1024
FILM_BYTES = 50 * MB
UPLOAD_BYTES = 25 * MIB - 64 * 1024
FIRST_BYTE_ROUNDS = 60
TRANSFERS = 5
SLOW_PAUSE_S = 0.01
"""Between two reads of 256 KiB: 25 MB/s at the most."""
READ_BYTES = 256 * 1024
FIRST_BYTE_TARGET_MS = 50.0
GROWN_TARGET_BYTES = 8 * MB
PATIENCE_S = 120.0
BOUNDARY = "a-video-begins-with-it"
RELAYED, KEPT = "relayed", "kept"
MODEL = "bench/film:free"
FIRST_JOB = "native_1"
"""As the stand-in names it."""


class Film(msgspec.Struct, frozen=True):
    """Where something can be downloaded."""

    port: int
    path: str
    headers: Mapping[str, str]


class Grown(msgspec.Struct, frozen=True):
    """By how much each process grew at the most during one transfer, and how long that took."""

    took_s: float
    envoy_bytes: int
    worker_bytes: int

    @property
    def both_bytes(self) -> int:
        return self.envoy_bytes + self.worker_bytes


def main() -> int:
    if sys.argv[1:] == ["stand-in"]:
        asyncio.run(_stand_in())
        return 0
    cores = Cores.choose()
    os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, ExitStack() as stack:
        port = stack.enter_context(_upstream(cores))
        gateways = {
            name: stack.enter_context(_gateway(cores, Path(directory) / name, port, name)) for name in (RELAYED, KEPT)
        }
        films = {name: _film(target) for name, target in gateways.items()}
        _wait(lambda: _kept(Path(directory) / KEPT) == 1, "the content was not kept")
        direct = Film(port, f"/v1/videos/{FIRST_JOB}/content", {"authorization": f"Bearer {KEYS['openai']}"})
        print(f"{description()}\nload average {os.getloadavg()[0]:.1f}\n")
        _tell_first_bytes({"direct": direct, **films})
        _tell_grown(gateways, films, Path(directory) / KEPT)
    return 0


def _tell_first_bytes(films: Mapping[str, Film]) -> None:
    took_s: dict[str, list[float]] = {name: [] for name in films}
    for film in films.values():
        _first_byte_s(film)
    for _ in range(FIRST_BYTE_ROUNDS):
        for name, film in films.items():
            took_s[name].append(_first_byte_s(film))
    added = {
        name: [(one - direct) * 1000 for one, direct in zip(times, took_s["direct"], strict=True)]
        for name, times in took_s.items()
    }
    target = f"target: under {FIRST_BYTE_TARGET_MS:.0f} added"
    print(f"First byte of {FILM_BYTES / MB:.0f} MB, {FIRST_BYTE_ROUNDS} rounds, ms ({target})\n")
    print("| | median | added, median | added, 9 of 10 below |\n| --- | --- | --- | --- |")
    for name, times in took_s.items():
        worst = sorted(added[name])[int(0.9 * len(times))]
        more = "| | |" if name == "direct" else f"| {median(added[name]):.1f} | {worst:.1f} |"
        print(f"| {name} | {median(times) * 1000:.1f} {more}")


def _tell_grown(gateways: Mapping[str, Target], films: Mapping[str, Film], directory: Path) -> None:
    target_mb = f"{GROWN_TARGET_BYTES / MB:.0f}"
    print(f"\nGrowth in memory, median (and worst) of {TRANSFERS} after the first, MB")
    print(f"(target: under {target_mb} together)\n")
    print("| | | Envoy | worker | together | the first, together | MB/s |\n| --- | --- | --- | --- | --- | --- | --- |")
    for name, target in gateways.items():
        film = films[name]
        transfers: Mapping[str, tuple[int, Callable[[], None]]] = {
            "download": (FILM_BYTES, partial(_download, film)),
            "download, slow client": (FILM_BYTES, partial(_download, film, SLOW_PAUSE_S)),
            "upload": (UPLOAD_BYTES, partial(_upload, target)),
        }
        if name == KEPT:
            transfers = {"copy to the store": (FILM_BYTES, partial(_copied, target, directory)), **transfers}
        for what, (size, transfer) in transfers.items():
            first, *seen = [_grown(target, transfer) for _ in range(1 + TRANSFERS)]
            columns = [_spread([of(one) for one in seen]) for of in _COLUMNS]
            columns.append(f"{first.both_bytes / MB:.1f}")
            rate = size / MB / median(one.took_s for one in seen)
            print(f"| {name} | {what} | {' | '.join(columns)} | {rate:.0f} |")


_COLUMNS: Sequence[Callable[[Grown], int]] = (
    lambda one: one.envoy_bytes,
    lambda one: one.worker_bytes,
    lambda one: one.both_bytes,
)


def _spread(grown: Sequence[int]) -> str:
    return f"{median(grown) / MB:.1f} ({max(grown) / MB:.1f})"


def _grown(target: Target, transfer: Callable[[], None]) -> Grown:
    pids = [target.pid(name) for name in ("envoy", "worker")]
    before = [rss_bytes(pid) for pid in pids]
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # which begins the peak anew
    began_s = time.perf_counter()
    transfer()
    took_s = time.perf_counter() - began_s
    envoy, worker = (max(0, _peak_bytes(pid) - held) for pid, held in zip(pids, before, strict=True))
    return Grown(took_s, envoy, worker)


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


@contextmanager
def _asked(port: int, method: str, path: str, **sent: object) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, **sent)  # type: ignore[arg-type]
        yield connection.getresponse()
    finally:
        connection.close()


def _first_byte_s(film: Film) -> float:
    """From before the connection to the first byte of the body; the rest is left."""
    began_s = time.perf_counter()
    with _asked(film.port, "GET", film.path, headers=film.headers) as reply:
        if reply.status != http.client.OK or not reply.read(1):
            raise Failed(f"{film.path} answered {reply.status}")
        return time.perf_counter() - began_s


def _download(film: Film, pause_s: float = 0.0) -> None:
    size = 0
    with _asked(film.port, "GET", film.path, headers=film.headers) as reply:
        while data := reply.read(READ_BYTES):
            size += len(data)
            time.sleep(pause_s)
    if size != FILM_BYTES:
        raise Failed(f"{size} bytes came of {FILM_BYTES}")


def _upload(target: Target) -> None:
    picture = png(padding=UPLOAD_BYTES - len(png()))
    head = f"--{BOUNDARY}\r\ncontent-disposition: form-data; name="
    fields = "".join(f'{head}"{name}"\r\n\r\n{value}\r\n' for name, value in (("model", MODEL), ("prompt", "x")))
    opening = f'{fields}{head}"input_reference"; filename="a.png"\r\ncontent-type: image/png\r\n\r\n'
    body = opening.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = {**target.headers, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    with _asked(target.port, "POST", "/v1/videos", body=body, headers=headers) as reply:
        said = reply.read()
        if reply.status != http.client.ACCEPTED:
            raise Failed(f"an upload was answered {reply.status}: {said[:500]!r}")


def _film(target: Target) -> Film:
    """A video that is complete."""
    body = json.dumps({"model": MODEL, "prompt": "A film to be downloaded."})
    headers = {**target.headers, "content-type": "application/json"}
    with _asked(target.port, "POST", "/v1/videos", body=body, headers=headers) as reply:
        video = json.loads(reply.read())
    path = f"/v1/videos/{video['id']}"

    def is_complete() -> bool:
        with _asked(target.port, "GET", path, headers=target.headers) as reply:
            return bool(json.loads(reply.read())["status"] == "completed")

    _wait(is_complete, "the video was not made")
    return Film(target.port, f"{path}/content", target.headers)


def _copied(target: Target, directory: Path) -> None:
    """A video is made, and its content copied to where this gateway keeps it."""
    kept = _kept(directory)
    _film(target)
    _wait(lambda: _kept(directory) > kept, "the content was not kept")


def _kept(directory: Path) -> int:
    """How many videos a gateway keeps the content of."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{directory}/data/gateway.db?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM video_contents WHERE state = 'stored'").fetchone()[0])
    return 0


def _wait(is_so: Callable[[], bool], complaint: str) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > give_up_at:
            raise Failed(complaint)
        time.sleep(0.1)


@contextmanager
def _gateway(cores: Cores, directory: Path, upstream_port: int, name: str) -> Iterator[Target]:
    """One that relays content, or keeps it."""
    config = directory.with_suffix(".yaml")
    offer = {"provider": "bench", "provider_model": "film", "endpoints": ["video"]}
    model = {"id": MODEL, "input_types": ["text", "image"], "output_types": ["video"], "offers": [offer]}
    provider = {
        "id": "bench",
        "dialect": "openai",
        "base_url": f"http://127.0.0.1:{upstream_port}/v1",
        "api_key_env": "BENCH_KEY",
    }
    config.write_text(yaml.safe_dump({"replace_catalog": True, "providers": [provider], "models": [model]}))
    environ = {"AISTATS_CONFIG": str(config), "BENCH_KEY": KEYS["openai"]}
    if name == RELAYED:
        environ["AISTATS_CONTENT_STORE"] = "off"
    with gateway(cores, directory, upstream_port, environ=environ) as target:
        yield target


@contextmanager
def _upstream(cores: Cores) -> Iterator[int]:
    with running((*MODULE, "bench.content", "stand-in"), cores.load, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Failed("the stand-in did not start")
        yield int(line)


async def _stand_in() -> None:
    """A provider whose videos are complete when it is first asked, until it is ended."""
    async with VideoUpstream("openai", Plan(polls=0, media=Media(size=FILM_BYTES))) as upstream:
        print(upstream.port, flush=True)
        while True:
            await asyncio.sleep(1)
            upstream.requests.clear()  # with all of the uploads


if __name__ == "__main__":
    sys.exit(main())
