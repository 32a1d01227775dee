"""Keeping the catalogue current: when a file behind it changes, it is read again; a bad file changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import structlog

from server.catalogue.problems import CatalogError, LoadedCatalog, Mark, mark_of
from server.domain.catalog import Catalog

POLL_INTERVAL_S: Final = 0.5

_log = structlog.get_logger(__name__)


class ReloadingCatalog:
    """The catalogue as of now. The first load happens here and raises CatalogError.

    `load` reads everything anew and may block; it runs in a thread from then on. A changed file is read once it has
    been left alone for one interval, so that half of a file that an editor is writing is never taken for all of it.
    """

    def __init__(self, load: Callable[[], LoadedCatalog], *, poll_interval_s: float = POLL_INTERVAL_S) -> None:
        self._load = load
        self._poll_interval_s = poll_interval_s
        self._failing = False
        loaded = load()
        self._current = loaded.catalog
        self._read = loaded.files
        _warn(loaded.catalog)

    @property
    def current(self) -> Catalog:
        """The catalogue as of now; the same object until a file changes."""
        return self._current

    async def watch(self) -> None:
        """Poll until cancelled: one task of each worker's."""
        previous = self._read
        while True:
            await asyncio.sleep(self._poll_interval_s)
            marks = await asyncio.to_thread(_marks, self._read)
            settled, previous = marks == previous, marks
            if settled and marks != self._read:
                await self._reload(marks)
                previous = self._read

    async def _reload(self, marks: Mapping[Path, Mark]) -> None:
        """Read anew. What could not be read is not tried again before another change, so it is logged once."""
        try:
            loaded = await asyncio.to_thread(self._load)
        except CatalogError as error:
            self._read, self._failing = error.files, True
            _log.error("catalogue_rejected", problems=[str(problem) for problem in error.problems])
        except Exception:  # a boundary: the gateway goes on with the catalogue that it has
            self._read, self._failing = marks, True
            _log.exception("catalogue_rejected")
        else:
            self._current, self._read = loaded.catalog, loaded.files
            recovered, self._failing = self._failing, False
            _log.info("catalogue_reloaded", models=len(loaded.catalog.models), recovered=recovered)
            _warn(loaded.catalog)


def _warn(catalog: Catalog) -> None:
    exposed = [provider.id for provider in catalog.providers.values() if provider.sends_key_in_clear]
    if exposed:
        _log.warning("keys_sent_in_clear", providers=exposed, advice="use https in their base_url")


def _marks(files: Iterable[Path]) -> dict[Path, Mark]:
    return {path: mark_of(path) for path in files}
