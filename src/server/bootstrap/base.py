"""What all parts of a worker stand on."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import Final

import msgspec

from server.bootstrap.background import running
from server.bootstrap.stores import Stores, open_stores
from server.catalogue.load import read_catalog
from server.catalogue.watch import ReloadingCatalog
from server.clock import SystemClock, UuidV7
from server.domain.ledger import Ledger
from server.domain.ports import CatalogSource
from server.metrics.meter import Meter, MeteredLedger
from server.pipeline.shutdown import Shutdown
from server.providers.exchange import Deadlines
from server.settings import Settings
from server.spool import Spool
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.transport import Transport

__all__ = ["GOODBYE_S", "Base", "lay"]

GOODBYE_S: Final = 3.0
"""How long calls and jobs that were told to end may take to say so."""


class Base(msgspec.Struct, frozen=True):
    """`accounts` is the ledger of `stores`, measured where there is a meter."""

    settings: Settings
    clock: SystemClock
    ids: UuidV7
    shutdown: Shutdown
    catalog: CatalogSource
    stores: Stores
    meter: Meter | None
    accounts: Ledger
    transport: Transport
    deadlines: Deadlines
    spool: Spool

    @property
    def rows(self) -> tuple[Database, GroupCommit, SystemClock, str]:
        """What a store of rows that workers share begins with: the last is the worker's id."""
        return self.stores.database, self.stores.commits, self.clock, self.stores.ledger.worker_id


async def lay(stack: AsyncExitStack, settings: Settings, shutdown: Shutdown) -> Base:
    """Open until `stack` ends. Raises CatalogError, DatabaseUnusable."""
    clock, ids = SystemClock(), UuidV7()
    stores = await open_stores(stack, settings, clock, ids)
    catalog = ReloadingCatalog(lambda: read_catalog(settings.config, os.environ))
    await stack.enter_async_context(running(catalog.watch()))
    meter = None if settings.metrics_port is None else Meter(clock)
    return Base(
        settings,
        clock,
        ids,
        shutdown,
        catalog,
        stores,
        meter,
        accounts=stores.ledger if meter is None else MeteredLedger(stores.ledger, meter),
        transport=await stack.enter_async_context(Transport()),
        deadlines=Deadlines(routing=lambda: catalog.current.routing),
        spool=Spool(settings.data_dir),
    )
