"""The Responses surface over REST, between a scripted pipeline, a store in memory and a client's own transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import httpx
import msgspec

from rest_bridge.app import RestApp
from rest_bridge.http import RestRequest, RestResponse
from rest_bridge.responses import ResponsesRest
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Arrival, Call, Principal, Scope
from server.domain.stored import StoredResponse
from server.pipeline.respond import Respond
from tests.fakes.rest import ScriptedGenerate, pieces_of

TEAMS = {"Bearer key-of-team-1": "team-1", "Bearer key-of-team-2": "team-2"}


class FixedClock:
    def now(self) -> float:
        return 1_790_000_002.9

    def monotonic(self) -> float:
        return 1.0


class MemoryStore:
    """A `server.domain.ports.ResponseStore`. `fails_with` is raised by the next `put`."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], StoredResponse] = {}
        self.asked: list[str] = []
        self.fails_with: GatewayError | None = None

    async def put(self, response: StoredResponse) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        # As a database would: what comes back has been JSON.
        copy = msgspec.json.decode(msgspec.json.encode(response), type=StoredResponse)
        self.kept[response.team_id, response.suffix] = copy

    async def get(self, team_id: str, suffix: str) -> StoredResponse | None:
        self.asked.append(suffix)
        return self.kept.get((team_id, suffix))

    async def delete(self, team_id: str, suffix: str) -> bool:
        self.asked.append(suffix)
        return self.kept.pop((team_id, suffix), None) is not None


class TwoTeams:
    """A reception that gives each call a new suffix and knows a key of either team."""

    def __init__(self, teams: Mapping[str, str]) -> None:
        self._calls = 0
        self._teams = teams

    def arrive(
        self,
        *,
        suffix: str | None = None,
        request_id: str | None = None,
        deadline_in_s: float | None = None,
        client: str = "",
    ) -> Arrival:
        self._calls += 1
        return Arrival(f"{self._calls:032x}", request_id or "req-1", 1.0, 1_790_000_000)

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        team = self._teams.get(authorization or "")
        if team is None:
            raise GatewayError(Reason.INVALID_API_KEY, "The API key is missing or not valid.")
        return Call(arrival, Principal(team, f"key-of-{team}", frozenset({scope})))


class RestHost(httpx.AsyncBaseTransport):
    """Carries an HTTP client's requests to a `RestApp` and its responses back, streamed as they come."""

    def __init__(self, respond: Respond, *, ping_interval_s: float = 15.0, teams: Mapping[str, str] = TEAMS) -> None:
        self._reception = TwoTeams(teams)
        self._app = RestApp(self._reception, ResponsesRest(respond, ping_interval_s=ping_interval_s).routes())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._app(
            RestRequest(
                method=request.method,
                path=request.url.raw_path.partition(b"?")[0].decode(),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=pieces_of(await request.aread()),
                arrival=self._reception.arrive(),
                query={name: tuple(request.url.params.get_list(name)) for name in request.url.params},
            )
        )
        stream = _Body(response)
        return httpx.Response(response.status, headers=list(response.headers), stream=stream)

    def client(self, team: int = 1) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer key-of-team-{team}"}
        return httpx.AsyncClient(transport=self, base_url="http://gateway.test/v1", headers=headers)


class ScriptedHost(RestHost):
    """The same with a pipeline that plays scripts, and a store in memory."""

    def __init__(self, generate: ScriptedGenerate, *, ping_interval_s: float = 15.0) -> None:
        self.generate = generate
        self.store = MemoryStore()
        super().__init__(Respond(generate, self.store, FixedClock()), ping_interval_s=ping_interval_s)

    def says(self, *steps: Any) -> None:
        """What the pipeline plays from now on."""
        self.generate.steps = steps


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: RestResponse) -> None:
        self._body = response.body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if isinstance(self._body, bytes):
            yield self._body
            return
        async with aclosing(self._body) as pieces:
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        if not isinstance(self._body, bytes):
            await self._body.aclose()
