"""Clients that ask one thing after another, whole and streamed, on all three surfaces, and note what became of each."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import httpx

from tests.e2e.gateway import Gateway

TIMEOUT_S: Final = 60.0
HELLO: Final = [{"role": "user", "content": "hi"}]
SURFACES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": ("/v1/chat/completions", {"messages": HELLO}),
    "responses": ("/v1/responses", {"input": "hi", "store": False}),
    "messages": ("/v1/messages", {"messages": HELLO, "max_tokens": 64}),
}
ENDS: Final = {"chat": b"data: [DONE]", "responses": b"event: response.completed", "messages": b"event: message_stop"}
TEXTS: Final = {
    "chat": b'"content":"',
    "responses": b"event: response.output_text.delta",
    "messages": b"event: content_block_delta",
}


@dataclass(frozen=True)
class Asked:
    """What became of one request. `shown`: some of the text had arrived. Times are `time.monotonic()` seconds."""

    surface: str
    streamed: bool
    began_s: float
    ended_s: float
    is_ok: bool
    shown: bool
    told: str


class Load:
    """`clients` of them, each with a pause of `pause_s` after each answer, from `with` until its end."""

    def __init__(
        self, gateway: Gateway, model: str, *, clients: int = 16, pause_s: float = 0.05, streams_only: bool = False
    ) -> None:
        self.asked: list[Asked] = []
        self._gateway = gateway
        self._model = model
        self._clients = clients
        self.pause_s = pause_s
        self._streams_only = streams_only
        self._headers = gateway.headers
        self._is_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    @property
    def failed(self) -> list[Asked]:
        """Those that a client has reason to complain of: but for streams that broke after they had shown something."""
        return [one for one in self.asked if not one.is_ok and not (one.streamed and one.shown)]

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:
            self._error = error

    async def _all(self) -> None:
        limits = httpx.Limits(max_connections=self._clients)
        async with (
            httpx.AsyncClient(
                base_url=self._gateway.url, headers=self._headers, timeout=TIMEOUT_S, limits=limits
            ) as http,
            asyncio.TaskGroup() as clients,
        ):
            for number in range(self._clients):
                surface = list(SURFACES)[number % len(SURFACES)]
                streamed = self._streams_only or number // len(SURFACES) % 2 == 0
                clients.create_task(self._client(http, surface, streamed))

    async def _client(self, http: httpx.AsyncClient, surface: str, streamed: bool) -> None:
        while not self._is_over:
            began_s = time.monotonic()
            is_ok, shown, told = await self._ask(http, surface, streamed)
            self.asked.append(Asked(surface, streamed, began_s, time.monotonic(), is_ok, shown, told))
            await asyncio.sleep(self.pause_s)

    async def _ask(self, http: httpx.AsyncClient, surface: str, streamed: bool) -> tuple[bool, bool, str]:
        path, body = SURFACES[surface]
        received = bytearray()
        status = 0
        try:
            async with http.stream("POST", path, json={"model": self._model, "stream": streamed, **body}) as reply:
                status = reply.status_code
                async for piece in reply.aiter_raw():
                    received += piece
        except httpx.HTTPError as error:
            return False, TEXTS[surface] in received, repr(error)
        if not streamed:
            is_ok = status == httpx.codes.OK and "Hello there!" in json.dumps(json.loads(received))
            return is_ok, False, "" if is_ok else f"{status} {received.decode()}"
        is_ok = status == httpx.codes.OK and ENDS[surface] in received
        return is_ok, TEXTS[surface] in received, "" if is_ok else f"{status} {received[-2000:].decode()}"
