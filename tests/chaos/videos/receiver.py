"""Who is told of the videos of a run: takes what is signed, refuses some of it once, and remembers the order."""

from __future__ import annotations

import json
from collections import Counter
from typing import Final, NamedTuple

from standardwebhooks import Webhook, WebhookVerificationError

from tests.fakes.replies import error, whole
from tests.fakes.wire import Reply, Request, WireServer

REFUSED_OF: Final = 7
"""One event of so many is refused when it first comes."""


class Event(NamedTuple):
    """`subject` is the id of its video; `suffix` that of the event, which grows."""

    suffix: str
    type: str
    subject: str


class Receiver(WireServer):
    """`taken` has each event as often as it was taken; `forged` counts what was not signed. `secret` comes later."""

    def __init__(self) -> None:
        super().__init__(default=self._reply)
        self.secret = ""
        self.taken: list[Event] = []
        self.tries: Counter[str] = Counter()
        self.forged = 0

    def _reply(self, request: Request) -> Reply:
        self.requests.clear()
        self.disconnects.clear()
        try:
            headers = {name: request.header(name) or "" for name in _HEADERS}
            Webhook(self.secret).verify(request.body, headers)
        except WebhookVerificationError:
            self.forged += 1
            return error(400, "It is not signed.")
        told = json.loads(request.body)
        event = Event(told["id"].removeprefix("evt_"), told["type"], told["data"]["id"])
        self.tries[event.suffix] += 1
        if self.tries[event.suffix] == 1 and int(event.suffix[-4:], 16) % REFUSED_OF == 0:
            return error(500, "Not now.")
        self.taken.append(event)
        return whole(b"", status=204)


_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
