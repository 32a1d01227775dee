"""`aistats-gateway up` as a person starts it: workers, Envoy and database are the real ones."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from server.places import Places
from server.probes import ask_http, port_problem, unused_port
from server.settings import Settings
from server.storage.migrate import upgrade
from server.up import FirstKey, make_plan, welcome
from tests.e2e.gateway import WORKER, command_of
from tests.fakes.hosting import CHOSEN


class Up:
    """One gateway without the embedded model, started and ended any number of times."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.http_port, self.grpc_port = unused_port(), unused_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AISTATS_")},
            "AISTATS_DATA_DIR": str(self.data_dir),
            "AISTATS_HTTP_PORT": str(self.http_port),
            "AISTATS_GRPC_PORT": str(self.grpc_port),
            "AISTATS_WORKERS": "1",
            "AISTATS_LOCAL_MODEL": "0",
            "AISTATS_HOST": CHOSEN,
        }

    async def start(self, **environ: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "up"),
            env={**self.environ, **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def until_ready(self, process: asyncio.subprocess.Process, word: bytes = b"Ctrl-C") -> bytes:
        """What it printed until then."""
        assert process.stdout is not None
        said = b""
        async with asyncio.timeout(60):
            while word not in said:
                line = await process.stdout.readline()
                assert line, said.decode()
                said += line
        return said

    @property
    def key(self) -> str:
        return (self.data_dir / "bootstrap-key").read_text().strip()

    def descendants(self, process: asyncio.subprocess.Process) -> list[psutil.Process]:
        return psutil.Process(process.pid).children(recursive=True)

    def worker(self, process: asyncio.subprocess.Process) -> psutil.Process:
        [worker] = [one for one in self.descendants(process) if WORKER.search(" ".join(command_of(one)))]
        return worker


@pytest.fixture
def up(tmp_path: Path) -> Up:
    return Up(tmp_path)


async def ended(process: asyncio.subprocess.Process, limit_s: float = 60.0) -> bytes:
    """What it still prints; `process.returncode` is known afterwards."""
    printed, _ = await asyncio.wait_for(process.communicate(), limit_s)
    return printed


async def until(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not holds():  # noqa: ASYNC110 - it is another process's doing
            await asyncio.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_the_key_is_printed_once_and_a_key_works_from_the_first_second(up: Up) -> None:
    first = await up.start()
    said = await up.until_ready(first)
    assert said.count(up.key.encode()) == 1
    assert (up.data_dir / "bootstrap-key").stat().st_mode & 0o777 == 0o600
    answer = await ask_http(f"{up.url}/healthz")
    assert answer is not None
    assert answer.status == 200
    first.send_signal(signal.SIGINT)
    rest = await ended(first)
    assert first.returncode == 0, rest.decode()

    key = up.key
    second = await up.start()
    said = await up.until_ready(second)
    second.send_signal(signal.SIGTERM)
    said += await ended(second)
    assert second.returncode == 0
    assert up.key == key
    assert key.encode() not in said


async def test_in_json_every_line_is_an_object_and_the_key_is_in_none(up: Up) -> None:
    process = await up.start(AISTATS_LOG_FORMAT="json")
    said = await up.until_ready(process, b'"event":"ready"')
    process.send_signal(signal.SIGTERM)
    said += await ended(process)
    assert process.returncode == 0
    assert [line for line in said.splitlines() if not line.startswith(b"{")] == []
    assert up.key.encode() not in said
    assert str(up.data_dir / "bootstrap-key").encode() in said


async def test_kill_9_leaves_no_process_and_its_sockets_do_not_hinder_the_next_start(up: Up) -> None:
    process = await up.start()
    await up.until_ready(process)
    left = await killed(up, process)
    await until(lambda: all(is_gone(one) for one in left))

    again = await up.start()
    await up.until_ready(again)
    left = await killed(up, again, up.worker(again))
    await until(lambda: all(is_gone(one) for one in left))
    assert (up.data_dir / "run" / "worker-0.sock").exists()

    last = await up.start()
    await up.until_ready(last)
    answer = await ask_http(f"{up.url}/healthz")
    assert answer is not None
    assert answer.status == 200
    last.send_signal(signal.SIGTERM)
    await ended(last)
    assert last.returncode == 0


async def test_a_worker_that_crashed_and_is_not_back_yet_does_not_make_a_stop_fail(up: Up) -> None:
    process = await up.start()
    await up.until_ready(process)
    worker = up.worker(process)
    worker.kill()
    await until(lambda: is_gone(worker))
    process.send_signal(signal.SIGTERM)
    said = await ended(process)
    assert process.returncode == 0, said.decode()


async def killed(up: Up, process: asyncio.subprocess.Process, *also: psutil.Process) -> list[psutil.Process]:
    """Kill -9 the supervisor, and `also` of its children; all children that it had."""
    descendants = up.descendants(process)
    assert len(descendants) == (1 if CHOSEN == "in-envoy" else 2)
    for one in also:
        one.suspend()  # so that it does not go by itself when it sees that it is alone
    process.kill()
    for one in also:
        one.kill()
    await ended(process)
    return descendants


async def test_a_killed_worker_comes_back_on_its_socket(up: Up) -> None:
    process = await up.start()
    await up.until_ready(process)
    worker = up.worker(process)
    worker.kill()

    async def answers() -> bool:
        answer = await ask_http(f"{up.url}/healthz")
        return answer is not None and answer.status == 200

    async with asyncio.timeout(30):
        while worker.pid in [one.pid for one in up.descendants(process)] or not await answers():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = await ended(process)
    assert process.returncode == 0
    assert b"killed by SIGKILL" in said


async def test_a_schema_from_the_future_ends_it_before_anything_listens(up: Up) -> None:
    up.data_dir.mkdir(mode=0o700)
    path = up.data_dir / "gateway.db"
    await upgrade(f"sqlite+aiosqlite:///{path}")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE aistats_schema_version SET version_num = 'from-the-future'")
    connection.close()
    process = await up.start()
    said = await ended(process)
    assert process.returncode == 1
    assert b"ahead" in said
    assert b"Traceback" not in said
    assert b"worker" not in said.replace(b"starting 1 workers", b"")


async def test_a_busy_port_ends_it_with_the_variable_to_set(up: Up) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", up.http_port, reuse_port=True)
    async with server:
        process = await up.start()
        said = await ended(process)
    assert process.returncode == 1
    assert b"AISTATS_HTTP_PORT" in said
    assert not up.data_dir.joinpath("gateway.db").exists()


async def test_a_config_with_a_mistake_ends_it_naming_file_and_line(up: Up, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("models: []\nprovidres: []\n")
    process = await up.start(AISTATS_CONFIG=str(config))
    said = await ended(process)
    assert process.returncode == 1
    assert b"gateway.yaml:2" in said
    assert port_problem("127.0.0.1", up.http_port) is None


def a_settings(directory: Path, **changes: object) -> Settings:
    return Settings(data_dir=directory / "data", workers=3, host="grpc.aio").model_copy(update=changes)


def test_the_plan_has_a_socket_for_each_worker_and_envoy_last(tmp_path: Path) -> None:
    settings = a_settings(tmp_path)
    settings.run_dir.mkdir(parents=True)
    places = Places(settings.run_dir, settings.workers)
    plan = make_plan(settings, places, 4711, 4712, 4713, 4714)
    assert [worker.name for worker in plan.workers] == ["worker-0", "worker-1", "worker-2"]
    assert len({worker.argv[-1] for worker in plan.workers}) == 3
    assert {worker.environ["AISTATS_LOCAL_MODEL_URL"] for worker in plan.workers} == {"http://127.0.0.1:4711/v1"}
    [model, moderation, media] = plan.local_models
    assert {one.environ["AISTATS_LOCAL_EMBEDDINGS_URL"] for one in plan.workers} == {"http://127.0.0.1:4713/v1"}
    assert "4713" in model.argv
    assert (model.argv[-1], moderation.argv[-1], media.argv[-1]) == ("4711", "4712", "4714")
    assert {one.environ["AISTATS_LOCAL_MODERATION_URL"] for one in plan.workers} == {"http://127.0.0.1:4712/v1"}
    assert {one.environ["AISTATS_LOCAL_MEDIA_URL"] for one in plan.workers} == {"http://127.0.0.1:4714/v1"}
    assert str(settings.data_dir / "local-media") in media.argv
    endpoints = settings.run_dir / "endpoints.yaml"
    assert str(endpoints) in (settings.run_dir / "envoy.yaml").read_text()
    assert all(worker.argv[-1] in endpoints.read_text() for worker in plan.workers)
    assert make_plan(settings, places, None).local_models == ()


def test_a_worker_and_the_one_that_takes_its_place_share_no_file(tmp_path: Path) -> None:
    settings = a_settings(tmp_path)
    settings.run_dir.mkdir(parents=True)
    plan = make_plan(settings, Places(settings.run_dir, settings.workers), None)
    assert plan.relief is not None
    coming = [plan.relief(index).command for index in range(settings.workers)]
    assert [worker.name for worker in coming] == [worker.name for worker in plan.workers]
    assert len({worker.argv[-1] for worker in (*plan.workers, *coming)}) == 2 * settings.workers


def test_the_curl_that_is_shown_is_a_command_that_a_shell_understands(tmp_path: Path) -> None:
    directory = tmp_path / "it's here"
    settings = a_settings(directory)
    text = welcome(settings, FirstKey(settings.bootstrap_key_file, "aistats_v1_sk_x"), "1.0", 1.94, has_model=True)
    assert "ready after 1.9 s" in text
    assert text.count("aistats_v1_sk_x") == 1
    directory.joinpath("data").mkdir(parents=True)
    settings.bootstrap_key_file.write_text("aistats_v1_sk_x\n")
    command = text[text.index("  curl") : text.index("\n\ngRPC")].replace("curl", "printf '%s\\n'", 1)
    words = _shell(command)
    assert words[0] == f"{settings.http_url}/v1/responses"
    assert "Authorization: Bearer aistats_v1_sk_x" in words
    assert words[-1] == '{"model": "local/smollm2-135m:free", "input": "Say hello."}'


def test_later_starts_name_the_file_and_never_the_key(tmp_path: Path) -> None:
    settings = a_settings(tmp_path)
    text = welcome(settings, FirstKey(settings.bootstrap_key_file), "1.0", 1.0, has_model=False)
    assert str(settings.bootstrap_key_file) in text
    assert "/v1/models" in text
    assert "aistats_v1_sk" not in text
    assert "x-secret" not in repr(FirstKey(settings.bootstrap_key_file, "x-secret"))


def _shell(command: str) -> list[str]:
    shell = shutil.which("sh")
    assert shell is not None
    return subprocess.run([shell, "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()
