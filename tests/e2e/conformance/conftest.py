"""The clients of `openai`, and what tests say for the table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import astuple
from typing import Any

import openai
import pytest

from tests.e2e.conformance.both import got
from tests.e2e.conformance.cases import Row
from tests.e2e.gateway import Gateway


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "conformance(sdk, methods, refused): what lines of the table are about")


@pytest.fixture(params=["sync", "async"])
async def client(request: pytest.FixtureRequest, gateway: Gateway) -> AsyncIterator[Any]:
    """Each of the two of `openai`."""
    kind = openai.OpenAI if request.param == "sync" else openai.AsyncOpenAI
    client = kind(api_key=gateway.key, base_url=gateway.base_url, max_retries=0, timeout=60)
    yield client
    await got(client.close())


@pytest.fixture
def add_rows(record_property: Callable[[str, object], None]) -> Callable[[Iterable[Row]], None]:
    """Puts lines into the table that are not about a test's own outcome."""
    # As plain values: they may come from another process.
    return lambda rows: record_property("rows", [astuple(row) for row in rows])
