"""What `bench.unmetered` replaces, for workers inside Envoy: the application that their Envoy is told of."""

from __future__ import annotations

from bench.unmetered import replace_all

replace_all()

from server.in_envoy import app  # noqa: E402

__all__ = ["app"]
