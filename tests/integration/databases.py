"""Databases for tests: a SQLite file, and a PostgreSQL server that this process starts and stops.

`database_url` gives each test a database of both kinds in turn, `database` the same one open. They have the schema: the
first that is made is migrated, the others are copies of it. `empty_database_url` is for tests of migrations.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from server.storage import migrate
from server.storage.database import Database

START_LIMIT_S = 60.0
PROCESS_LIMIT_S = 200.0


class ManualClock:
    """A clock that tests move by hand."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.seconds = now

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class PostgresServer:
    """A PostgreSQL server of our own, on a Unix socket in its own directory: no port and no password.

    Nor durability, unless it is started with it.
    """

    def __init__(self) -> None:
        self._bin = _postgres_programs()
        # Short, since the path of a socket may have 107 bytes; and not the test's own, which has another owner.
        self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._user = _unprivileged_user()
        if self._user is not None:
            os.chown(self.directory, pwd.getpwnam(self._user).pw_uid, -1)
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._has_template = False
        try:
            self._run("initdb", "--pgdata=data", "--username=test", "--auth=trust", "--no-sync", "--encoding=UTF8",
                      "--locale=C", "--no-instructions")  # fmt: skip
        except BaseException:
            shutil.rmtree(self.directory)
            raise

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://test@/{database}?host={self.directory}"

    def start(self, *, durable: bool = False) -> None:
        log = (self.directory / "log").open("ab")
        options = {
            **dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit"), "on" if durable else "off"),
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "max_connections": "60",
        }
        flags = [flag for name, value in options.items() for flag in ("-c", f"{name}={value}")]
        with log:
            self._process = subprocess.Popen(
                [*_as_user(self._user), str(self._bin / "postgres"), "-D", "data", *flags],
                cwd=self.directory,
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + START_LIMIT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError("PostgreSQL did not start:\n" + (self.directory / "log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server at once, as an operator who pulls it away would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_LIMIT_S)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    async def create_database(self) -> str:
        self._databases += 1
        name = f"test_{self._databases}"
        await self.execute("postgres", f"CREATE DATABASE {name}")
        return name

    async def copy_database(self) -> str:
        """The URL of one that has the schema."""
        if not self._has_template:
            await self.execute("postgres", "CREATE DATABASE template_of_tests")
            await migrate.upgrade(self.url("template_of_tests"))
            self._has_template = True
        self._databases += 1
        name = f"test_{self._databases}"
        # Copying files is half the work of copying through the log, which is the usual way.
        await self.execute("postgres", f"CREATE DATABASE {name} TEMPLATE template_of_tests STRATEGY FILE_COPY")
        _made.add(self.url(name))
        return self.url(name)

    async def execute(self, database: str, statement: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(host=str(self.directory), user="test", database=database)
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    def _is_ready(self) -> bool:
        probe = subprocess.run([str(self._bin / "pg_isready"), "--quiet", f"--host={self.directory}"], check=False)
        return probe.returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*_as_user(self._user), str(self._bin / program), *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program} failed:\n{done.stderr}"


class Pooler:
    """PgBouncer before a server of ours, on a Unix socket in the same directory.

    `mode` is its pool_mode; it lends out so many `sessions` of each database.
    """

    PORT = 6432

    def __init__(self, server: PostgresServer, mode: str, *, sessions: int = 20) -> None:
        self._server = server
        self._directory = server.directory
        (self._directory / "users").write_text('"test" ""\n')
        (self._directory / "pooler.ini").write_text(
            f"[databases]\n* = host={self._directory} user=test\n[pgbouncer]\n"
            f"unix_socket_dir = {self._directory}\nlisten_port = {self.PORT}\nauth_type = trust\n"
            f"auth_file = {self._directory / 'users'}\npool_mode = {mode}\ndefault_pool_size = {sessions}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Pooler:
        program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is None:
            raise AssertionError("PgBouncer is not installed: run scripts/install-test-deps.sh")
        with (self._directory / "pooler.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*_as_user(_unprivileged_user()), program, str(self._directory / "pooler.ini")], stdout=log, stderr=log
            )
        socket = self._directory / f".s.PGSQL.{self.PORT}"
        give_up = time.monotonic() + START_LIMIT_S
        while not socket.exists():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError("PgBouncer did not start:\n" + (self._directory / "pooler.log").read_text())
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(START_LIMIT_S)

    def url(self, database: str) -> str:
        return f"{self._server.url(database)}&port={self.PORT}"


def _postgres_programs() -> Path:
    """Where initdb and postgres are. Fails the test where they are nowhere."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (pg_config := shutil.which("pg_config")) is not None:
        output = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True)
        candidates.append(Path(output.stdout.strip()))
    if (initdb := shutil.which("initdb")) is not None:
        candidates.append(Path(initdb).resolve().parent)
    for candidate in candidates:
        if (candidate / "initdb").exists() and (candidate / "postgres").exists():
            return candidate
    raise AssertionError(
        "PostgreSQL's server programs are not installed, and the storage tests need them:"
        " run scripts/install-test-deps.sh"
    )


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; None where we are not root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _as_user(user: str | None) -> list[str]:
    """What to put before a command to run it as that user.

    Popen's own `user` makes it fork instead of vfork, and gRPC's handlers for forks then crash one child in ten
    where a gRPC server is at work in this process.
    """
    return (
        [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--init-groups"]
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'data' / 'gateway.db'}"


@pytest.fixture
async def postgres_url(postgres: PostgresServer) -> str:
    return await postgres.copy_database()


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database with its schema."""
    if request.param == "sqlite":
        url: str = request.getfixturevalue("sqlite_url")
        await make_schema(url)
        return url
    server: PostgresServer = request.getfixturevalue("postgres")
    return await server.copy_database()


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_database_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        url: str = request.getfixturevalue("sqlite_url")
        return url
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(await server.create_database())


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database with its schema."""
    async with migrated(database_url) as opened:
        yield opened


@asynccontextmanager
async def migrated(url: str, *, pool_size: int = 5, slot_wait_s: float = 5.0) -> AsyncIterator[Database]:
    await make_schema(url)
    opened = Database.open(url, pool_size=pool_size, slot_wait_s=slot_wait_s)
    try:
        yield opened
    finally:
        await opened.close()


async def make_schema(url: str) -> None:
    """As `migrate.upgrade`, but a SQLite file that is not there yet is a copy of one that was migrated before."""
    if (file := _missing_file(url)) is not None:
        _write(file, await _schema())
    elif url not in _made:
        await migrate.upgrade(url)
    _made.add(url)


_made: set[str] = set()
"""The URLs of databases that have the schema."""
_template: list[bytes] = []
"""A SQLite file with the schema and nothing else, once there is one."""


async def _schema() -> bytes:
    if not _template:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "schema.db"
            await migrate.upgrade(f"sqlite+aiosqlite:///{file}")
            _template.append(_read(file))
    return _template[0]


def _missing_file(url: str) -> Path | None:
    file = Path(url.removeprefix("sqlite+aiosqlite:///"))
    return None if not url.startswith("sqlite") or file.exists() else file


def _read(file: Path) -> bytes:
    return file.read_bytes()


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_bytes(content)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def run_python(module: str, *arguments: str) -> str:
    """Run a module in a process of its own; what it printed. Fails the test where it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-m",
        module,
        *arguments,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PROCESS_LIMIT_S):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()


async def run_at_once(count: int, module: str, *arguments: str) -> list[str]:
    """Run a module in several processes that start together; what each printed. One that fails ends all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run_python(module, *arguments)) for _ in range(count)]
    return [task.result() for task in tasks]
