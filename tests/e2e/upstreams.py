"""The upstream stand-in on a thread of its own, so that synchronous clients can call a gateway that calls it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.fakes.film_wire import as_openai_videos
from tests.fakes.openai_upstream import Disconnect, Request, Script, Upstream, as_openai

T = TypeVar("T")


class UpstreamThread:
    """An `Upstream` that runs until `close`; `reset` before each test forgets what the one before did."""

    def __init__(self, port: int = 0, default: Script = as_openai) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.upstream = Upstream(default, port=port)
        self._run(self.upstream.__aenter__())
        self.films: Upstream | None = None

    def _run(self, work: Coroutine[Any, Any, T], timeout: float = 60.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    @property
    def base_url(self) -> str:
        return self.upstream.base_url

    @property
    def films_url(self) -> str:
        """Of a provider of videos beside it. It is asked about its jobs whatever test runs, so it is none of this."""
        if self.films is None:
            self.films = Upstream(as_openai_videos)
            self._run(self.films.__aenter__())
        return self.films.base_url

    @property
    def requests(self) -> list[Request]:
        return self.upstream.requests

    def script(self, *replies: Script) -> None:
        self.upstream.script(*replies)

    def reset(self) -> None:
        async def forget() -> None:
            self.upstream.forget()
            if self.films is not None:
                self.films.forget()

        self._run(forget())

    def wait_request(self, count: int = 1, *, timeout: float = 30.0) -> Request:
        return self._run(self.upstream.wait_request(count, timeout=timeout))

    def wait_disconnect(self, count: int = 1, *, timeout: float = 30.0) -> Disconnect:
        return self._run(self.upstream.wait_disconnect(count, timeout=timeout))

    def wait_open_sockets(self, count: int = 0, *, timeout: float = 30.0) -> None:
        self._run(self.upstream.wait_open_sockets(count, timeout=timeout))

    def close(self) -> None:
        try:
            self._run(self.upstream.stop())
            if self.films is not None:
                self._run(self.films.stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
