"""The supervisor: keeps the local model, the workers and Envoy running, and ends them without cutting a stream.

It knows children only as commands, and readiness only as questions to ask; `server.up` says which.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from server.processes import CUT, LEAVE, Backoff, Child, ChildOutput, Command, StopStep

READY_TIMEOUT_S: Final = 60.0
MAX_STARTS_BEFORE_READY: Final = 3
"""A child that cannot even start is a reason to give up; one that ran is restarted for ever."""
POLL_S: Final = 0.02

log = structlog.get_logger()

Probe = Callable[[], Awaitable[bool]]


class StartFailed(Exception):
    """The gateway did not come up; the text says which part, for the operator."""


class Proxy(Protocol):
    """What draining asks of Envoy; `server.probes.EnvoyAdmin` fills it."""

    async def announce_drain(self) -> bool: ...

    async def close_listeners(self) -> bool: ...

    async def active_requests(self) -> int | None: ...


class Plan(msgspec.Struct, frozen=True):
    """What to run and how to tell that it works: probes are asked in this order, each until it has said yes once.

    Without `envoy` each worker is inside one of its own.
    """

    workers: tuple[Command, ...]
    envoy: Command | None
    local_models: tuple[Command, ...] = ()
    probes: tuple[Probe, ...] = ()


class Limits(msgspec.Struct, frozen=True):
    """Durations in seconds.

    `drain_s`: how long requests in flight may take to end. `announce_s`: how long Envoy still accepts connections after
    it has begun to close kept-alive ones, so that no client meets a closed port on a connection it was about to use.
    `cut_s`: how long workers have to tell the clients of cut streams. `end_s`: until an ended child is killed.
    """

    drain_s: float = 30.0
    announce_s: float = 0.5
    cut_s: float = 3.0
    end_s: float = 5.0
    ready_s: float = READY_TIMEOUT_S
    backoff: Backoff = Backoff()


class StopRequest:
    """What SIGINT and SIGTERM ask for: the first to drain, any further one to hurry."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()

    def again(self) -> None:
        (self.hurried if self.asked.is_set() else self.asked).set()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Answer the process's signals inside the block."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.again)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


class Supervisor:
    """Runs one plan, once. Must live on the main thread: a tied child dies with the thread that started it."""

    def __init__(
        self,
        plan: Plan,
        proxy: Proxy,
        stop: StopRequest,
        *,
        limits: Limits | None = None,
        output: ChildOutput | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._probes = plan.probes
        self._proxy = proxy
        self._stop = stop
        self._tasks: list[asyncio.Task[None]] = []

        def child(command: Command) -> Child:
            return Child(command, output=output, backoff=self._limits.backoff)

        self._models = [child(command) for command in plan.local_models]
        self._workers = [child(command) for command in plan.workers]
        self._envoy = [child(plan.envoy)] if plan.envoy else []

    @property
    def children(self) -> Sequence[Child]:
        return [*self._models, *self._workers, *self._envoy]

    async def run(self, prepare: Callable[[], Awaitable[None]], ready: Callable[[], None]) -> None:
        """Start, call `ready` once everything answers, and stay until asked to stop; then drain and end all children.

        `prepare` runs before anything listens for clients, beside the start of the local model. Raises what it raises,
        and StartFailed; no child is left in any case.
        """
        try:
            self._launch(self._models)
            await prepare()
            if not self._stop.asked.is_set():
                self._launch([*self._workers, *self._envoy])
                await self._until_ready()
            if not self._stop.asked.is_set():
                ready()
                await self._stop.asked.wait()
                await self._drain()
        finally:
            await self._end_all()

    def _launch(self, children: Sequence[Child]) -> None:
        for child in children:
            task = asyncio.create_task(child.keep_running(), name=child.command.name)
            # It ends when the child is stopped; ending on its own it has failed, and everything must end.
            task.add_done_callback(lambda _: self._stop.asked.set())
            self._tasks.append(task)

    async def _until_ready(self) -> None:
        """Return when every probe has said yes, or when asked to stop. Raises StartFailed."""
        give_up_at = asyncio.get_running_loop().time() + self._limits.ready_s
        for probe in self._probes:
            while not self._stop.asked.is_set() and not await probe():
                for child in self.children:
                    if child.starts > MAX_STARTS_BEFORE_READY:
                        raise StartFailed(f"{child.command.name} ends as soon as it is started; its output says why")
                if asyncio.get_running_loop().time() > give_up_at:
                    raise StartFailed(f"not ready after {self._limits.ready_s:.0f} s")
                await asyncio.sleep(POLL_S)

    async def _drain(self) -> None:
        """Let requests in flight end, Envoy's first, then those that native clients sent to the workers. What has no
        end of its own, such as a watch, the workers end now.

        Past the limit, or when hurried, the workers are told to cut what is left while Envoy still stands, so that each
        client gets a last event that says so.
        """
        limit_s = self._limits.drain_s
        log.info("draining: no new connections, requests in flight may end", limit_s=limit_s)
        for worker in self._workers:
            worker.tell(LEAVE)
        ends_at = asyncio.get_running_loop().time() + limit_s
        if await self._in_time(self._until_idle(), limit_s):
            await self._stop_envoy()
            limit_s = max(ends_at - asyncio.get_running_loop().time(), self._limits.end_s)
            if await self._in_time(self._stop_workers([StopStep(signal.SIGTERM, limit_s)]), limit_s):
                return
        log.warning("cutting the requests that are left", hurried=self._stop.hurried.is_set())
        if self._envoy:
            await self._stop_workers([StopStep(signal.SIGINT, self._limits.cut_s)])
        else:
            for worker in self._workers:
                worker.tell(CUT)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._until_served(), self._limits.cut_s)

    async def _until_idle(self) -> None:
        if await self._proxy.announce_drain():
            await asyncio.sleep(self._limits.announce_s)
        await self._proxy.close_listeners()
        await self._until_served()

    async def _until_served(self) -> None:
        while await self._proxy.active_requests():  # noqa: ASYNC110 - Envoy can only be asked
            await asyncio.sleep(POLL_S)

    async def _in_time(self, work: Coroutine[None, None, None], limit_s: float) -> bool:
        """Whether `work` ended within the limit and before anybody asked to hurry; else it is cancelled."""
        working = asyncio.ensure_future(work)
        hurried = asyncio.ensure_future(self._stop.hurried.wait())
        try:
            await asyncio.wait({working, hurried}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            return working.done()
        finally:
            working.cancel()
            hurried.cancel()

    async def _stop_envoy(self) -> None:
        for envoy in self._envoy:
            await envoy.stop(self._steps(signal.SIGTERM))

    async def _stop_workers(self, steps: Sequence[StopStep]) -> None:
        await asyncio.gather(*(worker.stop(steps) for worker in self._workers))

    async def _end_all(self) -> None:
        """End what still runs: Envoy, the workers, the local model. Raises where supervising itself failed."""
        await self._stop_envoy()
        await self._stop_workers(self._steps(signal.SIGTERM))
        for model in self._models:
            await model.stop(self._steps(signal.SIGTERM))
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def _steps(self, first: signal.Signals) -> list[StopStep]:
        return [StopStep(first, self._limits.end_s), StopStep(signal.SIGKILL, self._limits.end_s)]
