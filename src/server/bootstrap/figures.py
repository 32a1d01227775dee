"""What parts of a worker know of themselves, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from server.bootstrap.stores import Stores
from server.domain.health import HealthView
from server.metrics.figures import Figure, Sampled
from server.metrics.meter import breakers
from server.rpc.interceptors import Guard

__all__ = ["sampled"]


def sampled(guard: Guard, stores: Stores, health: HealthView) -> Sequence[Figure]:
    ledger, database = stores.ledger, stores.database
    return (
        Sampled("aistats_requests_in_flight", "Calls under way.", read=lambda: {(): guard.under_way}),
        Sampled(
            "aistats_ledger_queue_length",
            "Reservations and settlements that wait for the database.",
            read=lambda: {(): ledger.queued},
        ),
        Sampled(
            "aistats_ledger_lost_total",
            "Settlements that were given up, and their records with them.",
            read=lambda: {(): ledger.lost},
            kind="counter",
        ),
        Sampled("aistats_database_up", "0 while the database does not answer.", read=lambda: {(): int(database.is_up)}),
        Sampled(
            "aistats_database_failures_total",
            "Reads and transactions that failed because the database did not answer.",
            read=lambda: {(): database.failures},
            kind="counter",
        ),
        Sampled(
            "aistats_breaker_state",
            "Of the provider's route that is worst off: 0 closed, 1 half open, 2 open.",
            "provider",
            read=lambda: breakers(health),
        ),
    )
