"""Routes that take forms: how long files are there, what is recorded and kept of them, and what the same form is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from rest_bridge.app import RestApp
from rest_bridge.http import Exchange, RestRequest, RestResponse, Route, event_stream, json_response
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Arrival, Call, Principal, Scope, TeamPolicy
from server.domain.request import Endpoint
from server.spool import Spool
from server.storage.database import Database
from tests.fakes.rest import ARRIVAL, KEY, OpenDoor, Reply, pieces_of, read
from tests.integration.databases import ManualClock
from tests.integration.idempotent import Counter

PATH = "/v1/files"
SOUND = bytes(range(256)) * 2000


def form(boundary: str = "b1", *, model: str = "a/b", sound: bytes = SOUND) -> bytes:
    head = f"--{boundary}\r\ncontent-disposition: form-data; name="
    return (
        f'{head}"model"\r\n\r\n{model}\r\n{head}"stream"\r\n\r\ntrue\r\n{head}"file"; filename="a.wav"\r\n\r\n'.encode()
        + sound
        + f"\r\n--{boundary}--\r\n".encode()
    )


class Events:
    """A `ByteStream` of what a file says, one piece after another."""

    def __init__(self, exchange: Exchange) -> None:
        assert exchange.form is not None
        self._pieces = exchange.form.files[0][1].pieces()
        self.ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        await self._pieces.aclose()


class Desk(OpenDoor):
    """A surface whose teams keep content. `held` is what was spooled when its handler was called."""

    def __init__(self, directory: Path) -> None:
        self.spool = Spool(directory)
        self.held: list[int] = []
        self.calls: list[Call] = []
        self.refused: list[tuple[Reason, str, bool]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        call = await super().authenticate(arrival, authorization, scope)
        principal = Principal("team-1", "key-1", frozenset({scope}), policy=TeamPolicy(True, 30, None))
        self.calls.append(Call(call.arrival, principal, call.progress))
        return self.calls[-1]

    async def refuse(
        self, call: Call, endpoint: Endpoint, error: GatewayError, *, model: str = "", stream: bool = False
    ) -> None:
        self.refused.append((error.reason, model, stream))

    async def whole(self, exchange: Exchange) -> RestResponse:
        assert exchange.form is not None
        self.held.append(self.spool.held_bytes)
        self.reached.set()
        await self.gate.wait()
        async with aclosing(exchange.form.files[0][1].pieces()) as pieces:
            size = sum([len(piece) async for piece in pieces])
        return json_response(b"%d" % size)

    async def streamed(self, exchange: Exchange) -> RestResponse:
        self.held.append(self.spool.held_bytes)
        return event_stream(Events(exchange))

    async def failing(self, exchange: Exchange) -> RestResponse:
        raise GatewayError(Reason.UNKNOWN_MODEL, "There is no such model.")

    def app(self, *more: Any) -> RestApp:
        audio = {"endpoint": Endpoint.AUDIO, "takes_form": True}
        routes = [
            Route("POST", PATH, self.whole, **audio),  # type: ignore[arg-type]
            Route("POST", f"{PATH}/streamed", self.streamed, **audio),  # type: ignore[arg-type]
            Route("POST", f"{PATH}/failing", self.failing, **audio),  # type: ignore[arg-type]
            Route("POST", f"{PATH}/json", self.failing),
        ]
        return RestApp(*(more or (self, routes, self.refuse, None, self.spool)))

    @property
    def routes(self) -> list[Route]:
        return [Route("POST", PATH, self.whole, takes_form=True)]


def request(body: bytes, *, path: str = PATH, boundary: str = "b1", **headers: str) -> RestRequest:
    sent = {"authorization": KEY, "content-type": f"multipart/form-data; boundary={boundary}", **headers}
    return RestRequest("POST", path, sent, pieces_of(body, 10_000), ARRIVAL)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_files_are_there_until_a_whole_answer_is(desk: Desk) -> None:
    reply = await read(await desk.app()(request(form())))
    assert (reply.status, reply.body) == (200, b"%d" % len(SOUND))
    assert (desk.held, desk.spool.held_bytes) == ([len(SOUND)], 0)


async def test_files_are_there_until_a_streamed_answer_is_over(desk: Desk) -> None:
    response = await desk.app()(request(form(), path=f"{PATH}/streamed"))
    assert not isinstance(response.body, bytes)
    assert desk.spool.held_bytes == len(SOUND)
    async with aclosing(response.body) as pieces:
        assert b"".join([piece async for piece in pieces]) == SOUND
    assert desk.spool.held_bytes == 0


async def test_a_reader_that_leaves_lets_go(desk: Desk) -> None:
    response = await desk.app()(request(form(), path=f"{PATH}/streamed"))
    assert not isinstance(response.body, bytes)
    await response.body.aclose()
    assert desk.spool.held_bytes == 0


async def test_a_call_that_is_cancelled_lets_go(desk: Desk) -> None:
    desk.gate.clear()
    asking = asyncio.create_task(desk.app()(request(form())))
    await desk.reached.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert desk.spool.held_bytes == 0


async def test_nothing_of_a_form_is_kept_as_content(desk: Desk) -> None:
    await read(await desk.app()(request(form())))
    assert (desk.calls[-1].progress.path, desk.calls[-1].progress.body) == ("", None)


async def test_a_refusal_is_recorded_with_what_the_form_asked_for(desk: Desk) -> None:
    reply = await read(await desk.app()(request(form(), path=f"{PATH}/failing")))
    assert reply.status == 404
    assert set(desk.refused) == {(Reason.UNKNOWN_MODEL, "a/b", True)}
    assert desk.spool.held_bytes == 0


async def test_a_form_that_is_cut_is_recorded_and_reaches_nobody(desk: Desk) -> None:
    reply = await read(await desk.app()(request(form()[:-10])))
    assert (reply.status, reply.json["param"]) == (400, "file")
    assert desk.refused == [(Reason.MALFORMED_REQUEST, "", False)]
    assert (desk.held, desk.spool.held_bytes) == ([], 0)


@pytest.mark.parametrize(
    "declared", ["text/plain", "application/x-www-form-urlencoded", "multipart/mixed; boundary=b1"]
)
async def test_what_is_neither_form_nor_json_is_refused(desk: Desk, declared: str) -> None:
    reply = await read(await desk.app()(request(form(), **{"content-type": declared})))
    assert (reply.status, reply.json["param"]) == (400, "content-type")


async def test_a_coded_form_is_not_decoded(desk: Desk) -> None:
    reply = await read(await desk.app()(request(form(), **{"content-encoding": "gzip"})))
    assert (reply.status, reply.json["param"]) == (400, "content-encoding")


async def test_other_routes_do_not_read_forms(desk: Desk) -> None:
    reply = await read(await desk.app()(request(form(), path=f"{PATH}/json")))
    assert reply.status == 404
    assert desk.spool.held_bytes == 0


# With an idempotency key, on a real database.


@pytest.fixture
async def counter(database: Database, clock: ManualClock) -> AsyncGenerator[Counter, None]:
    async with AsyncExitStack() as stack:
        opened = Counter(database, clock, stack)
        await opened.open()
        yield opened


async def keyed(app: RestApp, counter: Counter, body: bytes, boundary: str = "b1", key: str = "key-1") -> Reply:
    arrival = counter.arrive()
    headers = {
        "authorization": counter.team_id,
        "content-type": f"multipart/form-data; boundary={boundary}",
        "idempotency-key": key,
    }
    return await read(await app(RestRequest("POST", PATH, headers, pieces_of(body), arrival)))


async def test_the_same_form_is_told_again_whatever_its_boundary_is(counter: Counter, desk: Desk) -> None:
    worker = await counter.worker()
    app = desk.app(counter, desk.routes, None, worker.runner, desk.spool)
    first = await keyed(app, counter, form())
    again = await keyed(app, counter, form("another"), "another")
    assert (first.status, first.body, again.body) == (200, b"%d" % len(SOUND), first.body)
    assert again.headers["idempotent-replayed"] == "true"
    other = await keyed(app, counter, form(sound=SOUND[:-1] + b"x"))
    assert (other.status, other.json["reason"]) == (409, "idempotency_key_reused")
    wrong = await keyed(app, counter, form(), key="no key")
    assert wrong.status == 400
    assert (len(desk.held), desk.spool.held_bytes) == (1, 0)


async def test_a_duplicate_waits_without_its_files(counter: Counter, desk: Desk) -> None:
    worker = await counter.worker()
    app = desk.app(counter, desk.routes, None, worker.runner, desk.spool)
    desk.gate.clear()
    first = asyncio.create_task(keyed(app, counter, form()))
    await desk.reached.wait()
    second = asyncio.create_task(keyed(app, counter, form("b2"), "b2"))
    async with asyncio.timeout(30):
        while desk.spool.held_bytes != len(SOUND):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    desk.gate.set()
    assert (await first).body == (await second).body
    assert (len(desk.held), desk.spool.held_bytes) == (1, 0)


async def test_who_has_left_still_has_its_files_read(counter: Counter, desk: Desk) -> None:
    worker = await counter.worker()
    app = desk.app(counter, desk.routes, None, worker.runner, desk.spool)
    desk.gate.clear()
    first = asyncio.create_task(keyed(app, counter, form()))
    await desk.reached.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert desk.spool.held_bytes == len(SOUND)
    desk.gate.set()
    again = await keyed(app, counter, form())
    assert again.body == b"%d" % len(SOUND)
    assert (len(desk.held), desk.spool.held_bytes) == (1, 0)
