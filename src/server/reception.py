"""Takes calls in: gives each its ids and times, and finds out who is calling. The log lines of a call carry both."""

from __future__ import annotations

from server.domain.identity import Arrival, Call, Scope
from server.domain.ports import Clock, IdSource
from server.logs import log_always
from server.pipeline.authenticate import Authenticate

__all__ = ["FrontDesk"]


class FrontDesk:
    """Implements `server.domain.ports.Reception`, for calls that have a task of their own."""

    def __init__(self, authenticate: Authenticate, ids: IdSource, clock: Clock) -> None:
        self._authenticate = authenticate
        self._ids = ids
        self._clock = clock

    def arrive(
        self,
        *,
        suffix: str | None = None,
        request_id: str | None = None,
        deadline_in_s: float | None = None,
        client: str = "",
    ) -> Arrival:
        suffix = suffix or self._ids.new()
        received_s = self._clock.monotonic()
        arrival = Arrival(
            suffix=suffix,
            request_id=request_id or suffix,
            received_s=received_s,
            created_at=int(self._clock.now()),
            deadline_s=None if deadline_in_s is None else received_s + deadline_in_s,
            client=client,
        )
        log_always(request_id=arrival.request_id, generation_id=arrival.generation_id, team_id=None, key_id=None)
        return arrival

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        principal = await self._authenticate(authorization, scope, arrival.client)
        log_always(team_id=principal.team_id, key_id=principal.key_id)
        return Call(arrival, principal)
