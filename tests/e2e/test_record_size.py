"""How much of the database one request takes, however large it is."""

from __future__ import annotations

import base64
import sqlite3
from contextlib import closing
from typing import Any, Final

import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.purse import Purse
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import error

MAX_ROW_BYTES: Final = 16 * 1024
MODEL: Final = "acme/test-1"
CONTENTS: Final = {"generation_contents", "responses", "idempotency_keys"}
"""Tables of what was said, for those who asked for that."""
WORKERS: Final = {"health_reports"}
"""Tables whose rows are as large as the catalogue."""
LONG: Final = "a long prompt, " * (1024 * 1024 // 15)
IMAGE: Final = base64.b64encode(bytes(20 * 1024 * 1024)).decode()

CHAT: Final = "/v1/chat/completions"
MESSAGES: Final = "/v1/messages"
REQUESTS: Final[dict[str, tuple[str, list[dict[str, Any]]]]] = {
    "prompt": (CHAT, [{"type": "text", "text": LONG}]),
    "image": (CHAT, [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}]),
    "prompt to messages": (MESSAGES, [{"type": "text", "text": LONG}]),
    "image to messages": (
        MESSAGES,
        [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}}],
    ),
}


def body(content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": content}]}


def largest_rows(gateway: Gateway) -> dict[str, int]:
    """By table, how many bytes its largest row holds."""
    with closing(sqlite3.connect(gateway.directory / "data" / "gateway.db")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        sizes = {}
        for table in set(tables) - CONTENTS - WORKERS:
            columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
            row = " + ".join(f'coalesce(length(CAST("{column}" AS BLOB)), 0)' for column in columns)
            [sizes[table]] = connection.execute(f'SELECT coalesce(max({row}), 0) FROM "{table}"').fetchone()
    return sizes


@pytest.fixture(scope="module", params=["off", "on"], ids=["", "content is kept"])
def purse(request: pytest.FixtureRequest, gateway: Gateway) -> Purse:
    purse = Purse(gateway, "1000.00")
    assert gateway.run("teams", "set", purse.team, "--store-content", request.param).returncode == 0
    return purse


@pytest.mark.parametrize("fails", [False, True], ids=["well", "refused with its own words"])
@pytest.mark.parametrize("kind", REQUESTS)
def test_o5_a_record_is_small_however_large_its_request(
    gateway: Gateway, purse: Purse, acme: UpstreamThread, kind: str, fails: bool
) -> None:
    path, content = REQUESTS[kind]
    if fails:
        acme.script(error(400, LONG))
    reply = purse.post(path, body(content), headers={"x-request-id": "r" * 64})
    assert reply.status_code == (400 if fails else 200), reply.text[:1000]
    record = purse.record(reply.headers["x-generation-id"])
    assert record["success"] is not fails
    sizes = largest_rows(gateway)
    assert sizes["generations"] > 300
    assert {table: size for table, size in sizes.items() if size >= MAX_ROW_BYTES} == {}
