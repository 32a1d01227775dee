"""Where the HTTP client connects to: what a name resolves to is checked, and what is checked is what is called."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme
import uvloop

from server.clock import SystemClock, UuidV7
from server.doctor import reach
from server.domain.catalog import Offer, Provider, Routing
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.request import Endpoint, GenerationRequest, Role, Text, Turn
from server.providers.anthropic import AnthropicAdapter
from server.providers.exchange import Deadlines
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter
from server.transport import Transport
from server.transport.faults import Fault, failure
from tests.fakes.openai_upstream import Upstream

BLOCKED = ["169.254.169.254", "0.0.0.0", "::", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "fe80::1", "fd00:ec2::254"]
NOBODY = "fe80::1%lo"
"""Link-local, of a link that ends in this machine."""


class Names:
    """The system's resolver: `answers`, one after another and the last for ever, for names that are not addresses."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, *args: Any, **named: Any) -> list[Any]:
        self.asked.append(host)
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as running:
        yield running


async def call(transport: Transport, url: str, *, allow_link_local: bool = False) -> int:
    response = await transport.post(
        f"{url}/chat/completions",
        headers={"authorization": "Bearer sk-canary"},
        body=b"{}",
        connect_timeout_s=20,
        allow_link_local=allow_link_local,
    )
    async with response:
        await response.read()
    return response.status


async def refused(transport: Transport, url: str, **named: bool) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await call(transport, url, **named)
    assert caught.value.upstream == failure(Fault.FORBIDDEN).upstream
    assert caught.value.category is FailureCategory.CONNECTION
    assert not caught.value.is_final


@pytest.mark.parametrize("address", BLOCKED)
async def test_a_name_that_leads_to_a_blocked_address_is_not_called(
    names: Names, transport: Transport, upstream: Upstream, address: str
) -> None:
    names.answers = [[address]]
    await refused(transport, f"http://upstream.example:{upstream.port}/v1")
    assert upstream.connections_accepted == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "0", "0x0", "[::ffff:0.0.0.0]", "169.254.169.254", "2852039166"])
async def test_an_address_that_the_configuration_let_through_is_not_called_either(
    transport: Transport, upstream: Upstream, host: str
) -> None:
    await refused(transport, f"http://{host}:{upstream.port}/v1")
    assert upstream.connections_accepted == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.7", "192.168.1.1", "::ffff:127.0.0.1", "fd00::1"])
async def test_a_name_that_leads_near_by_is_not_called_where_nothing_near_is_meant(
    names: Names, transport: Transport, upstream: Upstream, address: str
) -> None:
    names.answers = [[address]]
    url = f"http://upstream.example:{upstream.port}/v1"
    with pytest.raises(ProviderFailure) as caught:
        await transport.request("GET", url, headers={}, connect_timeout_s=20, allow_near=False)
    assert caught.value.upstream == failure(Fault.FORBIDDEN).upstream
    assert not caught.value.was_sent
    assert upstream.connections_accepted == 0


@pytest.mark.parametrize("address", ["0.0.0.0", "::ffff:169.254.169.254"])
async def test_a_name_that_changes_its_address_later_is_not_followed(
    names: Names, transport: Transport, upstream: Upstream, address: str
) -> None:
    names.answers = [["127.0.0.1"], [address]]
    url = f"http://rebinding.example:{upstream.port}/v1"
    assert await call(transport, url) == 200
    assert await call(transport, url) == 200  # on the connection that was made to what was checked
    assert len(names.asked) == 1
    async with Transport() as another:
        await refused(another, url)
    assert upstream.connections_accepted == 1


async def test_a_name_is_looked_up_once_and_what_was_checked_is_called(
    names: Names, transport: Transport, upstream: Upstream
) -> None:
    names.answers = [["127.0.0.1"], ["192.0.2.1"]]
    assert await call(transport, f"http://once.example:{upstream.port}/v1") == 200
    assert names.asked == ["once.example"]


async def test_of_several_addresses_the_blocked_ones_are_left_out(
    names: Names, transport: Transport, upstream: Upstream
) -> None:
    names.answers = [["0.0.0.0", "::ffff:169.254.169.254", "127.0.0.1"]]
    assert await call(transport, f"http://mixed.example:{upstream.port}/v1") == 200
    assert upstream.requests[0].headers[0] == ("host", f"mixed.example:{upstream.port}")


async def test_the_next_address_is_tried_where_one_refuses(
    names: Names, transport: Transport, upstream: Upstream
) -> None:
    names.answers = [["::1", "127.0.0.2", "127.0.0.1"]]
    assert await call(transport, f"http://many.example:{upstream.port}/v1") == 200


async def test_link_local_is_called_where_that_is_allowed_and_nowhere_never(names: Names, transport: Transport) -> None:
    names.answers = [[NOBODY]]
    with pytest.raises(ProviderFailure) as caught:
        await call(transport, "http://link.example:9/v1", allow_link_local=True)
    assert caught.value.upstream != failure(Fault.FORBIDDEN).upstream
    await refused(transport, "http://link.example:9/v1")
    names.answers = [["0.0.0.0"]]
    await refused(transport, "http://link.example:9/v1", allow_link_local=True)


@pytest.mark.parametrize("make", [OpenAIAdapter, AnthropicAdapter, GeminiAdapter])
@pytest.mark.parametrize("allowed", [True, False])
async def test_every_adapter_says_what_is_allowed(names: Names, transport: Transport, make: Any, allowed: bool) -> None:
    names.answers = [[NOBODY]]
    adapter = make(transport, SystemClock(), UuidV7(), Deadlines(routing=lambda: Routing(connect_timeout_s=0.2)))
    provider = Provider("acme", "openai", "http://link.example:9/v1", allow_link_local=allowed)
    offer = Offer(provider, "test-1", frozenset(Endpoint))
    request = GenerationRequest(endpoint=Endpoint.CHAT, model="acme/test-1", turns=(Turn(Role.USER, (Text("Hi"),)),))
    with pytest.raises(ProviderFailure) as caught:
        async for _ in adapter.stream(offer, request):
            pass
    assert (caught.value.upstream == failure(Fault.FORBIDDEN).upstream) is not allowed


def test_on_uvloop_the_same_is_not_called() -> None:
    async def scene() -> None:
        async with Upstream() as upstream, Transport() as transport:
            await refused(transport, f"http://0.0.0.0:{upstream.port}/v1")
            await refused(transport, f"http://0:{upstream.port}/v1")
            assert upstream.connections_accepted == 0
            assert await call(transport, f"http://localhost:{upstream.port}/v1") == 200

    uvloop.run(scene())


async def test_a_redirect_there_is_not_followed(transport: Transport) -> None:
    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as server:
        assert await call(transport, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") == 302


async def test_the_doctor_reaches_for_nothing_that_is_never_called(names: Names) -> None:
    names.answers = [["0.0.0.0"]]
    async with Upstream() as upstream:
        found = await reach(Provider("acme", "openai", f"http://upstream.example:{upstream.port}/v1", "sk-1"))
        assert (found.level, upstream.connections_accepted) == ("fail", 0)
    assert found.text.endswith("leads to an address that is never called")


@pytest.mark.parametrize(("certified", "trusted"), [("upstream.example", True), ("127.0.0.1", False)])
async def test_tls_is_verified_for_the_name_and_not_for_the_address(
    names: Names, certified: str, trusted: bool
) -> None:
    names.answers = [["127.0.0.1"]]
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(ours)
    authority.issue_cert(certified).configure_cert(theirs)
    asked: list[str | None] = []
    theirs.sni_callback = lambda _, name, __: asked.append(name)
    async with Upstream(tls=theirs) as upstream, Transport(tls=ours) as transport:
        url = f"https://upstream.example:{upstream.port}/v1"
        if trusted:
            assert await call(transport, url) == 200
        else:
            with pytest.raises(ProviderFailure) as caught:
                await call(transport, url)
            assert caught.value.upstream == failure(Fault.TLS).upstream
            assert upstream.requests == []
    assert asked == ["upstream.example"]
