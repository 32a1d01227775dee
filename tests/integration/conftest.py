"""Fixtures that every integration test may ask for."""

from __future__ import annotations

from tests.integration.databases import (
    clock,
    database,
    database_url,
    empty_database_url,
    postgres,
    postgres_url,
    sqlite_url,
)
from tests.integration.lone_worker import lone_worker, quiet_upstream
from tests.integration.valkey import valkey

__all__ = [
    "clock",
    "database",
    "database_url",
    "empty_database_url",
    "lone_worker",
    "postgres",
    "postgres_url",
    "quiet_upstream",
    "sqlite_url",
    "valkey",
]
