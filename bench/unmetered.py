"""The gateway with keys, reservations, settlements and the record off: what they cost is measured against this.

    python -m bench.unmetered up

It takes the command line of `aistats-gateway`. Names of the product are replaced in this process, and in the workers
that it starts, only: there is no way to run a gateway like this otherwise. Replies still hold their price.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from server import cli, up
from server.bootstrap import serving, stores
from server.domain.identity import Principal, Scope
from server.domain.ledger import Hold, Settlement
from server.pipeline import generate, settle
from server.supervisor import Plan


class NoLedger:
    """Holds nothing, keeps nothing."""

    queued = lost = 0

    def __init__(self, database: object, clock: object, worker_id: str) -> None:
        self.worker_id = worker_id

    async def reserve(self, hold: Hold) -> None: ...

    async def settle(self, settlement: Settlement) -> None: ...

    async def close(self) -> None: ...


class OneKey:
    """Takes every token for the same key."""

    def __init__(self, database: object, clock: object) -> None:
        self._principal = Principal("team", "key", frozenset(Scope))

    async def authenticate(self, token: str) -> Principal:
        return self._principal


async def _nothing(*_: object, **__: object) -> None: ...


def _nothing_at_once(*_: object) -> None: ...


def _with_unmetered_workers(*args: Any) -> Plan:
    plan = _make_plan(*args)
    workers = [
        replace(worker, argv=tuple("bench.unmetered" if word == "server" else word for word in worker.argv))
        for worker in plan.workers
    ]
    return replace(plan, workers=tuple(workers))


_make_plan = up.make_plan


def replace_all() -> None:
    """In this process."""
    for owner, name, replacement in (
        (up, "make_plan", _with_unmetered_workers),
        (up, "APP", "bench.unmetered_in_envoy:app"),
        (stores, "SqlLedger", NoLedger),
        (serving, "SqlKeyStore", OneKey),
        (generate, "admit", _nothing),
        (settle.Account, "settlement", _nothing_at_once),
        (generate.Generator, "_settle", _nothing),
    ):
        assert hasattr(owner, name), f"{name} has moved"
        setattr(owner, name, replacement)


def main() -> None:
    replace_all()
    cli.main()


if __name__ == "__main__":
    main()
