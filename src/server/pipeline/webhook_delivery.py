"""The runner of webhooks: sends what is due to whoever wants it, until it is taken or given up.

Each worker has one. Deliveries are leased from the queue, in order for each endpoint and video; what a dead worker had
leased is due again when its lease is over. An endpoint that has its share of attempts under way gets no more until some
are over, so that a slow receiver delays no other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from server.domain.errors import GatewayError
from server.domain.ports import Clock
from server.domain.webhooks import DueDelivery, Outcome, Poster, Reply, WebhookQueue
from server.pipeline.webhook_signing import signed_headers

__all__ = ["GIVE_UP_S", "WebhookRunner"]

INTERVAL_S: Final = 1.0
"""How often it is looked whether something is due: one query, where nothing is."""
LEAST_WAIT_S: Final = 0.05
MAX_AT_ONCE: Final = 128
MAX_OF_ENDPOINT: Final = 8
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


class WebhookRunner:
    """`run` it; `close` it before the queue. `draw` is a source of numbers from 0 up to 1."""

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
        batch: int = BATCH,
    ) -> None:
        self._queue = queue
        self._post = post
        self._clock = clock
        self._draw = draw
        self._lease_s = lease_s
        self._attempt_s = min(ATTEMPT_S, lease_s / 2)
        self._max_at_once = max_at_once
        self._max_of_endpoint = max_of_endpoint
        self._batch = batch
        self._under_way: dict[asyncio.Task[None], DueDelivery] = {}

    @property
    def under_way(self) -> int:
        """How many attempts are being made."""
        return len(self._under_way)

    async def run(self) -> None:
        """Deliver for ever; an outage of the database is waited for."""
        while True:
            try:
                wait_s = await self.round()
            except GatewayError:
                wait_s = INTERVAL_S  # the database is away, which `Database` has logged
            except Exception as error:  # the boundary: one delivery may not keep the others from being made
                _log.error("webhook_round_failed", cause=type(error).__name__)
                wait_s = INTERVAL_S
            await asyncio.sleep(wait_s)

    async def round(self) -> float:
        """Begin to send what is due; how many seconds until there may be more. Raises GatewayError."""
        room = min(self._batch, self._max_at_once - len(self._under_way))
        if room <= 0:
            return LEAST_WAIT_S
        to_endpoint = Counter(due.webhook_suffix for due in self._under_way.values())
        busy = [suffix for suffix, count in to_endpoint.items() if count >= self._max_of_endpoint]
        due_at, now = await self._queue.next_due(busy), self._clock.now()
        if due_at is None or due_at > now:
            return INTERVAL_S if due_at is None else min(INTERVAL_S, max(LEAST_WAIT_S, due_at - now))
        for due in await self._queue.claim(now + self._lease_s, room, busy):
            task = asyncio.create_task(self._deliver(due))
            self._under_way[task] = due
            task.add_done_callback(self._under_way.pop)
        return LEAST_WAIT_S

    async def idle(self) -> None:
        """Return once all attempts that were begun are over."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def close(self) -> None:
        """End what is under way; others take it over at once, or when the leases are over."""
        numbers = [due.number for due in self._under_way.values()]
        for task in self._under_way:
            task.cancel()
        await self.idle()
        with suppress(GatewayError):  # the leases run out by themselves
            await self._queue.release(numbers)

    async def _deliver(self, due: DueDelivery) -> None:
        try:
            outcome = await self._attempt(due)
            await self._queue.record(due, outcome)
        except GatewayError:
            return  # the database is away; the delivery is due again when the lease is over
        except Exception as error:
            _log.error("webhook_delivery_broke", id=f"evt_{due.event_suffix}", cause=type(error).__name__)
            return
        told = {"id": f"evt_{due.event_suffix}", "webhook": f"wh_{due.webhook_suffix}", "status": outcome.status}
        if outcome.state == "dead":
            _log.warning("webhook_given_up", **told, error=outcome.error)
        else:
            _log.debug("webhook_attempted", **told, error=outcome.error, state=outcome.state)

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
