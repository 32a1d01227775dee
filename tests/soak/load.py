"""Who asks: clients that each ask once they are answered, or a clock that asks at its moments, answered or not."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from itertools import cycle
from typing import Final

import grpc

from tests.chaos.client import Seen, ask
from tests.chaos.plan import DEFAULT, Plan
from tests.chaos.reconcile import Violation
from tests.e2e.gateway import Gateway
from tests.soak.mistakes import EXPECTED, mistake
from tests.soak.plan import Mistake, Typed, plan_of
from tests.soak.typed import ask_typed

CHANNELS: Final = 8


class Load:
    """`plans` are requests that a provider may hear of, `seen` what became of them; `mistakes` counts the others."""

    def __init__(self, seed: int, gateway: Gateway, keys: dict[str, str]) -> None:
        self.plans: dict[int, Plan] = {}
        self.seen: list[Seen] = []
        self.mistakes: Counter[Mistake] = Counter()
        self.wrong: list[Violation] = []
        self.in_flight = 0
        self.offered = 0
        self.shed = 0
        self._seed, self._gateway, self._keys = seed, gateway, keys
        self._next = 0

    async def closed(self, clients: int, seconds: float) -> float:
        """Have so many clients ask one thing after another; how many requests a second were answered."""
        until_s = time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < until_s:
                await self._one()

        before = self._next
        await self._all([client] * clients)
        return (self._next - before) / (time.monotonic() - until_s + seconds)

    async def open(self, rate: float, seconds: float, *, most: int) -> None:
        """Offer so many a second for so long, whatever becomes of them, and return when all have ended.

        One that finds `most` under way is not sent: a machine that falls behind would drown.
        """
        began_s = time.monotonic()

        async def clock() -> None:
            async with asyncio.TaskGroup() as requests:
                for number in range(int(rate * seconds)):
                    if (wait_s := began_s + number / rate - time.monotonic()) > 0:
                        await asyncio.sleep(wait_s)
                    self.offered += 1
                    if self.in_flight >= most:
                        self.shed += 1
                        continue
                    requests.create_task(self._one())

        await self._all([clock])

    async def _all(self, clients: Sequence[Callable[[], Coroutine[None, None, None]]]) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"127.0.0.1:{self._gateway.http_port}"
        channels = [grpc.aio.insecure_channel(address, options) for _ in range(CHANNELS)]
        self._channels = cycle(channels)
        try:
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client())
        finally:
            for channel in channels:
                await channel.close()

    async def _one(self) -> None:
        index = self._next
        self._next += 1
        plan = plan_of(self._seed, index)
        self.in_flight += 1
        try:
            if isinstance(plan, Plan):
                await self._ask(plan)
            else:
                await self._err(index, plan)
        finally:
            self.in_flight -= 1

    async def _ask(self, plan: Plan) -> None:
        self.plans[plan.index] = plan
        seen = Seen(plan.index, gateway=0)
        self.seen.append(seen)
        key = self._keys[plan.team]
        if isinstance(plan, Typed):
            await ask_typed(plan, seen, next(self._channels), key)
        else:
            await ask(plan, seen, self._gateway.http_port, key)
        if seen.status == 200:
            seen.body = b""

    async def _err(self, index: int, kind: Mistake) -> None:
        self.mistakes[kind] += 1
        status = await mistake(kind, self._gateway.http_port, self._keys[DEFAULT], rude=index % 2 == 0)
        if status != EXPECTED[kind]:
            self.wrong.append(Violation("a mistake", f"request {index:06d} ({kind})", f"status {status}"))
