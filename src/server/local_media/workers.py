"""Processes of work as the server sees them: one for each piece of work, so many at a time, each ended in the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec
import structlog

from server.local_media.messages import Message, received
from server.local_media.refusal import Refused, bad_request

__all__ = ["Kind", "WorkFailed", "Workers", "work"]

Kind = Literal["image", "speech", "transcription", "video"]

AT_ONCE: Final = 4
"""Pieces of work beside videos, which have their own queue."""
MAX_WAITING: Final = 64
_SILENCE_S: Final[dict[Kind, float]] = {"image": 60.0, "speech": 60.0, "transcription": 120.0, "video": 60.0}
"""Between two messages; how long a process may work in all is limited in `work.py`."""
_ENVIRON: Final = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""What a process of work gets of the environment: it reads files of strangers, and there are keys in the rest."""
_BUFFER: Final = 256 * 1024

log = structlog.get_logger()


class WorkFailed(Exception):
    """The process ended otherwise than it should have, or took too long."""


class Workers:
    """Lets so many pieces of work be done at once; so many more may wait for their turn."""

    def __init__(self, at_once: int = AT_ONCE, max_waiting: int = MAX_WAITING) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._max_waiting = max_waiting

    async def run(self, kind: Kind, task: dict[str, Any], *, of_a_file: bool = False) -> AsyncGenerator[Message, None]:
        """What the work tells. Raises Refused: a process that dies `of_a_file` was sent one that cannot be read."""
        if self._waiting >= self._max_waiting:
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_exceeded", "Too much work is waiting here.")
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            async with contextlib.aclosing(work(kind, task)) as messages:
                async for message in messages:
                    yield message
        except WorkFailed:
            if of_a_file:
                raise bad_request("invalid_file", "The file could not be read.", "file") from None
            raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "work_failed", "The work could not be done.") from None
        finally:
            self._turns.release()


async def work(kind: Kind, task: dict[str, Any]) -> AsyncGenerator[Message, None]:
    """Run one piece of work in a process of its own. Raises Refused and WorkFailed; the process ends in any case."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server.local_media.work", kind),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # what goes wrong is told in a message; libraries print what they like
        limit=_BUFFER,
        env={name: os.environ[name] for name in _ENVIRON if name in os.environ},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(task) + b"\n")
        messages = received(process.stdout)
        while True:
            async with asyncio.timeout(_SILENCE_S[kind]):
                message = await anext(messages, None)
            if message is None:
                break
            if message.kind == "refused":
                raise bad_request(**message.facts)
            if message.kind == "failed":
                raise WorkFailed(message.facts["what"])
            yield message
        if await process.wait() != 0:
            raise WorkFailed(f"exit code {process.returncode}")
    except WorkFailed as failure:
        log.warning("embedded media: work failed", kind=kind, what=str(failure))
        raise
    except (TimeoutError, ValueError) as error:
        log.warning("embedded media: work failed", kind=kind, what=type(error).__name__)
        raise WorkFailed(type(error).__name__) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.stdin.close()
        await process.wait()
