"""Draining with the real Envoy: live streams end by themselves, and nobody meets a closed port too early."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from server.preflight import envoy_binary
from server.probes import EnvoyAdmin, accepts, ask_http, port_problem, unused_port
from server.processes import Child, Command, StopStep, tied
from server.supervisor import Limits, Plan, Probe, StopRequest, Supervisor

WORKER = """
import asyncio, signal, sys
from server.processes import exit_when_parent_dies

async def answer(reader, writer):
    while True:
        try:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            break
        path = head.split()[1].decode()
        if path.startswith("/stream/"):
            writer.write(b"HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n")
            for number in range(int(path.rpartition("/")[2])):
                event = b"data: %03d\\n\\n" % number
                writer.write(b"%x\\r\\n%s\\r\\n" % (len(event), event))
                await writer.drain()
                await asyncio.sleep(0.1)
            writer.write(b"0\\r\\n\\r\\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")
        await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_unix_server(answer, sys.argv[1])
    await server.serve_forever()

exit_when_parent_dies()
signal.signal(signal.SIGINT, signal.SIG_DFL)
asyncio.run(main())
"""

CONFIG = """
admin: {{address: {{pipe: {{path: {admin}}}}}}}
static_resources:
  listeners:
    - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": {types}.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: gateway
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{match: {{prefix: /}}, route: {{cluster: workers, timeout: 0s}}}}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{"@type": {types}.http.router.v3.Router}}
  clusters:
    - name: workers
      load_assignment:
        cluster_name: workers
        endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: {worker}}}}}}}}}]}}]
"""

TYPES = "type.googleapis.com/envoy.extensions.filters"
LIMITS = Limits(drain_s=60.0, announce_s=0.3, cut_s=30.0, end_s=30.0)


def envoy_command(directory: Path, port: int) -> Command:
    """The real Envoy in front of `worker.sock`, with its admin on `admin.sock`."""
    config = directory / "envoy.yaml"
    sockets = {"admin": directory / "admin.sock", "worker": directory / "worker.sock"}
    config.write_text(CONFIG.format(types=TYPES, port=port, **sockets))
    options = ("--concurrency", "1", "--drain-strategy", "immediate", "--drain-time-s", "1", "--disable-hot-restart")
    return Command("envoy", (str(envoy_binary()), "-c", str(config), *options, "--log-level", "error"))


class Gateway:
    """Envoy, one worker that streams, and the supervisor of both, in this process."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self.port = unused_port()
        worker = Command("worker", (sys.executable, "-c", WORKER, str(directory / "worker.sock")))
        probes: tuple[Probe, ...] = (functools.partial(accepts, directory / "worker.sock"), self._answers)
        self.stop = StopRequest()
        self.admin = EnvoyAdmin(directory / "admin.sock")
        self.is_ready = asyncio.Event()
        plan = Plan((worker,), Command("envoy", tied(envoy_command(directory, self.port).argv)), (), probes)
        self.supervisor = Supervisor(plan, self.admin, self.stop, limits=limits)
        self.running = asyncio.create_task(self.supervisor.run(self._prepare, self.is_ready.set))

    async def _prepare(self) -> None:
        return None

    async def _answers(self) -> bool:
        answer = await ask_http(f"http://127.0.0.1:{self.port}/")
        return answer is not None and answer.status == 200

    async def get(self, path: str) -> bytes:
        """The body of a whole answer; raises where the connection or the answer breaks off."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with contextlib.closing(writer):
            writer.write(f"GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            if b"content-length: 2" in head:
                return await reader.readexactly(2)
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            return body


@contextlib.asynccontextmanager
async def gateway(directory: Path, limits: Limits = LIMITS) -> AsyncIterator[Gateway]:
    one = Gateway(directory, limits)
    try:
        await asyncio.wait_for(one.is_ready.wait(), 60)
        yield one
    finally:
        one.stop.again()
        one.stop.again()
        await asyncio.wait_for(one.running, 60)


async def test_twenty_streams_end_by_themselves_and_no_client_meets_a_closed_port_too_early(tmp_path: Path) -> None:
    async with gateway(tmp_path) as one:
        streams = [asyncio.create_task(one.get("/stream/50")) for _ in range(20)]
        refused_after_s: list[float] = []
        loop = asyncio.get_running_loop()
        answered = 0

        async def steady_traffic() -> None:
            nonlocal answered
            while True:
                try:
                    assert await one.get("/") == b"ok"
                    answered += 1
                except (ConnectionRefusedError, ConnectionResetError):  # the latter where it was closed in between
                    refused_after_s.append(loop.time() - asked_at)
                    return
                await asyncio.sleep(0.005)

        await until(lambda: has_active(one, 20))
        asked_at = loop.time()
        traffic = asyncio.create_task(steady_traffic())
        while answered < 2:  # noqa: ASYNC110 - the traffic tells no more
            await asyncio.sleep(0.01)
        asked_at = loop.time()
        one.stop.again()
        bodies = await asyncio.wait_for(asyncio.gather(*streams), 60)
        await asyncio.wait_for(one.running, 60)
        await asyncio.wait_for(traffic, 60)

    expected = b"".join(b"data: %03d\n\n" % number for number in range(50))
    assert bodies == [expected] * 20
    assert refused_after_s[0] >= LIMITS.announce_s
    assert loop.time() - asked_at < LIMITS.drain_s


async def test_past_the_limit_it_stops_all_the_same(tmp_path: Path) -> None:
    async with gateway(tmp_path, Limits(drain_s=0.8, announce_s=0.1, cut_s=0.5, end_s=30.0)) as one:
        stream = asyncio.create_task(one.get("/stream/300"))
        await until(lambda: has_active(one, 1))
        before = asyncio.get_running_loop().time()
        one.stop.again()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await stream
        await asyncio.wait_for(one.running, 60)
        assert 0.8 <= asyncio.get_running_loop().time() - before < 25
    assert port_problem("127.0.0.1", one.port) is None


async def test_a_killed_envoy_comes_back_on_the_same_port(tmp_path: Path) -> None:
    async with gateway(tmp_path) as one:
        envoy = one.supervisor.children[-1]
        assert envoy.pid is not None
        os.kill(envoy.pid, signal.SIGKILL)
        await until(lambda: _both(envoy.starts == 2, one._answers()))
        assert await one.get("/") == b"ok"


async def test_envoy_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    command = envoy_command(tmp_path, unused_port())
    program = (
        "import subprocess, sys; from server.processes import tied;"
        "print(subprocess.Popen(tied(tuple(sys.argv[1:]))).pid, flush=True); sys.stdin.read()"
    )
    pipe = asyncio.subprocess.PIPE
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *command.argv, stdin=pipe, stdout=pipe)
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(await parent.stdout.readline())
    await until(lambda: accepts(tmp_path / "admin.sock"))
    assert psutil.pid_exists(pid)
    parent.kill()
    # Envoy holds the other end of this pipe, so that it ends when Envoy does.
    await asyncio.wait_for(parent.stdout.read(), 60)
    parent.stdin.close()
    await parent.wait()
    await until(lambda: _has_ended(pid))


async def test_a_socket_left_over_from_kill_9_is_not_taken_for_a_worker(tmp_path: Path) -> None:
    socket = tmp_path / "worker.sock"
    worker = Child(Command("worker", (sys.executable, "-c", WORKER, str(socket))))
    task = asyncio.create_task(worker.keep_running())
    await until(lambda: accepts(socket))
    await worker.stop([StopStep(signal.SIGKILL, 30.0)])
    await task
    assert socket.exists()
    assert not await accepts(socket)
    assert not await accepts(tmp_path / "absent.sock")


async def until(holds: Callable[[], Awaitable[bool]], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not await holds():  # noqa: ASYNC110 - it is another process's doing
            await asyncio.sleep(0.02)


async def has_active(one: Gateway, count: int) -> bool:
    return await one.admin.active_requests() == count


async def _both(first: bool, second: Awaitable[bool]) -> bool:
    return await second and first


async def _has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
