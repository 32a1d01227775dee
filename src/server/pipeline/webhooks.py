"""The webhooks of a team, as keys with the scope `management` manage them: what is asked for is checked field by field.

Fields are named as in JSON; typed clients have the same names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET

from server.domain import limits
from server.domain.client_urls import check_client_url
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Call
from server.domain.keys import DEFAULT_OVERLAP_S, MAX_OVERLAP_S, Actor
from server.domain.ports import Clock
from server.domain.webhooks import (
    DELIVERY_STATES,
    EVENT_TYPES,
    Delivery,
    IssuedWebhook,
    NewWebhook,
    Webhook,
    WebhookChanges,
    WebhookStore,
)

__all__ = ["DeliveryPage", "Webhooks"]

MAX_DESCRIPTION_CHARS: Final = 200
MAX_REPLAYED: Final = 1000
"""Deliveries that one call queues."""

_ID: Final = re.compile(r"wh_([0-9a-f]{32})")
_EVENT: Final = re.compile(r"(?:whd|evt)_([0-9a-f]{32})")


class DeliveryPage(msgspec.Struct, frozen=True):
    """Deliveries, the newest first. `next_cursor` is the `after` of the next page; None where there is none."""

    deliveries: Sequence[Delivery]
    limit: int
    next_cursor: str | None


class Webhooks:
    """Another team's webhooks do not exist.

    `allow_http`, `allow_private`: whether an endpoint may be without TLS, and on this machine or in a private network.
    """

    def __init__(self, store: WebhookStore, clock: Clock, *, allow_http: bool, allow_private: bool) -> None:
        self._store = store
        self._clock = clock
        self._allow_http = allow_http
        self._allow_private = allow_private

    def now(self) -> float:
        """Seconds since 1970, by which it is told whether the secret before still signs."""
        return self._clock.now()

    async def create(self, call: Call, new: NewWebhook) -> IssuedWebhook:
        """Raises GatewayError naming the field that is wrong, `too_many_webhooks`."""
        if not new.url:
            raise limits.missing_field("url")
        self._check_url(new.url)
        _check_events(new.events)
        _check_description(new.description)
        return await self._store.create(_actor(call), new)

    async def get(self, call: Call, webhook_id: str) -> Webhook:
        """Raises GatewayError (`resource_not_found`)."""
        return _found(await self._store.get(call.principal.team_id, _suffix(webhook_id)))

    async def list(self, call: Call) -> Sequence[Webhook]:
        """All of the team's, the oldest first."""
        return await self._store.list(call.principal.team_id)

    async def change(self, call: Call, webhook_id: str, changes: WebhookChanges) -> Webhook:
        """Raises GatewayError naming the field that is wrong, `resource_not_found`."""
        if changes.url is not UNSET:
            self._check_url(changes.url)
        if changes.events is not UNSET:
            _check_events(changes.events)
        if changes.description is not UNSET:
            _check_description(changes.description)
        return _found(await self._store.change(_actor(call), _suffix(webhook_id), changes))

    async def rotate(self, call: Call, webhook_id: str, overlap_s: int | None = None) -> IssuedWebhook:
        """Raises GatewayError: `invalid_value`, `resource_not_found`."""
        overlap_s = DEFAULT_OVERLAP_S if overlap_s is None else overlap_s
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise limits.invalid_value("overlap_s", f"must be from 0 to {MAX_OVERLAP_S}, not {overlap_s}")
        issued = await self._store.rotate(_actor(call), _suffix(webhook_id), overlap_s)
        if issued is None:
            raise _not_found()
        return issued

    async def delete(self, call: Call, webhook_id: str) -> None:
        """Raises GatewayError (`resource_not_found`)."""
        if not await self._store.delete(_actor(call), _suffix(webhook_id)):
            raise _not_found()

    async def test(self, call: Call, webhook_id: str) -> Delivery:
        """Queue an event that says nothing. Raises GatewayError: `resource_not_found`, `not_ready`."""
        return _delivery(await self._store.test(call.principal.team_id, _suffix(webhook_id)))

    async def deliveries(
        self,
        call: Call,
        webhook_id: str,
        *,
        state: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> DeliveryPage:
        """Raises GatewayError: `invalid_value`, `resource_not_found`."""
        limit, cursor = limits.page_size(limit), None
        if state is not None:
            limits.check_choice(state, DELIVERY_STATES, "state")
        wanted = next((one for one in DELIVERY_STATES if one == state), None)
        if after is not None:
            match = _EVENT.fullmatch(after)
            if match is None:
                raise limits.invalid_value("after", "must be the id of a delivery, whd_<x>")
            cursor = match[1]
        found = await self._store.deliveries(
            call.principal.team_id, _suffix(webhook_id), state=wanted, after=cursor, limit=limit + 1
        )
        if found is None:
            raise _not_found()
        page = found[:limit]
        return DeliveryPage(page, limit, page[-1].id if len(found) > limit else None)

    async def replay(self, call: Call, webhook_id: str, delivery_id: str) -> Delivery:
        """Send it once more. By its id or its event's. Raises GatewayError: `resource_not_found`, `not_ready`."""
        match = _EVENT.fullmatch(delivery_id)
        if match is None:
            raise _no_delivery()
        delivery = await self._store.replay(call.principal.team_id, _suffix(webhook_id), match[1])
        if delivery is None:
            raise _no_delivery()
        return delivery

    async def replay_dead(self, call: Call, webhook_id: str, since: int) -> int:
        """Send what died of events since then once more, MAX_REPLAYED at most; how many.

        Raises GatewayError: `resource_not_found`, `not_ready`.
        """
        count = await self._store.replay_dead(call.principal.team_id, _suffix(webhook_id), since, MAX_REPLAYED)
        if count is None:
            raise _not_found()
        return count

    def _check_url(self, url: str) -> None:
        check_client_url(url, "url", allow_http=self._allow_http, allow_private=self._allow_private)


def _check_events(events: tuple[str, ...] | None) -> None:
    if events is None:
        return
    if not events:
        raise limits.invalid_value("events", "must have at least one entry, or be null for all")
    for index, type_ in enumerate(events):
        limits.check_choice(type_, EVENT_TYPES, f"events[{index}]")
        if type_ in events[:index]:
            raise limits.invalid_value(f"events[{index}]", "stands there twice")


def _check_description(description: str) -> None:
    if len(description) > MAX_DESCRIPTION_CHARS or (description and not description.isprintable()):
        raise limits.invalid_value("description", f"must be at most {MAX_DESCRIPTION_CHARS} printable characters")


def _actor(call: Call) -> Actor:
    return Actor(call.principal.key_id, call.principal.team_id, call.arrival.request_id)


def _suffix(webhook_id: str) -> str:
    match = _ID.fullmatch(webhook_id)
    if match is None:
        raise _not_found()
    return match[1]


def _found(webhook: Webhook | None) -> Webhook:
    if webhook is None:
        raise _not_found()
    return webhook


def _delivery(delivery: Delivery | None) -> Delivery:
    if delivery is None:
        raise _not_found()
    return delivery


def _not_found() -> GatewayError:
    return GatewayError(Reason.RESOURCE_NOT_FOUND, "There is no such webhook.")


def _no_delivery() -> GatewayError:
    return GatewayError(Reason.RESOURCE_NOT_FOUND, "There is no such delivery.")
