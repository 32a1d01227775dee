"""Clients that want their video whatever is killed: they ask again, at the other gateway, until they know its end."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.chaos.videos.plan import FilmPlan

GIVE_UP_S: Final = 300.0
"""A video that takes longer is stuck, and a violation."""
TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "expired"})
_LIMITS_S: Final = httpx.Timeout(20.0, connect=5.0)
_PAUSE_S: Final = 0.25
_POLL_S: Final = 0.7
_RETRIED: Final = frozenset({502, 503, 504})
_IN_USE: Final = "idempotency_key_in_use"


@dataclass
class Told:
    """What the client of one video was told.

    `refused` is the status of a create that was refused, `suffix` the <x> of one that was not. `statuses` are those of
    the video, each as it changed; `last` is the object as it was seen last. `unanswered` counts creates whose answer
    did not come, `retries` all calls that were made once more, `resumed` the downloads that went on where they had
    ended. `sha` is that of all the bytes. `wrong` is what should never have been said.
    """

    index: int
    suffix: str | None = None
    refused: int | None = None
    statuses: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    unanswered: int = 0
    retries: int = 0
    resumed: int = 0
    sha: str | None = None
    deleted: bool = False
    done: bool = False
    wrong: list[str] = field(default_factory=list)

    def see(self, video: dict[str, Any]) -> None:
        status = str(video["status"])
        if not self.statuses or self.statuses[-1] != status:
            self.statuses.append(status)
        self.last = video

    @property
    def ended(self) -> str | None:
        return self.statuses[-1] if self.statuses and self.statuses[-1] in TERMINAL else None


class Clients:
    """They share connections. `answers` counts those of each origin. Close it."""

    def __init__(self, origins: Sequence[str], key: str) -> None:
        self._origins = origins
        self.answers: Counter[str] = Counter()
        self._http = httpx.AsyncClient(
            timeout=_LIMITS_S,
            headers={"authorization": f"Bearer {key}"},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def subscribe(self, url: str) -> str:
        """Have the events of all videos told there; the secret that they are signed with."""
        answer = await self._ask("POST", "/v1/webhooks", Told(0), json={"url": url})
        assert answer.status_code == 201, _said(answer)
        return str(answer.json()["data"]["secret"])

    async def follow(self, plan: FilmPlan, told: Told) -> None:
        """All that the client of `plan` does; `told` is filled as it goes."""
        try:
            async with asyncio.timeout(GIVE_UP_S):
                await self._follow(plan, told)
        except TimeoutError:
            return
        told.done = True

    async def look(self, told: Told) -> None:
        """Once more, when all is quiet."""
        answer = await self._ask("GET", f"/v1/videos/{_id(told)}", told)
        if answer.status_code == 200:
            told.see(answer.json())
        elif not (told.deleted and answer.status_code == 404):
            told.wrong.append(f"looked at in the end: {_said(answer)}")

    async def ids(self) -> list[str]:
        """Every video that the team is shown, page by page."""
        found: list[str] = []
        after: Mapping[str, str] = {}
        while True:
            told = Told(-1)
            answer = await self._ask("GET", "/v1/videos", told, params={"limit": "50", **after})
            page = answer.json()
            found += [video["id"] for video in page["data"]]
            if not page["has_more"]:
                return found
            after = {"after": page["last_id"]}

    async def _follow(self, plan: FilmPlan, told: Told) -> None:
        body = {"model": plan.model, "prompt": plan.prompt, "seconds": plan.seconds}
        answer = await self._ask("POST", "/v1/videos", told, json=body, headers={"idempotency-key": plan.key})
        if answer.status_code != 202:
            told.refused = answer.status_code
            return
        told.suffix = str(answer.json()["id"]).removeprefix("video_")
        told.see(answer.json())
        cancel_at = None if plan.cancel_after_s is None else time.monotonic() + plan.cancel_after_s
        while told.ended is None:
            await asyncio.sleep(_POLL_S)
            if cancel_at is not None and time.monotonic() >= cancel_at:
                cancel_at = None
                answer = await self._ask("POST", f"/v1/videos/{_id(told)}/cancel", told)
            else:
                answer = await self._ask("GET", f"/v1/videos/{_id(told)}", told)
            if answer.status_code != 200:
                told.wrong.append(_said(answer))
                return
            told.see(answer.json())
        if told.ended == "completed":
            told.sha = await self._download(plan, told)
            if plan.is_deleted:
                await self._delete(told)

    async def _delete(self, told: Told) -> None:
        before = told.retries
        answer = await self._ask("DELETE", f"/v1/videos/{_id(told)}", told)
        told.deleted = answer.status_code == 200 or (answer.status_code == 404 and told.retries > before)
        if not told.deleted:
            told.wrong.append(f"deleting: {_said(answer)}")

    async def _download(self, plan: FilmPlan, told: Told) -> str | None:
        """The SHA-256 of all of it, in as many parts as it takes."""
        got, stops_at = bytearray(), plan.stops_at
        while len(got) < plan.size:
            headers = {"range": f"bytes={len(got)}-"} if got else {}
            origin = self._origin(told)
            try:
                async with self._http.stream(
                    "GET", f"{origin}/v1/videos/{_id(told)}/content", headers=headers
                ) as answer:
                    if answer.status_code != (206 if got else 200):
                        await answer.aread()
                        if answer.status_code not in _RETRIED:
                            told.wrong.append(f"downloading from {len(got)}: {_said(answer)}")
                            return None
                    else:
                        told.resumed += bool(got)
                        async for chunk in answer.aiter_raw():
                            got += chunk
                            if stops_at is not None and len(got) >= stops_at:
                                break
            except httpx.HTTPError:
                pass
            if len(got) < plan.size and (stops_at is None or len(got) < stops_at):
                told.retries += 1
                await asyncio.sleep(_PAUSE_S)
            stops_at = None if stops_at is not None and len(got) >= stops_at else stops_at
        return hashlib.sha256(got).hexdigest()

    async def _ask(self, method: str, path: str, told: Told, **rest: Any) -> httpx.Response:
        """Until there is an answer."""
        while True:
            origin = self._origin(told)
            try:
                answer = await self._http.request(method, origin + path, **rest)
            except httpx.HTTPError as failure:
                was_sent = not isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout)
            else:
                is_in_use = answer.status_code == 409 and answer.json().get("reason") == _IN_USE
                if answer.status_code not in _RETRIED and not is_in_use:
                    self.answers[origin] += 1
                    return answer
                was_sent = True
            told.unanswered += method == "POST" and path == "/v1/videos" and was_sent
            told.retries += 1
            await asyncio.sleep(_PAUSE_S)

    def _origin(self, told: Told) -> str:
        return self._origins[(told.index + told.retries + told.resumed) % len(self._origins)]


def _id(told: Told) -> str:
    return f"video_{told.suffix}"


def _said(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.text[:200]}"
