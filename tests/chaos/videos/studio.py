"""The stand-in providers of a run: each job goes by the plan of its number, and is remembered here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from tests.chaos.videos.plan import PRICES, FilmPlan, Provider, index_in
from tests.fakes.replies import error
from tests.fakes.video_upstream import Job, Media, Plan, VideoUpstream
from tests.fakes.wire import Pause, Reply, Request, Send, Step

POLL_AFTER_MS: Final = 400
BLOCK_BYTES: Final = 1 << 16
FOR_EVER: Final = 1 << 40

_MODEL: Final = """
  - id: chaos/{provider}
    output_types: [video]
    offers:
      - provider: {provider}
        provider_model: film
        endpoints: [video]
        price: {{video_seconds: "{price}"}}
        videos: {{seconds: [4, 8], default_seconds: 4, cancel: true, idempotent: {idempotent}}}"""


class Studio(VideoUpstream):
    """`begun` has every job that ever began, whatever became of it."""

    def __init__(self, provider: Provider, plans: Mapping[int, FilmPlan]) -> None:
        super().__init__("openai", honours_keys=provider == "keyed")
        self.provider = provider
        self.poll_after_ms = POLL_AFTER_MS
        self.begun: list[Job] = []
        self._plans = plans
        self._began_s: dict[str, float] = {}

    def answer(self, request: Request) -> Reply:
        self.requests.clear()
        self.disconnects.clear()
        known = len(self.jobs)
        reply = super().answer(request)
        if len(self.jobs) > known:
            job = list(self.jobs.values())[-1]
            self.begun.append(job)
            self._began_s[job.id] = time.monotonic()
        return reply

    def plan_for(self, asked: Mapping[str, Any]) -> Plan:
        plan = self._plan_of(asked)
        match plan.fate:
            case "refused":
                refusal = error(400, "It is against the rules.", type="invalid_request_error", code="invalid_value")
                return Plan(submit=refusal)
            case "failed":
                return Plan(polls=FOR_EVER, outcome="failed", code="video_generation_failed")
        return Plan(polls=FOR_EVER, submit="lost" if plan.fate == "lost" else "taken", media=Media(size=plan.size))

    def _poll(self, job: Job) -> Reply:
        takes_s = self._plan_of(job.asked).takes_s
        if job.ended is None and takes_s is not None and time.monotonic() >= self._began_s[job.id] + takes_s:
            job.ended = job.plan.outcome
        return super()._poll(job)

    def film(self, job: Job, start: int, end: int) -> list[Step]:
        plan = self._plan_of(job.asked)
        part, steps = plan.content[start:end], list[Step]()
        for at in range(0, len(part), BLOCK_BYTES):
            steps += [Pause(plan.pause_s), Send(part[at : at + BLOCK_BYTES])]
        return steps

    def _plan_of(self, asked: Mapping[str, Any]) -> FilmPlan:
        return self._plans[index_in(asked["prompt"])]


def config(studios: Mapping[Provider, Studio]) -> str:
    """The gateways' configuration file."""
    lines = ["replace_catalog: true", "providers:"]
    for name, studio in studios.items():
        lines.append(
            f'  - {{id: {name}, dialect: openai, base_url: "{studio.base_url}", api_key_env: CHAOS_VIDEO_KEY}}'
        )
    lines.append("models:" + "".join(_MODEL.format(
        provider=name, price=PRICES[name], idempotent=str(studio.honours_keys).lower()
    ) for name, studio in studios.items()))  # fmt: skip
    return "\n".join([*lines, "routing: {timeout_s: 10, max_attempts: 1}", ""])
