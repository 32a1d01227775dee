"""The supervisor: keeps the local model, the workers and Envoy running, and ends them without cutting a stream.

It knows children only as commands, and readiness only as questions to ask; `server.up` says which.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence, Set
from typing import Final, Protocol

import msgspec
import structlog

from server.processes import ASIDE, CUT, LEAVE, Backoff, Child, ChildOutput, Command, StopStep

READY_TIMEOUT_S: Final = 60.0
MAX_STARTS_BEFORE_READY: Final = 3
"""A child that cannot even start is a reason to give up; one that ran is restarted for ever."""
POLL_S: Final = 0.02
REPLACE: Final = signal.SIGUSR1
"""Not SIGHUP, which a terminal sends that is closed."""

log = structlog.get_logger()

Probe = Callable[[], Awaitable[bool]]


class StartFailed(Exception):
    """The gateway did not come up; the text says which part, for the operator."""


class Proxy(Protocol):
    """What draining asks of Envoy; `server.probes.EnvoyAdmin` fills it."""

    async def announce_drain(self) -> bool: ...

    async def close_listeners(self) -> bool: ...

    async def active_requests(self) -> int | None: ...

    async def connections(self) -> int | None: ...


class Relief(msgspec.Struct, frozen=True):
    """What takes a worker's place. `take_over` has new requests come to it, and says whether they do.

    Of the one before `is_aside` says whether nobody is on the way to it, and `leaving` is its Envoy if it has its own.
    """

    command: Command
    is_ready: Probe
    take_over: Callable[[], Awaitable[bool]]
    is_aside: Probe
    leaving: Proxy | None = None


class Plan(msgspec.Struct, frozen=True):
    """What to run and how to tell that it works: probes are asked in this order, each until it has said yes once.

    Without `envoy` each worker is inside one of its own. `relief` is what takes the place of a worker, by its index.
    """

    workers: tuple[Command, ...]
    envoy: Command | None
    local_models: tuple[Command, ...] = ()
    probes: tuple[Probe, ...] = ()
    relief: Callable[[int], Relief] | None = None


class Limits(msgspec.Struct, frozen=True):
    """Durations in seconds.

    `drain_s`: how long requests in flight may take to end. `announce_s`: how long Envoy still accepts connections after
    it has begun to close kept-alive ones, so that no client meets a closed port on a connection it was about to use.
    `aside_s`: how long a worker that is replaced may take to let in what was on its way to it.
    `cut_s`: how long workers have to tell the clients of cut streams. `end_s`: until an ended child is killed.
    `linger_s`: how long the Envoy of a worker that is replaced keeps connections on which nothing is asked; who asks
    once more is told to connect anew.
    """

    drain_s: float = 30.0
    announce_s: float = 0.5
    aside_s: float = 10.0
    cut_s: float = 3.0
    end_s: float = 5.0
    linger_s: float = 6.0
    ready_s: float = READY_TIMEOUT_S
    backoff: Backoff = Backoff()


class StopRequest:
    """What SIGINT and SIGTERM ask for: the first to drain, any further one to hurry. And REPLACE, for other workers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        self.replace = asyncio.Event()

    def again(self) -> None:
        (self.hurried if self.asked.is_set() else self.asked).set()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Answer the process's signals inside the block."""
        loop = asyncio.get_running_loop()
        answers = {signal.SIGINT: self.again, signal.SIGTERM: self.again, REPLACE: self.replace.set}
        for number, answer in answers.items():
            loop.add_signal_handler(number, answer)
        try:
            yield
        finally:
            for number in answers:
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
        self._output = output
        self._relief = plan.relief
        self._models = [self._child(command) for command in plan.local_models]
        self._workers = [self._child(command) for command in plan.workers]
        self._envoy = [self._child(plan.envoy)] if plan.envoy else []
        self._replaced: set[tuple[str, int | None]] = set()

    def _child(self, command: Command) -> Child:
        return Child(command, output=self._output, backoff=self._limits.backoff)

    @property
    def workers(self) -> Sequence[Child]:
        """By index; behind them the one that is coming, or leaving."""
        return self._workers

    @property
    def exits(self) -> Set[tuple[str, int | None]]:
        """The names and exit codes of all workers that were ended, those that were replaced among them."""
        return self._replaced | {_exit(worker) for worker in self._workers}

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
                await self._stay()
                await self._drain()
        finally:
            await self._end_all()

    def _launch(self, children: Sequence[Child]) -> None:
        for child in children:
            task = asyncio.create_task(child.keep_running(), name=child.command.name)
            # It ends when the child is stopped; ending on its own it has failed, and everything must end.
            task.add_done_callback(self._has_ended)
            self._tasks.append(task)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._stop.asked.set()

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

    async def _stay(self) -> None:
        """Until asked to stop; meanwhile workers are replaced whenever somebody asks for it."""
        replacing = asyncio.create_task(self._replace_when_asked())
        stopping = asyncio.create_task(self._stop.asked.wait())
        await asyncio.wait({replacing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (replacing, stopping):
            task.cancel()
        await asyncio.wait({replacing, stopping})
        if not replacing.cancelled():
            replacing.result()

    async def _replace_when_asked(self) -> None:
        while await self._stop.replace.wait():
            self._stop.replace.clear()
            if self._relief is None:
                continue
            log.info("replacing the workers, one by one")
            places = range(len(self._workers))
            replaced = 0
            try:
                while replaced < len(places) and await self._replace(replaced, self._relief(replaced)):
                    replaced += 1
            except Exception:
                log.exception("what is to take a worker's place cannot be prepared")
            if replaced == len(places):
                log.info("workers_replaced", count=replaced)
            else:
                log.error("workers_not_replaced", replaced=replaced, kept=len(places) - replaced)

    async def _replace(self, index: int, relief: Relief) -> bool:
        """Start another worker, and end the one in whose place it is when it serves; whether it does."""
        old, new = self._workers[index], self._child(relief.command)
        self._workers.append(new)
        self._launch([new])
        gone = new
        try:
            if await self._is_serving(new, relief) and await relief.take_over():
                self._workers[index], self._workers[-1], gone = new, old, old
                await self._let_go(old, relief)
            else:
                log.error("the new worker does not serve; its output says why", child=new.command.name)
        except Exception:
            log.exception("failed to replace a worker", child=new.command.name)
        # Past Envoy either may have calls, and settlements to write down: it has as long as where all end.
        whole_s = self._limits.drain_s + self._limits.end_s
        await gone.stop([StopStep(signal.SIGTERM, whole_s), StopStep(signal.SIGKILL, self._limits.end_s)])
        self._workers.remove(gone)
        if gone is old:
            log.info("worker replaced", child=old.command.name, exit_code=old.exit_code)
            self._replaced.add(_exit(old))
        return gone is old

    async def _is_serving(self, new: Child, relief: Relief) -> bool:
        give_up_at = asyncio.get_running_loop().time() + self._limits.ready_s
        while not await relief.is_ready():
            if new.starts > 1 or asyncio.get_running_loop().time() > give_up_at:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def _let_go(self, old: Child, relief: Relief) -> None:
        """Have a worker whose place is taken end what it does, as far as its Envoy tells of it."""
        envoy = relief.leaving
        old.tell(ASIDE)
        await self._in_time(_until(relief.is_aside), self._limits.aside_s)
        if envoy is not None:
            await envoy.announce_drain()
            await envoy.close_listeners()
        old.tell(LEAVE)
        if envoy is not None:
            if not await self._in_time(_until_none(envoy.active_requests), self._limits.drain_s):
                old.tell(CUT)
                await self._in_time(_until_none(envoy.active_requests), self._limits.cut_s)
            await self._in_time(_until_none(envoy.connections), self._limits.linger_s)

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
                await asyncio.wait_for(_until_none(self._proxy.active_requests), self._limits.cut_s)

    async def _until_idle(self) -> None:
        if await self._proxy.announce_drain():
            await asyncio.sleep(self._limits.announce_s)
        await self._proxy.close_listeners()
        await _until_none(self._proxy.active_requests)

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


def _exit(child: Child) -> tuple[str, int | None]:
    return child.command.name, child.exit_code


async def _until_none(count: Callable[[], Awaitable[int | None]]) -> None:
    while await count() != 0:  # noqa: ASYNC110 - Envoy can only be asked
        await asyncio.sleep(POLL_S)


async def _until(holds: Probe) -> None:
    while not await holds():  # noqa: ASYNC110 - another process can only be asked
        await asyncio.sleep(POLL_S)
