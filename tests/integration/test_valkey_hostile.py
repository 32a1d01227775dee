"""A Valkey that holds what nobody of ours wrote, or that is none: a worker keeps its own view, and its limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from server.domain.errors import GatewayError
from server.pipeline.health import share
from server.storage.database import Database
from server.storage.valkey_client import Garbled, Refused, ValkeyConnection
from server.storage.valkey_health import MAX_PAUSE_S, MAX_REPORT_BYTES, try_valkey
from server.storage.valkey_url import parse_valkey_url
from tests.fakes.health import fail, succeed
from tests.integration.databases import ManualClock
from tests.integration.test_health_sharing import ROUTE
from tests.integration.test_valkey_sharing import PASSWORD, Worker, about_valkey, ask, gateway, hire, index
from tests.integration.valkey import ValkeyServer

__all__ = ["gateway", "hire", "index"]

SUMS = [1.0] * 9


def report(clock: ManualClock, **changes: Any) -> bytes:
    """A report that ROUTE's breaker is open, as a worker would write it but for the changes."""
    now = clock.now()
    fields = {"at": now, "provider": ROUTE.provider, "model": ROUTE.model, "endpoint": ROUTE.endpoint.value}
    fields |= {"reading": [[SUMS] * 3, [1.0] * 40], "changed_at": now, "opened_at": now, "retry_at": now + 60}
    fields |= {"reason": "error_rate", "used": 0.5, "used_told_at": now, "used_until": now + 60, **changes}
    at, *route = fields.values()
    return json.dumps([at, [route]]).encode()


async def plant(server: ValkeyServer, index: str, clock: ManualClock, name: bytes, text: bytes) -> None:
    await ask(server, "SET", index.encode() + b":" + name, text)
    await ask(server, "ZADD", index, (int(clock.now()) << 20) + 7, name)


async def test_the_reports_of_this_test_are_taken_in_where_nothing_is_wrong_with_them(
    valkey: ValkeyServer, hire: Any, index: str, clock: ManualClock
) -> None:
    one = hire("one")
    await plant(valkey, index, clock, b"another", report(clock))
    assert await one.share()
    assert one.breaker == "open"
    assert one.attempts() == pytest.approx(3.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"changed_at": 1e300},
        {"changed_at": -1.0},
        {"opened_at": 1e300},
        {"retry_at": 1e300},
        {"reason": "Click http://evil.example"},
        {"reason": "x" * 100_000},
        {"used": -1.0},
        {"used": 2.0},
        {"used_told_at": 1e300},
        {"used_until": 1e300},
        {"reading": [[[-1.0] * 9] * 3, []]},
        {"reading": [[[1e300] * 9] * 3, []]},
        {"reading": [[SUMS] * 3, [1.0] * 41]},
        {"reading": [[SUMS] * 3, [-1.0]]},
        {"reading": [[SUMS] * 2, []]},
        {"reading": [[["many"] * 9] * 3, []]},
        {"provider": "unheard-of"},
        {"endpoint": "unheard-of"},
        {"model": None},
    ],
    ids=str,
)
async def test_what_no_worker_would_report_is_left_aside(
    valkey: ValkeyServer, hire: Any, index: str, clock: ManualClock, changes: dict[str, Any]
) -> None:
    one = hire("one")
    await plant(valkey, index, clock, b"another", report(clock, **changes))
    with capture_logs() as logs:
        assert await one.share()
        assert await one.share()
    assert (one.breaker, one.attempts(), logs) == ("closed", 0.0, [])


async def test_garbage_under_the_keys_hides_no_real_report(
    valkey: ValkeyServer, hire: Any, index: str, clock: ManualClock
) -> None:
    one, other = hire("one"), hire("other")
    for text in (b"", b"\xff\xfe\x00", b"null", b"[" * 100_000, b"[1e999,[]]", b"x" * (MAX_REPORT_BYTES + 1)):
        await plant(valkey, index, clock, b"odd-%d" % len(text), text)
    await ask(valkey, "LPUSH", f"{index}:a-list", "x")
    await ask(valkey, "ZADD", index, (int(clock.now()) << 20) + 7, "a-list", "inf", "for-ever", "-inf", "never")
    await ask(valkey, "ZADD", index, (int(clock.now()) << 20) + 7, b"\xff\r\n*1", f"{int(clock.now()) << 20}.5", "half")
    (route,) = json.loads(report(clock))[1]
    await plant(valkey, index, clock, b"many", json.dumps([clock.now(), [route] * (share.MAX_ROUTES + 1)]).encode())
    fail(one.health, 5, ROUTE)
    with capture_logs() as logs:
        assert await one.share()
        assert await other.share()
        assert await other.share()
    assert other.breaker == "open"
    assert about_valkey(logs) == []


async def test_names_and_figures_of_workers_without_number_are_forgotten(
    hire: Any, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "MAX_TOLD", 3)
    monkeypatch.setattr(share, "MAX_KNOWN", 5)
    workers = [hire(f"w{number}") for number in range(8)]
    for worker in workers:
        succeed(worker.health, 1, ROUTE)
        clock.advance(1.0)
        await worker.share()
    reader = hire("reader")
    await reader.share()
    assert reader.attempts() == pytest.approx(3.0, rel=0.2)
    assert len(reader.sharing._known) == 5


async def test_somebody_elses_key_in_the_place_of_ours_is_one_line(
    valkey: ValkeyServer, hire: Any, index: str, clock: ManualClock
) -> None:
    await ask(valkey, "SET", index, "somebody else's")
    one = hire("one")
    with capture_logs() as logs:
        for _ in range(5):
            assert not await one.share()
            clock.advance(10.0)
    (line,) = logs
    assert (line["trouble"], line["cause"].partition(" ")[0]) == ("refused", "WRONGTYPE")


@asynccontextmanager
async def saying(*chunks: bytes, for_ever: bool = False) -> AsyncIterator[str]:
    """The URL of a server that says this to whoever asks anything."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(65536)
            writer.writelines(chunks)
            while for_ever:
                writer.writelines(chunks[-1:] * 100)
                await writer.drain()
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"valkey://127.0.0.1:{server.sockets[0].getsockname()[1]}"


HOSTILE: dict[str, tuple[tuple[bytes, ...], str]] = {
    "a web server": ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "a reply"),
    "an endless line": ((b"+" + b"x" * 1000, b"x" * 1000), "a line that is too long"),
    "an endless string": ((b"*1\r\n$1900000000\r\n", b"x" * 1000), "a reply that is too long"),
    "an endless list": ((b"*1900000000\r\n", b":1\r\n"), "a reply with too many elements"),
    "lists in lists": ((b"*1\r\n" * 100, b"*1\r\n"), "a reply of no known kind"),
    "no number": ((b"*" + b"9" * 5000 + b"\r\n",), "a reply without its length"),
    "half a reply": ((b"*2\r\n:1\r\n",), "it closed the connection"),
    "nothing": ((b"",), "it closed the connection"),
    "an error that commands the terminal": ((b"-ERR \x1b[2J\x07no\r\n",), "ERR [2Jno"),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_server_that_is_no_valkey_is_left_at_once(kind: str, gateway: Database, clock: ManualClock) -> None:
    chunks, cause = HOSTILE[kind]
    async with saying(*chunks, for_ever="endless" in kind) as url:
        one = Worker("one", url, gateway, clock)
        fail(one.health, 5, ROUTE)
        with capture_logs() as logs:
            for _ in range(3):
                assert not await one.share()
    (line,) = logs
    assert line["event"] == "valkey_unavailable"
    assert line["cause"].startswith(cause)
    assert one.breaker == "open"


async def test_one_that_only_sometimes_answers_is_one_line_until_all_has_been_read(
    gateway: Database, clock: ManualClock
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await reader.read(65536):
            if b"ZREVRANGEBYSCORE" in command:
                writer.write(b"*2\r\n$1\r\na\r\n$%d\r\n%d\r\n" % (16, int(clock.now()) << 20))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"valkey://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        one = Worker("one", url, gateway, clock)
        with capture_logs() as logs:
            for _ in range(2):
                with pytest.raises(GatewayError):
                    await one.exchange.others({})
                clock.advance(MAX_PAUSE_S)
    assert [(log["event"], log["cause"]) for log in logs] == [("valkey_unavailable", "no answer within 1 s")]


async def test_what_a_server_says_of_a_password_is_not_repeated(gateway: Database, clock: ManualClock) -> None:
    said = f"-ERR unknown command 'AUTH', with args beginning with: '{PASSWORD}'\r\n".encode()
    async with saying(said) as url:
        one = Worker("one", url.replace("://", f"://:{PASSWORD}@"), gateway, clock)
        with capture_logs() as logs:
            assert not await one.share()
    assert PASSWORD not in str(logs)
    assert [log["cause"] for log in logs] == ["ERR"]


async def test_replies_are_read_one_by_one(valkey: ValkeyServer) -> None:
    connection = await ValkeyConnection.open(parse_valkey_url(valkey.unix_url))
    try:
        reads = ("GET", "a"), ("GET", "b"), ("ZCARD", "c"), ("MGET", "a", "b"), ("LPOP", "a")
        *replies, refused = await connection.ask(("SET", "a", b"\x00\r\n"), *reads, largest=3)
        assert isinstance(refused, Refused)
        assert refused.code == "WRONGTYPE"
        assert replies == [b"OK", b"\x00\r\n", None, 0, [b"\x00\r\n", None]]
        with pytest.raises(Garbled):
            await connection.ask(["GET", "a"], largest=2)
    finally:
        connection.close()


async def test_over_tls_the_servers_certificate_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    (tmp_path / "key.pem").write_bytes(certificate.private_key_pem.bytes())
    (tmp_path / "cert.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
    for name, one in (("ours.pem", authority), ("strange.pem", stranger)):
        one.cert_pem.write_to_path(str(tmp_path / name))
    files = ("--tls-cert-file", f"{tmp_path}/cert.pem", "--tls-key-file", f"{tmp_path}/key.pem")
    server = ValkeyServer("--tls-auth-clients", "no", "--tls-ca-cert-file", f"{tmp_path}/ours.pem", *files, tls=True)
    try:
        server.start()
        address = parse_valkey_url(f"rediss://127.0.0.1:{server.tls_port}")
        monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/ours.pem")
        assert await try_valkey(address) == ""
        monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/strange.pem")
        assert "certificate verify failed" in await try_valkey(address)
        assert await try_valkey(parse_valkey_url(f"rediss://127.0.0.1:{server.port}")) != "", "a port without TLS"
    finally:
        server.remove()
