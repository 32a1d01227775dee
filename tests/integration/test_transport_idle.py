"""What the HTTP client keeps of upstreams that nobody asks any more: connections for a while, names of a few."""

from __future__ import annotations

from server.transport import Transport
from server.transport.pool import MAX_ORIGINS
from tests.fakes.garbage import garbage
from tests.fakes.openai_upstream import Hang, Upstream, chat_unary
from tests.fakes.replies import chunked, whole


async def read(transport: Transport, url: str) -> bytes:
    async with await transport.post(url, headers={}, body=b"{}", connect_timeout_s=10) as response:
        return await response.read()


async def test_connections_that_nobody_uses_any_more_are_closed() -> None:
    async with (
        Upstream(default=whole(b"{}", headers={"keep-alive": "timeout=1"})) as upstream,
        Transport() as transport,
    ):
        for _ in range(2):
            await read(transport, upstream.base_url)
        assert upstream.open_sockets == 1
        await upstream.wait_open_sockets(0, timeout=30)


async def test_a_reply_that_is_left_in_the_middle_leaves_no_garbage() -> None:
    async with Upstream(default=chunked([b"some", Hang()])) as upstream, Transport() as transport:

        async def leave() -> None:
            for _ in range(5):
                async with await transport.post(upstream.base_url, headers={}, body=b"{}", connect_timeout_s=10):
                    pass
            await upstream.wait_open_sockets(0)

        await leave()
        with garbage() as left:
            await leave()
        assert left["HttpResponseParser"] == left["Replies"] == 0, left


async def test_origins_are_bounded() -> None:
    async def anywhere(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    count = MAX_ORIGINS + 20
    once = whole(b"{}", headers={"keep-alive": "timeout=1"})
    async with Upstream(default=once) as upstream, Transport(lookup=anywhere) as transport:
        for number in range(count):
            await read(transport, f"http://host-{number}.test:{upstream.port}/v1")
        await upstream.wait_open_sockets(0, timeout=30)
        upstream.default = chat_unary()
        await read(transport, upstream.base_url)
        assert transport.known_origins <= MAX_ORIGINS + 1
