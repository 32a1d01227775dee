"""The runner of webhooks: sends what is due to whoever wants it, until it is taken or given up.

Each worker has one. Deliveries go out in order for each endpoint and video, and a slow receiver delays no other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

import structlog

from server.domain.errors import GatewayError
from server.domain.ports import Clock
from server.domain.webhooks import DueDelivery, Outcome, Poster, Reply, WebhookQueue
from server.pipeline.leased import LeasedRunner
from server.pipeline.webhook_signing import signed_headers

__all__ = ["GIVE_UP_S", "WebhookRunner"]

MAX_AT_ONCE: Final = 128
MAX_OF_ENDPOINT: Final = 8
MAX_OF_TEAM: Final = 32
BATCH: Final = 8
ATTEMPT_S: Final = 15.0
"""How long a receiver may take to answer; less where leases are shorter than two of these."""
FIRST_WAIT_S: Final = 5.0
MOST_WAIT_S: Final = 3600.0
"""Between two attempts, whatever the receiver wants."""
JITTER: Final = 0.2
"""By so much of the wait an attempt may be later, so that what failed together is not sent together."""
GIVE_UP_S: Final = 86_400.0
"""After so long a delivery is dead; its last attempt is then."""
FAILING_S: Final = 5 * 86_400.0
"""An endpoint to which nothing could be delivered for so long is disabled."""
GONE: Final = 410

Draw = Callable[[], float]

_log: Final = structlog.get_logger(__name__)


class WebhookRunner(LeasedRunner[DueDelivery]):
    """`draw` is a source of numbers from 0 up to 1."""

    def __init__(
        self,
        queue: WebhookQueue,
        post: Poster,
        clock: Clock,
        draw: Draw,
        *,
        lease_s: float,
        max_at_once: int = MAX_AT_ONCE,
        max_of_endpoint: int = MAX_OF_ENDPOINT,
        max_of_team: int = MAX_OF_TEAM,
        batch: int = BATCH,
    ) -> None:
        super().__init__(
            "webhook_delivery", clock, lease_s=lease_s, max_at_once=max_at_once, batch=batch, max_of_one=max_of_endpoint
        )
        self._queue = queue
        self._post = post
        self._draw = draw
        self._max_of_team = max_of_team
        self._attempt_s = min(ATTEMPT_S, lease_s / 2)
        self.attempts: Counter[str] = Counter()
        """By the state in which each has left its delivery."""

    async def _next_due(self, but_of: Collection[str]) -> float | None:
        return await self._queue.next_due(but_of)

    async def _claim(self, until: float, limit: int, but_of: Collection[str]) -> Sequence[DueDelivery]:
        return await self._queue.claim(until, limit, but_of)

    def _owner(self, row: DueDelivery) -> str:
        return row.webhook_suffix

    def _busy(self) -> Sequence[str]:
        """Endpoints, and teams."""
        teams = Counter(due.team_id for due in self._under_way.values())
        return [*super()._busy(), *(team for team, count in teams.items() if count >= self._max_of_team)]

    def _about(self, row: DueDelivery) -> dict[str, str]:
        return {"id": f"evt_{row.event_suffix}", "webhook": f"wh_{row.webhook_suffix}"}

    async def close(self) -> None:
        """End what is under way; others take it over at once, or when the leases are over."""
        numbers = [due.number for due in self._under_way.values()]
        await super().close()
        with suppress(GatewayError):  # the leases run out by themselves
            await self._queue.release(numbers)

    async def _look_after(self, row: DueDelivery) -> None:
        outcome = await self._attempt(row)
        await self._queue.record(row, outcome)
        self.attempts[outcome.state] += 1
        told = {**self._about(row), "status": outcome.status, "error": outcome.error}
        if outcome.state == "dead":
            _log.warning("webhook_given_up", **told)
        else:
            _log.debug("webhook_attempted", **told, state=outcome.state)

    async def _attempt(self, due: DueDelivery) -> Outcome:
        if due.disabled:
            return Outcome(state="dead", at=self._clock.now(), error="disabled")
        headers = {
            "content-type": "application/json",
            "user-agent": "aistats-gateway",
            **signed_headers(f"evt_{due.event_suffix}", due.payload, due.secrets, self._clock.now()),
        }
        try:
            async with asyncio.timeout(self._attempt_s):
                reply = await self._post(due.url, headers, due.payload)
        except TimeoutError:
            reply = Reply(None, error="timeout")
        return self._judged(due, reply)

    def _judged(self, due: DueDelivery, reply: Reply) -> Outcome:
        now, status = self._clock.now(), reply.status
        if status is not None and 200 <= status < 300:
            return Outcome(state="delivered", at=now, status=status)
        error = reply.error or ("redirect" if status is not None and 300 <= status < 400 else "refused")
        last_at = due.queued_at + GIVE_UP_S
        if status == GONE or now >= last_at:
            return Outcome(
                state="dead", at=now, status=status, error=error, disable=status == GONE, failing_s=FAILING_S
            )
        wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(due.attempts, 16))
        wait_s = max(wait_s, min(MOST_WAIT_S, reply.retry_after_s or 0.0))
        wait_s *= 1.0 + JITTER * self._draw()
        return Outcome(state="pending", at=now, status=status, error=error, due_at=min(now + wait_s, last_at))
