"""`openai`: no method of it that leads to a route here is without a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai

from tests.e2e.conformance.methods import WRONG_KEY, methods_of, standing
from tests.e2e.gateway import Gateway

PACKAGE = "openai.resources"
FILE = ("a.bin", b"x")
PLACEHOLDERS = dict.fromkeys(("file", "image", "video", "data", "recording"), FILE)

SOCKETS = {"responses.connect", "beta.responses.connect"}


def test_every_method_that_leads_to_a_route_is_shown(gateway: Gateway, add_rows: Callable[..., None]) -> None:
    with openai.OpenAI(
        api_key=WRONG_KEY, admin_api_key=WRONG_KEY, base_url=gateway.base_url, max_retries=0, timeout=10
    ) as client:
        found = standing("openai", methods_of(client, PACKAGE), PLACEHOLDERS, asks_nobody=SOCKETS)
    add_rows(found.elsewhere)
    assert not found.untested, found.untested


async def test_both_clients_have_the_same_methods() -> None:
    """So what is shown of one name is shown of both."""
    clients: list[Any] = [openai.OpenAI(api_key="x", base_url="x"), openai.AsyncOpenAI(api_key="x", base_url="x")]
    ours, others = ({name for name, _ in methods_of(client, PACKAGE)} for client in clients)
    assert ours ^ others == set()
    clients[0].close()
    await clients[1].close()
