"""The HTTP server: routes, and what is the same for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from aiohttp import web

from server.domain.ports import Clock, IdSource
from server.local_media.images import Images
from server.local_media.jobs import Jobs
from server.local_media.refusal import Refused
from server.local_media.speech import Speech
from server.local_media.spool import Spool
from server.local_media.transcriptions import Transcriptions
from server.local_media.videos import Videos
from server.local_media.workers import Workers

__all__ = ["application", "serve"]

_KEPT_ALIVE_S: Final = 30.0
_END_S: Final = 2.0
"""For requests in flight when it is told to stop; by then nobody is left whom they are for."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(directory: Path, clock: Clock, ids: IdSource) -> web.Application:
    """All routes. Videos are kept below `directory`; what is sent is there while it is worked on."""
    workers, spool = Workers(), Spool(directory / "spool")
    jobs = Jobs(directory / "videos", clock, ids)
    app = web.Application(middlewares=[_errors])
    app.add_routes([web.get("/health", _health)])
    for room in (Images(workers, spool, clock), Speech(workers), Transcriptions(workers, spool), Videos(jobs, spool)):
        app.add_routes(room.routes())

    async def making(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(jobs.run())
        task.add_done_callback(_fail_loudly)
        yield
        task.remove_done_callback(_fail_loudly)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    app.cleanup_ctx.append(making)
    return app


async def serve(listening: socket.socket, directory: Path, clock: Clock, ids: IdSource) -> None:
    """Answer until cancelled."""
    app = application(directory, clock, ids)
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, keepalive_timeout=_KEPT_ALIVE_S, shutdown_timeout=_END_S
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every error in OpenAI's shape. One that comes when the answer has begun cuts it off."""
    try:
        if "origin" in request.headers or not request.host.startswith("127.0.0.1:"):
            raise Refused(HTTPStatus.FORBIDDEN, "forbidden", "No page that a browser has open may ask here.")
        return await handler(request)
    except Refused as refused:
        told = refused
    except web.HTTPNotFound:
        told = Refused(HTTPStatus.NOT_FOUND, "unknown_url", "There is no such route.")
    except web.HTTPMethodNotAllowed:
        told = Refused(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", "The route has no such method.")
    response = web.json_response(told.body(), status=told.status)
    if told.status == HTTPStatus.TOO_MANY_REQUESTS:
        response.headers["retry-after"] = "1"
    response.force_close()  # there may be a body that nobody has read
    return response


def _fail_loudly(task: asyncio.Task[None]) -> None:
    """No videos are made any more: end, and be started again."""
    if not task.cancelled():
        raise SystemExit(f"videos are no longer made: {task.exception()!r}")
