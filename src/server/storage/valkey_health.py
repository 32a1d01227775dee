"""What workers tell each other of the health of providers, through a Valkey or Redis server.

A server that is away, slow or talks nonsense costs nothing but the news of the others: every step has a time limit, a
pause follows one that failed, and the log has a line where that begins and one where it ends.

The keys of a gateway begin with `aistats:{<id of its default team>}:health`, so that gateways with different databases
never meet. The first of them is a sorted set of workers; each other holds the report of one.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Mapping
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.domain.health import SharedReport
from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.health_reports import KEPT_S, MAX_REPORTS
from server.storage.teams import DEFAULT_TEAM, find_team
from server.storage.valkey_client import Command, Garbled, Refused, Reply, ValkeyConnection
from server.storage.valkey_url import ValkeyAddress

__all__ = ["ValkeyHealthExchange", "index_of", "try_valkey"]

STEP_S: Final = 1.0
"""How long connecting may take, and each exchange of commands and replies."""
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 10.0
MAX_REPORT_BYTES: Final = 2 * 1024 * 1024
"""Some three thousand offers, each with all of its figures."""
BATCH: Final = 4
"""Reports that are asked for together."""
MAX_READ_BYTES: Final = 8 * 1024 * 1024
"""After so much the rest waits for the next time."""

MAX_NAME_BYTES: Final = 4096
MAX_CAUSE: Final = 200

_NUMBERS: Final = 1 << 20
_WORKER: Final = re.compile(rb"[0-9A-Za-z-]{1,64}")
_log: Final = structlog.get_logger(__name__)


class ValkeyHealthExchange:
    """Implements `server.domain.health.HealthExchange`."""

    def __init__(self, address: ValkeyAddress, database: Database, clock: Clock, worker_id: str) -> None:
        self._address = address
        self._database = database
        self._clock = clock
        self._worker_id = worker_id
        self._tls = _trust(address)
        self._index = ""
        self._connection: ValkeyConnection | None = None
        self._trouble = ""
        self._pause_s = 0.0
        self._paused_until_s = 0.0

    async def publish(self, number: int, report: bytes) -> None:
        if len(report) > MAX_REPORT_BYTES:
            _log.warning("health_report_too_long", bytes=len(report), most=MAX_REPORT_BYTES)
            return
        index, now = await self._find_index(), int(self._clock.now())
        await self._ask(
            ["SET", f"{index}:{self._worker_id}", report, "EX", KEPT_S],
            ["ZADD", index, _stamp(now, number), self._worker_id],
            ["ZREMRANGEBYSCORE", index, "-inf", _stamp(now - KEPT_S)],
            ["EXPIRE", index, KEPT_S],
        )

    async def others(self, known: Mapping[str, int]) -> list[SharedReport]:
        """As the protocol says. What is no report, or too long for one, comes as an empty one."""
        index, now = await self._find_index(), int(self._clock.now())
        latest, earliest = _stamp(now + KEPT_S), _stamp(now - KEPT_S)
        page: Command = ["ZREVRANGEBYSCORE", index, latest, earliest, "WITHSCORES", "LIMIT", 0, MAX_REPORTS]
        (reply,) = await self._ask(page, largest=MAX_NAME_BYTES)
        stamps = [(worker, stamp) for worker, stamp in _stamps(reply) if worker != self._worker_id]
        changed = [(worker, stamp) for worker, stamp in stamps if known.get(worker) != stamp]
        reports: list[SharedReport] = []
        size = 0
        while changed and size < MAX_READ_BYTES:
            batch, changed = changed[:BATCH], changed[BATCH:]
            wanted: list[Command] = [["GETRANGE", f"{index}:{worker}", 0, MAX_REPORT_BYTES] for worker, _ in batch]
            replies = await self._ask(*wanted, largest=MAX_REPORT_BYTES + 1, pardoned="WRONGTYPE")
            for (worker, stamp), reply in zip(batch, replies, strict=True):
                report = reply if isinstance(reply, bytes) and len(reply) <= MAX_REPORT_BYTES else b""
                reports.append(SharedReport(worker, stamp, report))
                size += len(report)
        self._recover()
        return reports

    def close(self) -> None:
        """Let go of the connection; the next use makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _find_index(self) -> str:
        if not self._index:
            self._index = index_of(await self._database.read(_default_team))
        return self._index

    async def _ask(self, *commands: Command, largest: int = 0, pardoned: str = "") -> list[Reply]:
        """Replies to commands, none of them a Refused but with the code that is pardoned.

        Raises GatewayError where the server is away or refuses, and without asking where it lately was.
        """
        if self._clock.monotonic() < self._paused_until_s:
            raise _unavailable()
        try:
            if self._connection is None:
                async with asyncio.timeout(STEP_S):
                    self._connection = await ValkeyConnection.open(self._address, self._tls)
            async with asyncio.timeout(STEP_S):
                replies = await self._connection.ask(*commands, largest=largest)
            for reply in replies:
                if isinstance(reply, Refused) and reply.code != pardoned:
                    raise reply
        except Exception as error:  # the boundary to a server that may say anything
            self.close()
            self._note(error)
            raise _unavailable() from error
        except BaseException:
            self.close()
            raise
        return replies

    def _note(self, error: Exception) -> None:
        """Wait longer each time; log the beginning of an outage, and where it becomes one of the other kind."""
        self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), MAX_PAUSE_S)
        self._paused_until_s = self._clock.monotonic() + self._pause_s
        trouble = "refused" if isinstance(error, Refused) else "unreachable"
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("valkey_unavailable", place=self._address.place, trouble=trouble, cause=_cause_of(error))

    def _recover(self) -> None:
        """All has been read: less than that may work in the middle of an outage."""
        if self._trouble:
            self._trouble, self._pause_s = "", 0.0
            _log.info("valkey_available_again", place=self._address.place)


def index_of(gateway_id: str) -> str:
    """The key of a gateway's sorted set; a worker's report is under `<this>:<worker>`."""
    return f"aistats:{{{gateway_id}}}:health"


async def try_valkey(address: ValkeyAddress) -> str:
    """Why the server can't be used; empty where it can."""
    try:
        async with asyncio.timeout(STEP_S):
            connection = await ValkeyConnection.open(address, _trust(address))
            try:
                (reply,) = await connection.ask(["PING"], largest=0)
            finally:
                connection.close()
    except Exception as error:  # the boundary to a server that may say anything
        return _cause_of(error)
    return str(reply) if isinstance(reply, Refused) else ""


def _trust(address: ValkeyAddress) -> ssl.SSLContext | None:
    return ssl.create_default_context() if address.is_tls else None


def _cause_of(error: Exception) -> str:
    """Why a server can't be used, in words for its operator that hold no password."""
    if isinstance(error, TimeoutError):
        return f"no answer within {STEP_S:g} s"
    if isinstance(error, EOFError):
        return "it closed the connection"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    if isinstance(error, (OSError, Refused, Garbled)):
        return str(error)[:MAX_CAUSE]
    return type(error).__name__


async def _default_team(connection: AsyncConnection) -> str:
    team = await find_team(connection, DEFAULT_TEAM)
    if team is None:  # the first start has not come so far
        raise _unavailable()
    return team.id


def _stamp(at: int, number: int = 0) -> int:
    """When a report was made and which of its worker's it is, in one number that a double holds exactly."""
    return at * _NUMBERS + number % _NUMBERS


def _stamps(reply: Reply) -> list[tuple[str, int]]:
    """Workers and their stamps, of a range with its scores. Members that name no worker are left out."""
    found = reply if isinstance(reply, list) else []
    pairs = zip(found[::2], found[1::2], strict=False)
    return [
        (member.decode(), int(score))
        for member, score in pairs
        if isinstance(member, bytes) and isinstance(score, bytes) and _WORKER.fullmatch(member) and score.isdigit()
    ]


def _unavailable() -> GatewayError:
    return GatewayError(Reason.DATABASE_UNAVAILABLE, "Workers can't tell each other of providers at the moment.")
