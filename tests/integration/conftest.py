"""Fixtures that every integration test may ask for."""

from __future__ import annotations

from tests.integration.databases import clock, database, database_url, postgres, postgres_url, sqlite_url
from tests.integration.valkey import valkey

__all__ = ["clock", "database", "database_url", "postgres", "postgres_url", "sqlite_url", "valkey"]
