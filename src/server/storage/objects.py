"""Objects in a directory or a bucket, by way of obstore; for the bytes of what is too large for the database."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from server.domain.ports import Clock
from server.domain.video_contents import StoreFailure
from server.storage.content_address import ContentAddress

if TYPE_CHECKING:  # it takes 10 MB of memory, which a worker without content to keep need not spend
    from obstore.store import ClientConfig, ObjectStore

__all__ = ["Objects", "problem_with", "try_bucket"]

MB: Final = 1 << 20
PIECE_BYTES: Final = 128 * 1024
"""Of what is read, at least."""
FILE_PART_BYTES: Final = MB
BUCKET_PART_BYTES: Final = 5 * MB
"""The least that S3 takes as a part. Of an object there are 10,000 parts at most."""
PARTS_AT_ONCE: Final = 1
LEAST_FREE_BYTES: Final = 1 << 30
"""What a disk has to have left, or nothing is written to it: the database may be on it."""
READ_S: Final = 3600
"""How long one download from a bucket may take."""
READ_RETRIES: Final = 2
"""Then the provider is asked, who may have it still."""
CONNECT_S: Final = 5
STAGED_S: Final = 86_400
"""How old a file is that nobody can be writing any more."""
PURGE_BATCH: Final = 500

_OURS: Final = re.compile(r"[0-9a-f]{32}-(?:video|thumbnail|spritesheet)-[0-9]+(?P<staged>#[0-9]+)?", re.ASCII)


class Objects:
    """Implements `server.domain.video_contents.ObjectStore`. What it does not know by name it leaves alone."""

    def __init__(self, address: ContentAddress, clock: Clock) -> None:
        self._address = address
        self._clock = clock
        self._stores: tuple[ObjectStore, ObjectStore] | None = None
        self._opening = asyncio.Lock()

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        _, store = await self._open()
        import obstore
        from obstore.exceptions import BaseError

        part_bytes = FILE_PART_BYTES if self._address.directory else BUCKET_PART_BYTES
        torn: BaseException | None = None
        with _translated():
            self._check_room()
            try:
                # Not `put_async`, which would go on pulling after it was cancelled.
                async with obstore.open_writer_async(
                    store, key, buffer_size=part_bytes, max_concurrency=PARTS_AT_ONCE
                ) as writer:
                    try:
                        async for chunk in chunks:
                            await writer.write(chunk)
                    except BaseException as error:
                        torn = error
                        raise
            except BaseError:
                if torn is not None:  # it could not be called off either, which matters less
                    raise torn from None
                raise

    async def get(self, key: str, start: int, end: int, size: int) -> AsyncGenerator[bytes, None] | None:
        store, _ = await self._open()
        import obstore

        try:
            with _translated():
                found = await obstore.get_async(store, key, options={"range": (start, end)})
        except FileNotFoundError:
            return None
        if found.meta["size"] != size:
            return None

        async def pieces() -> AsyncGenerator[bytes, None]:
            stream = found.stream(PIECE_BYTES)
            with _translated():
                async for piece in stream:
                    yield bytes(piece)

        return pieces()

    async def delete(self, key: str) -> None:
        _, store = await self._open()
        import obstore

        try:
            with _translated():
                await obstore.delete_async(store, key)
        except FileNotFoundError:
            pass

    async def purge(self, max_age_s: int, limit: int = PURGE_BATCH) -> int:
        if not self._has_been_used():
            return 0
        _, store = await self._open()
        import obstore

        now, old = self._clock.now(), list[str]()
        with _translated():
            async for page in obstore.list(store, chunk_size=PURGE_BATCH):
                old += (
                    one["path"]
                    for one in page
                    if one["last_modified"].timestamp() < now - max_age_s and _OURS.fullmatch(one["path"])
                )
                if len(old) >= limit:
                    break
            if old:
                await obstore.delete_async(store, old)
            staged = 0
            if self._address.directory is not None:
                staged = await asyncio.to_thread(_remove_staged, self._address.directory, now - STAGED_S)
        return len(old) + staged

    async def _open(self) -> tuple[ObjectStore, ObjectStore]:
        """To read from, and to write to: a download may take long, each part of an upload may not."""
        async with self._opening:
            if self._stores is None:
                with _translated():
                    self._stores = await asyncio.to_thread(_open, self._address)
            return self._stores

    def _has_been_used(self) -> bool:
        """By anybody, as far as that can be said without opening it."""
        return self._address.directory is None or self._address.directory.exists()

    def _check_room(self) -> None:
        directory = self._address.directory
        if directory is None:
            return
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(directory).free < LEAST_FREE_BYTES:
            raise StoreFailure(f"less than {LEAST_FREE_BYTES >> 20} MiB of its disk is free")


def problem_with(address: ContentAddress) -> str:
    """What is wrong with its configuration, empty if nothing. It is not called."""
    try:
        with _translated():
            _open(address)
    except StoreFailure as failure:
        return failure.cause
    return ""


async def try_bucket(address: ContentAddress, timeout_s: float) -> str:
    """What is wrong with it, empty if nothing: whether it is there and can be listed. Nothing is written."""
    import obstore

    try:
        async with asyncio.timeout(timeout_s):
            with _translated():
                store, _ = _open(address)
                async for _page in obstore.list(store, chunk_size=1):
                    break
    except FileNotFoundError:
        return "there is no such bucket"
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except StoreFailure as failure:
        return failure.cause
    return ""


def _open(address: ContentAddress) -> tuple[ObjectStore, ObjectStore]:
    """Raises what obstore raises."""
    from obstore.store import LocalStore, from_url

    if address.directory is not None:
        address.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        local = LocalStore(address.directory)
        return local, local
    usual: ClientConfig = {"connect_timeout": timedelta(seconds=CONNECT_S)}
    if any(value.startswith("http://") for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT")):
        usual["allow_http"] = True
    patient: ClientConfig = {**usual, "timeout": timedelta(seconds=READ_S)}
    to_read = from_url(address.url, client_options=patient, retry_config={"max_retries": READ_RETRIES})
    return to_read, from_url(address.url, client_options=usual)


@contextmanager
def _translated() -> Iterator[None]:
    """Raises StoreFailure; FileNotFoundError where an object is not there; everything else as it is."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        words = str(error).strip().partition("\n")[0]
        raise StoreFailure(words[:200] or type(error).__name__) from None


def _remove_staged(directory: Path, before: float) -> int:
    """What a process that was killed while it wrote has left behind; how many."""
    count = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            match = _OURS.fullmatch(entry.name)
            if match and match["staged"] and entry.stat().st_mtime < before:
                Path(entry.path).unlink(missing_ok=True)
                count += 1
    return count
