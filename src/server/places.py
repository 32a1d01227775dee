"""The workers' places. Two take each in turn, under names of their own: one serves before the other has ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rest_bridge.envoy import render_endpoints
from server.hosts.listeners import aside_file
from server.probes import EnvoyAdmin, accepts
from server.processes import Command
from server.supervisor import POLL_S, Probe, Relief

__all__ = ["BehindEnvoy", "InsideEnvoy", "Places"]

FOLLOWED_WITHIN_S: Final = 10.0
"""How long Envoy may take to hear of other endpoints."""


class Places:
    """Of `count` workers, by index. A number names what one of them has for itself: `index`, or in its second turn
    `index + count`.
    """

    def __init__(self, run_dir: Path, count: int) -> None:
        self.run_dir = run_dir
        self._numbers = list(range(count))

    def __len__(self) -> int:
        return len(self._numbers)

    def present(self, index: int) -> int:
        """The number of the one that serves."""
        return self._numbers[index]

    def other(self, index: int) -> int:
        """The number of the one that takes its place next."""
        return (self._numbers[index] + len(self)) % (2 * len(self))

    def swap(self, index: int) -> None:
        self._numbers[index] = self.other(index)

    def socket(self, number: int) -> Path:
        """Where a worker takes calls past or from Envoy."""
        return self.run_dir / f"worker-{number}.sock"

    def admin_socket(self, number: int) -> Path:
        """Of a worker's own Envoy."""
        return self.run_dir / f"admin-{number}.sock"

    def is_aside(self, index: int) -> Probe:
        """Asks whether the one that serves has let in all that were on the way to it, once it is told to step aside."""
        told = aside_file(self.socket(self.present(index)))
        told.unlink(missing_ok=True)

        async def is_told() -> bool:
            return told.exists()

        return is_told

    def sockets(self) -> list[Path]:
        """Of those that serve, by index."""
        return [self.socket(number) for number in self._numbers]

    def admins(self) -> list[Path]:
        """Of all that there may be."""
        return [self.admin_socket(number) for number in range(2 * len(self))]


class InsideEnvoy:
    """Workers in Envoys of their own: as soon as both listen, the kernel gives connections to either."""

    def __init__(self, places: Places, command: Callable[[int, int], Command]) -> None:
        self._places = places
        self._command = command

    def relief(self, index: int) -> Relief:
        places = self._places
        leaving, coming = places.present(index), places.other(index)
        is_aside = places.is_aside(index)

        async def take_over() -> bool:
            places.swap(index)
            return True

        admin, old = EnvoyAdmin(places.admin_socket(coming)), EnvoyAdmin(places.admin_socket(leaving))
        return Relief(self._command(index, coming), admin.is_ready, take_over, is_aside, old)


class BehindEnvoy:
    """Workers behind one Envoy, which reads in `endpoints` which of them serve."""

    def __init__(self, places: Places, command: Callable[[int, int], Command], envoy: EnvoyAdmin) -> None:
        self._places = places
        self._command = command
        self._envoy = envoy
        self.endpoints = places.run_dir / "endpoints.yaml"
        self._tell()

    def relief(self, index: int) -> Relief:
        coming, is_aside = self._places.other(index), self._places.is_aside(index)
        socket = self._places.socket(coming)

        async def take_over() -> bool:
            self._places.swap(index)
            try:
                self._tell()
            except Exception:
                self._places.swap(index)
                raise
            if await self._followed():
                return True
            self._places.swap(index)
            self._tell()
            return False

        return Relief(self._command(index, coming), lambda: accepts(socket), take_over, is_aside)

    def _tell(self) -> None:
        """Whole at once: Envoy sees a file that takes another's name, and none that is being written."""
        draft = self.endpoints.with_suffix(".new")
        draft.write_text(render_endpoints([str(path) for path in self._places.sockets()]), encoding="utf-8")
        os.replace(draft, self.endpoints)

    async def _followed(self) -> bool:
        """Whether Envoy has heard."""
        wanted = {str(path) for path in self._places.sockets()}
        try:
            async with asyncio.timeout(FOLLOWED_WITHIN_S):
                while await self._envoy.endpoints() != wanted:  # noqa: ASYNC110 - Envoy can only be asked
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return False
        return True
