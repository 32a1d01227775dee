"""Bodies that are sent in pieces: no faster than they are taken, no further than they are wanted, whole once more."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy

import pytest
import trustme
import uvloop

from server.domain.errors import ProviderFailure
from server.providers.multipart import multipart
from server.transport import Transport, connection
from server.transport.connection import STALE_AFTER_S, UNSENT_BYTES
from server.transport.faults import Fault, failure
from tests.fakes.uploads import PIECE_BYTES, BytesUpload

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REFUSAL = b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge"
LARGE = 25 * 1024 * 1024
KERNEL_BYTES = 16 * 1024 * 1024
"""More than two sockets' buffers take here."""


@asynccontextmanager
async def upstream(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str, None]:
    handling: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.add(task)
        try:
            await serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    try:
        yield f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in handling:
            task.cancel()
        await asyncio.gather(*handling, return_exceptions=True)
        await asyncio.sleep(0)  # the loop closes aborted sockets in its next turn


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def body_of(reader: asyncio.StreamReader) -> bytes:
    head = await head_of(reader)
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
    return await reader.readexactly(int(length.partition(b": ")[2]))


class Counted(BytesUpload):
    """Counts what has been asked of it."""

    given = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        async for piece in super().pieces():
            self.given += len(piece)
            yield piece


async def arrives_whole(tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None) -> None:
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            bodies.append(await body_of(reader))
            writer.write(OK)

    upload = BytesUpload(bytes(range(256)) * 4096 * 3 + b"end")
    server_tls, client_tls = tls or (None, None)
    async with upstream(serve, server_tls) as url, Transport(tls=client_tls) as transport:
        for _ in range(2):
            async with await transport.post(url, headers={}, body=upload, connect_timeout_s=10) as response:
                assert await response.read() == b"{}"
    assert bodies == [upload.data, upload.data]
    assert upload.readings == 2


async def is_held_back() -> None:
    go, connected = asyncio.Event(), asyncio.Event()
    upload = Counted(bytes(LARGE))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        connected.set()
        await go.wait()
        await reader.readexactly(LARGE)
        writer.write(OK)

    async with upstream(serve) as url, Transport() as transport:
        sending = asyncio.create_task(transport.post(url, headers={}, body=upload, connect_timeout_s=10))
        await connected.wait()
        before = -1
        while upload.given != before:
            before = upload.given
            await asyncio.sleep(0.2)
        assert upload.given < KERNEL_BYTES + UNSENT_BYTES + PIECE_BYTES
        go.set()
        async with await sending as response:
            assert response.status == 200


async def is_refused_early() -> None:
    """The refusal is the reply, the rest is not sent, and the connection is not used again."""
    connections = 0
    upload = Counted(bytes(LARGE))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await head_of(reader)
        writer.write(REFUSAL)
        await reader.read(1)
        await asyncio.Event().wait()

    async with upstream(serve) as url, Transport() as transport:
        for count in (1, 2):
            async with await transport.post(url, headers={}, body=upload, connect_timeout_s=10) as response:
                assert (response.status, await response.read()) == (413, b"large")
            assert connections == count
    assert upload.given < 2 * LARGE


async def is_refused_and_closed() -> None:
    """Closing with a body unread resets the connection; the refusal is read all the same."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(REFUSAL)
        await writer.drain()

    upload = BytesUpload(bytes(LARGE))
    async with (
        upstream(serve) as url,
        Transport() as transport,
        await transport.post(url, headers={}, body=upload, connect_timeout_s=10) as reply,
    ):
        assert reply.status == 413


async def is_dropped() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        await reader.readexactly(100_000)

    async with upstream(serve) as url, Transport() as transport:
        with pytest.raises(ProviderFailure) as caught:
            await transport.post(url, headers={}, body=BytesUpload(bytes(LARGE)), connect_timeout_s=10)
    assert caught.value.upstream == failure(Fault.DROPPED).upstream


async def begins_its_answer_early() -> None:
    """An answer that is no refusal does not end what is being sent."""
    read: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{")
        read.append(len(await reader.readexactly(LARGE)))
        writer.write(b"}")

    upload = BytesUpload(bytes(LARGE))
    async with (
        upstream(serve) as url,
        Transport() as transport,
        await transport.post(url, headers={}, body=upload, connect_timeout_s=10) as reply,
    ):
        assert await reply.read() == b"{}"
    assert read == [LARGE]


async def is_read_again() -> None:
    """A body that met a closing connection unread goes whole to a new one."""
    upload = BytesUpload(bytes(range(256)) * 1024)
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not bodies:
            bodies.append(await body_of(reader))
            writer.write(OK)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await second.wait()
            writer.transport.abort()
            return
        bodies.append(await body_of(reader))
        writer.write(OK)

    second = asyncio.Event()

    class Telling(BytesUpload):
        async def pieces(self) -> AsyncGenerator[bytes, None]:
            second.set()
            async for piece in super().pieces():
                await asyncio.sleep(0.01)
                yield piece

    telling = Telling(upload.data)
    async with upstream(serve) as url, Transport() as transport:
        async with await transport.post(url, headers={}, body=b"{}", connect_timeout_s=10) as response:
            await response.read()
        await asyncio.sleep(STALE_AFTER_S)
        async with await transport.post(url, headers={}, body=telling, connect_timeout_s=10) as response:
            assert await response.read() == b"{}"
    assert bodies == [b"{}", upload.data]
    assert telling.readings == 2


SCENARIOS: dict[str, Callable[[], Awaitable[None]]] = {
    "whole": arrives_whole,
    "held back": is_held_back,
    "refused early": is_refused_early,
    "refused and closed": is_refused_and_closed,
    "dropped": is_dropped,
    "answered early": begins_its_answer_early,
    "read again": is_read_again,
}


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_body_in_pieces(monkeypatch: pytest.MonkeyPatch, name: str, run: Callable[[Awaitable[None]], None]) -> None:
    monkeypatch.setattr(connection, "LOST_AT_ONCE_S", 60.0)

    async def within() -> None:
        async with asyncio.timeout(60):
            await SCENARIOS[name]()

    run(within())


def test_over_tls() -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    uvloop.run(arrives_whole((server, client)))


async def test_a_body_that_is_not_as_long_as_it_says_is_a_bug() -> None:
    class Short(BytesUpload):
        @property
        def size(self) -> int:
            return len(self.data) + 1

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await body_of(reader)

    async with upstream(serve) as url, Transport() as transport:
        with pytest.raises(ValueError, match="as long as it says"):
            await transport.post(url, headers={}, body=Short(b"abc"), connect_timeout_s=10)


@pytest.mark.parametrize(("method", "has_length"), [("GET", False), ("DELETE", False), ("POST", True)])
async def test_a_request_without_a_body(method: str, has_length: bool) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await head_of(reader))
        writer.write(OK)

    async with (
        upstream(serve) as url,
        Transport() as transport,
        await transport.request(method, url, headers={}, connect_timeout_s=10) as response,
    ):
        assert await response.read() == b"{}"
    assert heads[0].startswith(method.encode())
    assert (b"content-length: 0" in heads[0]) is has_length


async def test_a_form_reads_as_it_was_meant() -> None:
    sound = BytesUpload(b"RIFF\r\n--" * 20_000, filename='a "b"\r\nc.wav', media_type="audio/wav")
    plain = BytesUpload(b"x", media_type="text/plain\r\nx-evil: 1")
    content_type, body = multipart([("model", "m"), ("prompt", "ä\r\nb")], [("file", sound), ("image[]", plain)])
    sent = b"".join([piece async for piece in body.pieces()])
    assert len(sent) == body.size
    form = message_from_bytes(f"content-type: {content_type}\r\n\r\n".encode() + sent, policy=policy.HTTP)
    parts = list(form.iter_parts())
    said = [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_content_type() if part.get_filename() else None,
            part.get_payload(decode=True),
        )
        for part in parts
    ]
    assert said == [
        ("model", None, None, b"m"),
        ("prompt", None, None, "ä\r\nb".encode()),
        ("file", "a %22b%22%0D%0Ac.wav", "audio/wav", sound.data),
        ("image[]", "file", "application/octet-stream", b"x"),
    ]
