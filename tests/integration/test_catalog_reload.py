"""A running gateway's catalogue follows its files, and a bad file changes nothing."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from server.bootstrap.base import lay
from server.catalogue import CatalogError, LoadedCatalog, ReloadingCatalog, read_catalog
from server.domain.catalog import Offer, Provider
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.request import Endpoint, GenerationRequest, Role, Text, Turn
from server.pipeline.shutdown import Shutdown
from server.providers.openai import OpenAIAdapter
from server.settings import Settings
from server.storage.migrate import upgrade

INTERVAL_S = 0.02
CONFIG = """\
replace_catalog: true
providers:
  - {{id: acme, dialect: openai, base_url: "http://127.0.0.1:1/v1"{key}}}
models:
  - id: {model}
    offers: [{{provider: acme, provider_model: m}}]
"""


def write(path: Path, model: str, key: str = "") -> None:
    path.write_text(CONFIG.format(model=model, key=key), encoding="utf-8")


@asynccontextmanager
async def watching(load: Callable[[], LoadedCatalog]) -> AsyncIterator[ReloadingCatalog]:
    source = ReloadingCatalog(load, poll_interval_s=INTERVAL_S)
    task = asyncio.create_task(source.watch())
    try:
        yield source
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing tells when a watcher has seen a file
            await asyncio.sleep(0.005)


async def test_a_changed_file_is_taken_over(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    write(config, "acme/one:free")
    async with watching(lambda: read_catalog(config, {})) as source:
        before = source.current
        assert before.find("acme/one:free") is not None
        assert source.current is before
        write(config, "acme/two-is-longer:free")
        await until(lambda: source.current is not before)
        assert list(source.current.models) == ["acme/two-is-longer:free"]
        assert list(before.models) == ["acme/one:free"]  # a request under way keeps what it began with


async def test_a_changed_connect_timeout_is_that_of_the_next_call(tmp_path: Path) -> None:
    config, settings = tmp_path / "c.yaml", Settings(data_dir=tmp_path, config=tmp_path / "c.yaml")
    write(config, "acme/one:free")
    whole = config.read_text() + "routing: {connect_timeout_s: %s}\n"
    config.write_text(whole % 600)
    await upgrade(settings.database_url)
    async with AsyncExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        base = await lay(stack, settings, Shutdown())
        adapter = OpenAIAdapter(base.transport, base.clock, base.ids, base.deadlines)
        config.write_text(whole % 0.2)
        await until(lambda: base.catalog.current.routing.connect_timeout_s == 0.2)
        for _ in range(4):  # fills the queue of connections
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        provider = Provider("acme", "openai", f"http://127.0.0.1:{full.getsockname()[1]}/v1")
        offer = Offer(provider, "m", frozenset(Endpoint))
        request = GenerationRequest(endpoint=Endpoint.CHAT, model="acme/one", turns=(Turn(Role.USER, (Text("Hi"),)),))
        with pytest.raises(ProviderFailure) as caught:
            await asyncio.wait_for(anext(adapter.stream(offer, request)), 30)
    assert caught.value.category is FailureCategory.TIMEOUT


async def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    write(config, "acme/one:free")
    loads = 0

    def load() -> LoadedCatalog:
        nonlocal loads
        loads += 1
        return read_catalog(config, {})

    async with watching(load) as source:
        before = source.current
        await asyncio.sleep(INTERVAL_S * 10)
        assert (loads, source.current is before) == (1, True)


async def test_a_bad_file_keeps_the_old_catalogue_and_says_why_once(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    write(config, "acme/one:free")
    with capture_logs() as logs:
        async with watching(lambda: read_catalog(config, {})) as source:
            before = source.current
            config.write_text("modles: []")
            await until(lambda: bool(logs))
            await asyncio.sleep(INTERVAL_S * 10)
            assert source.current is before
            assert logs == [
                {
                    "event": "catalogue_rejected",
                    "log_level": "error",
                    "problems": [f'{config}:1: modles: unknown key; did you mean "models"?'],
                }
            ]
            write(config, "acme/two:free")
            await until(lambda: source.current is not before)
    assert logs[1:] == [{"event": "catalogue_reloaded", "log_level": "info", "models": 1, "recovered": True}]


async def test_a_file_that_vanishes_and_comes_back(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    write(config, "acme/one:free")
    with capture_logs() as logs:
        async with watching(lambda: read_catalog(config, {})) as source:
            before = source.current
            config.unlink()
            await until(lambda: bool(logs))
            assert source.current is before
            write(config, "acme/two:free")
            await until(lambda: source.current is not before)
            assert list(source.current.models) == ["acme/two:free"]


async def test_a_swapped_link_is_noticed(tmp_path: Path) -> None:
    """How a mounted ConfigMap changes: the file's link stays, a directory's link is swapped under it."""
    for version, model in (("v1", "acme/one:free"), ("v2", "acme/two:free")):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "c.yaml", model)
        os.utime(tmp_path / version / "c.yaml", ns=(0, 0))
    (tmp_path / "data").symlink_to("v1")
    config = tmp_path / "c.yaml"
    config.symlink_to("data/c.yaml")
    async with watching(lambda: read_catalog(config, {})) as source:
        assert list(source.current.models) == ["acme/one:free"]
        (tmp_path / "new").symlink_to("v2")
        (tmp_path / "new").rename(tmp_path / "data")
        await until(lambda: list(source.current.models) == ["acme/two:free"])


async def test_a_rotated_key_is_taken_over(tmp_path: Path) -> None:
    config, key = tmp_path / "c.yaml", tmp_path / "key"
    key.write_text("first")
    write(config, "acme/one:free", ", api_key_file: key")
    async with watching(lambda: read_catalog(config, {})) as source:
        assert source.current.providers["acme"].api_key == "first"
        key.write_text("second-1")
        await until(lambda: source.current.providers["acme"].api_key == "second-1")


async def test_a_key_file_that_appears_later_mends_a_rejected_change(tmp_path: Path) -> None:
    config, key = tmp_path / "c.yaml", tmp_path / "key"
    write(config, "acme/one:free")
    with capture_logs() as logs:
        async with watching(lambda: read_catalog(config, {})) as source:
            write(config, "acme/one:free", ", api_key_file: key")
            await until(lambda: bool(logs))
            assert "the file key is missing" in logs[0]["problems"][0]
            key.write_text("late")
            await until(lambda: source.current.providers["acme"].api_key == "late")


async def test_a_file_is_read_when_it_has_been_left_alone(tmp_path: Path) -> None:
    """An editor that empties a file before it writes it anew must not take all models away for a moment."""
    config = tmp_path / "c.yaml"
    write(config, "acme/one:free")
    seen: list[list[str]] = []

    def load() -> LoadedCatalog:
        loaded = read_catalog(config, {})
        seen.append(list(loaded.catalog.models))
        return loaded

    source = ReloadingCatalog(load, poll_interval_s=1.5)
    task = asyncio.create_task(source.watch())
    config.write_text("")
    await asyncio.sleep(1.6)  # one look has seen the empty file
    write(config, "acme/two:free")
    await until(lambda: list(source.current.models) == ["acme/two:free"])
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert seen == [["acme/one:free"], ["acme/two:free"]]


async def test_an_unforeseen_failure_leaves_the_watch_running(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    write(config, "acme/one:free")
    failures = [ZeroDivisionError("a bug")]

    def load() -> LoadedCatalog:
        loaded = read_catalog(config, {})
        if "acme/two:free" in loaded.catalog.models and failures:
            raise failures.pop()
        return loaded

    with capture_logs() as logs:
        async with watching(load) as source:
            write(config, "acme/two:free")
            await until(lambda: bool(logs))
            assert list(source.current.models) == ["acme/one:free"]
            write(config, "acme/three:free")
            await until(lambda: list(source.current.models) == ["acme/three:free"])


def test_a_gateway_does_not_start_with_a_bad_file(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("modles: []")
    with pytest.raises(CatalogError, match="did you mean"):
        ReloadingCatalog(lambda: read_catalog(config, {}))
