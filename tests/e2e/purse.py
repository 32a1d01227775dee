"""A team with credit and a key, as a test spends it and looks at what is left."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

import httpx

from tests.e2e.gateway import Gateway

PAID = "acme/test-1"
"""0.15 and 0.60 dollars a million tokens (tests/e2e/conftest.py)."""
INPUT_NANOS, OUTPUT_NANOS = 150, 600


class Purse:
    """A new team of its own; `usd` is what its wallet begins with, None for no wallet at all."""

    def __init__(self, gateway: Gateway, usd: str | None = "10.00") -> None:
        self.gateway = gateway
        self.team = f"team-{secrets.token_hex(4)}"
        gateway.create_team(self.team)
        self.key = gateway.create_key(team=self.team, scopes=("inference", "management"))
        self.headers = {"authorization": f"Bearer {self.key}"}
        if usd is not None:
            self.top_up(usd)

    def top_up(self, usd: str) -> None:
        self._run("wallet", "top-up", "--team", self.team, "--usd", usd)

    def wallet(self) -> dict[str, int]:
        shown: dict[str, int] = json.loads(self._run("wallet", "show", "--team", self.team, "--json"))
        return shown

    def balance(self) -> int:
        """What is there once nothing is reserved any more."""
        deadline = time.monotonic() + 60
        while (wallet := self.wallet())["reserved_nanos"]:
            assert time.monotonic() < deadline, wallet
            time.sleep(0.1)
        return wallet["balance_nanos"]

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.gateway.post(path, body, headers={**self.headers, **options.pop("headers", {})}, **options)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Any request, as httpx takes it."""
        return httpx.request(method, f"{self.gateway.url}{path}", headers=self.headers, timeout=60, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.gateway.get(path, headers=self.headers, **options)

    def record(self, generation_id: str) -> dict[str, Any]:
        """The record of a generation, which may be on its way where its client has gone."""
        deadline = time.monotonic() + 60
        while (reply := self.get(f"/v1/generation/{generation_id}")).status_code == httpx.codes.NOT_FOUND:
            assert time.monotonic() < deadline, generation_id
            time.sleep(0.05)
        assert reply.status_code == httpx.codes.OK, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def _run(self, *arguments: str) -> str:
        done = self.gateway.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout
