"""Stand-ins for providers of videos, wire-exact and scriptable: OpenAI's shape, xAI's and the Gemini API's.

    async with VideoUpstream("openai") as upstream:
        upstream.plans.append(Plan(polls=2, outcome="failed", code="moderation_blocked"))
        ...                                     # call upstream.base_url
        assert upstream.submits == {"video_1": 1}

Jobs are kept by id, and go by the plan that was next when they began, else by `plan`. What the real ones refuse is
refused in their words. A reply that is lost is lost after the job has begun.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Literal

from tests.fakes.gemini_wire import refused as google_refusal
from tests.fakes.gemini_wire import status as google_status
from tests.fakes.replies import error, head, json_reply, whole
from tests.fakes.wire import Cut, Pause, Reply, Request, Reset, Send, Step, WireServer

__all__ = ["BLOCK", "Job", "Media", "Plan", "VideoUpstream", "media_bytes", "moved"]

Dialect = Literal["openai", "xai", "gemini"]
Outcome = Literal["completed", "failed", "filtered", "expired", "cancelled", "gone", "empty"]

KEYS: dict[str, str] = {"openai": "sk-video-canary", "xai": "xai-video-canary", "gemini": "AIzaVideoCanary0123456789"}
CREATED = 1_795_000_000
BLOCK = bytes(range(256)) * 256
"""64 KiB; content is as many of them as it takes."""

_FIELDS = {
    "openai": {"model", "prompt", "seconds", "size", "input_reference", "seed", "negative_prompt", "resolution",
               "aspect_ratio", "style"},
    "xai": {"model", "prompt", "duration", "aspect_ratio", "resolution", "image", "user"},
}  # fmt: skip
_PARAMETERS = {"aspectRatio", "durationSeconds", "resolution", "negativePrompt", "personGeneration", "seed"}


@dataclass(frozen=True)
class Media:
    """What is there to download.

    `cut_at`: the connection is closed after so many bytes of it. `location`: where it has moved to. `gate`: played
    before the bytes that come after the first block.
    """

    size: int = 1_000
    media_type: str = "video/mp4"
    ranges: bool = True
    cut_at: int | None = None
    location: str | None = None
    gate: Step | None = None


@dataclass(frozen=True)
class Plan:
    """The life of one job.

    `polls`: how often it is not done yet, and `word` what is said then; `trouble` is answered before that. `slow_s`:
    how long each answer to a poll takes. `submit`: `lost` and `reset` begin the job and close the connection (FIN,
    RST); a `Reply` is answered, and begins none.
    """

    polls: int = 1
    outcome: Outcome = "completed"
    word: str = "in_progress"
    code: str | int | None = None
    message: str = "It could not be made."
    trouble: tuple[Reply, ...] = ()
    slow_s: float = 0.0
    submit: Literal["taken", "lost", "reset"] | Reply = "taken"
    media: Media = Media()


@dataclass
class Job:
    id: str
    key: str
    plan: Plan
    asked: dict[str, Any]
    polled: int = 0
    ended: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)


class VideoUpstream(WireServer):
    """`submits` counts by idempotency key, or by prompt where none came. `honours_keys`: a key begins one job only.

    `files_origin`: where it says that its files are; itself where that is None. `poll_after_ms`: when to ask again, as
    OpenAI's API says it. What jobs there are and what they make is up to `plan_for` and `film`.
    """

    def __init__(
        self, dialect: Dialect = "openai", plan: Plan | None = None, *, port: int = 0, honours_keys: bool = False
    ) -> None:
        super().__init__(default=self.answer, port=port)
        self.dialect = dialect
        self.plan = plan or Plan()
        self.plans: deque[Plan] = deque()
        self.jobs: dict[str, Job] = {}
        self.submits: Counter[str] = Counter()
        self.honours_keys = honours_keys
        self.files_origin: str | None = None
        self.poll_after_ms: int | None = None
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> VideoUpstream:
        await super().__aenter__()
        return self

    @property
    def base_url(self) -> str:
        return f"{self.origin}/{'v1beta' if self.dialect == 'gemini' else 'v1'}"

    @property
    def key(self) -> str:
        return KEYS[self.dialect]

    def plan_for(self, asked: Mapping[str, Any]) -> Plan:
        """Of the next job that begins."""
        return self.plans.popleft() if self.plans else self.plan

    def film(self, job: Job, start: int, end: int) -> list[Step]:
        """Send that part of what was made."""
        return [Send(piece) for piece in _pieces(start, end)]

    def answer(self, request: Request) -> Reply:
        path, _, query = request.path.partition("?")
        if path.startswith("/files/"):
            return self._file(request, path.rpartition("/")[2].removesuffix(".mp4"))
        if self._key_of(request) != self.key:
            return self._refused(401, "UNAUTHENTICATED", "Incorrect API key provided.", "invalid_api_key")
        steps = path.strip("/").split("/")[1:]
        if self.dialect == "gemini":
            return self._gemini(request, steps, query)
        return self._videos(request, steps, query)

    # OpenAI's shape, and xAI's.

    def _videos(self, request: Request, steps: list[str], query: str) -> Reply:
        begins = ["videos"] if self.dialect == "openai" else ["videos", "generations"]
        if request.method == "POST" and steps == begins:
            return self._begin(request)
        job = self.jobs.get(steps[1]) if steps[0] == "videos" and len(steps) > 1 else None
        if job is None or job.plan.outcome == "gone":
            return self._refused(404, "NOT_FOUND", "Video not found.", "not_found")
        match request.method, steps[2:]:
            case "GET", []:
                return self._poll(job)
            case "POST", ["remix"] if self.dialect == "openai":
                return self._begin(request, remixed=job.id)
            case "POST", ["cancel"] if self.dialect == "openai":
                if job.ended is not None:
                    return self._refused(409, "", "The video has ended.", "invalid_state")
                job.ended = "cancelled"
                return json_reply(self._told(job))
            case "DELETE", [] if self.dialect == "openai":
                del self.jobs[job.id]
                return json_reply({"id": job.id, "object": "video.deleted", "deleted": True})
            case "GET", ["content"] if self.dialect == "openai" and job.ended == "completed":
                variant = query.partition("variant=")[2] or "video"
                return self._content(request, job, media_type=_TYPES[variant])
        return self._refused(404, "NOT_FOUND", "Not found.", "not_found")

    def _told(self, job: Job) -> dict[str, Any]:
        told: dict[str, Any] = {
            "id": job.id, "object": "video", "created_at": CREATED, "model": job.asked.get("model"), "error": None,
            "status": "queued", "progress": 0, "seconds": job.asked.get("seconds", "4"),
            "size": job.asked.get("size", "720x1280"), "completed_at": None, "expires_at": None,
            "remixed_from_video_id": job.asked.get("remixed"),
        }  # fmt: skip
        if job.ended == "completed":
            told |= {"status": "completed", "progress": 100, "expires_at": CREATED + 3600, "completed_at": CREATED + 9}
        elif job.ended is not None:
            filtered = job.ended == "filtered"
            code = job.plan.code or ("moderation_blocked" if filtered else "video_generation_failed")
            told["status"] = "failed" if filtered else job.ended
            told["error"] = {"code": code, "message": job.plan.message}
        elif job.polled:
            told |= {"status": job.plan.word, "progress": 100 * job.polled // (job.plan.polls + 1)}
        return told

    def _told_xai(self, job: Job) -> Reply:
        if job.ended is None:
            return json_reply({"status": "pending", "progress": job.polled}, status=202)
        if job.ended in ("failed", "expired"):
            return json_reply({"status": job.ended, "error": {"code": job.plan.code, "message": job.plan.message}})
        video = {
            "url": f"{self.files_origin or self.origin}/files/{job.id}.mp4",
            "duration": job.asked.get("duration", 6),
            "respect_moderation": job.ended != "filtered",
        }
        told = {"status": "done", "model": job.asked.get("model"), "usage": {"cost_in_usd_ticks": 3_000_000_001}}
        return json_reply(told if job.ended == "empty" else {**told, "video": video})

    # The Gemini API.

    def _gemini(self, request: Request, steps: list[str], query: str) -> Reply:
        last, _, verb = steps[-1].partition(":")
        if request.method == "POST" and verb == "predictLongRunning":
            return self._begin(request, model=last)
        if request.method == "GET" and steps[0] == "files" and verb == "download" and query == "alt=media":
            return self._file(request, last)
        job = self.jobs.get("/".join(steps))
        if request.method != "GET" or job is None or job.plan.outcome == "gone":
            return self._refused(404, "NOT_FOUND", "Operation not found.", "")
        return self._poll(job)

    def _operation(self, job: Job) -> dict[str, Any]:
        told: dict[str, Any] = {"name": job.id}
        match job.ended:
            case None:
                return told if job.polled % 2 else {**told, "done": False}
            case "failed" | "expired" | "cancelled":
                code = 1 if job.ended == "cancelled" else job.plan.code or 13
                return {**told, "done": True, "error": {"code": code, "message": job.plan.message}}
            case "filtered":
                made: dict[str, Any] = {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": [job.plan.message]}
            case "empty":
                made = {}
            case _:
                file = job.id.rpartition("/")[2]
                uri = f"{self.files_origin or self.origin}/v1beta/files/{file}:download?alt=media"
                made = {"generatedSamples": [{"video": {"uri": uri}}]}
        kind = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse"
        return {**told, "done": True, "response": {"@type": kind, "generateVideoResponse": made}}

    # What all of them do.

    def _begin(self, request: Request, *, model: str = "", remixed: str | None = None) -> Reply:
        asked, files = _asked(request)
        complaint = next(self._complaints(asked, remixed), None)
        prompt = asked["instances"][0]["prompt"] if self.dialect == "gemini" and not complaint else asked.get("prompt")
        key = request.header("idempotency-key") or str(prompt)
        self.submits[key] += 1
        if complaint is not None:
            return self._refused(400, "INVALID_ARGUMENT", complaint, "invalid_value")
        known = next((job for job in self.jobs.values() if job.key == key), None) if self.honours_keys else None
        job = known
        if job is None:
            plan = self.plan_for(asked)
            if not isinstance(plan.submit, str):
                return plan.submit
            number = next(self._numbers)
            name = f"models/{model}/operations/op{number}" if self.dialect == "gemini" else f"native_{number}"
            job = Job(name, key, plan, {**asked, "remixed": remixed}, files=files)
            self.jobs[name] = job
            if plan.submit != "taken":
                return [Cut() if plan.submit == "lost" else Reset()]
        match self.dialect:
            case "openai":
                return json_reply(self._told(job), headers=self._hint())
            case "xai":
                return json_reply({"request_id": job.id})
            case "gemini":
                return json_reply({"name": job.id})

    def _hint(self) -> dict[str, str]:
        return {} if self.poll_after_ms is None else {"openai-poll-after-ms": str(self.poll_after_ms)}

    def _complaints(self, asked: dict[str, Any], remixed: str | None) -> Iterator[str]:
        if self.dialect == "gemini":
            yield from (f'Unknown name "{name}"' for name in asked.keys() - {"instances", "parameters"})
            yield from (f"`{name}` isn't supported." for name in asked.get("parameters", {}).keys() - _PARAMETERS)
            if not isinstance(asked.get("parameters", {}).get("durationSeconds", 8), int):
                yield "durationSeconds needs to be a number."
            for instance in asked["instances"]:
                yield from (f"`{name}` isn't supported." for name in instance.keys() - {"prompt", "image"})
                if instance.get("image", {"mimeType": "", "bytesBase64Encoded": ""}).keys() != _IMAGE:
                    yield "`inlineData` isn't supported by this model."
            return
        known = {"prompt"} if remixed is not None else _FIELDS[self.dialect]
        yield from (f"Unknown parameter: '{name}'." for name in asked.keys() - known)
        if "prompt" not in asked:
            yield "Missing required parameter: 'prompt'."
        if not isinstance(asked.get("seconds", ""), str):
            yield "Invalid type for 'seconds': expected a string."
        if not isinstance(asked.get("duration", 1), int):
            yield "Invalid type for 'duration': expected an integer."

    def _poll(self, job: Job) -> Reply:
        job.polled += 1
        trouble = job.plan.trouble
        if job.polled <= len(trouble):
            return trouble[job.polled - 1]
        if job.ended is None and job.polled > len(trouble) + job.plan.polls:
            job.ended = job.plan.outcome
        match self.dialect:
            case "openai":
                reply = json_reply(self._told(job), headers=self._hint())
            case "xai":
                reply = self._told_xai(job)
            case "gemini":
                reply = json_reply(self._operation(job))
        return [Pause(job.plan.slow_s), *reply] if job.plan.slow_s else reply

    def _file(self, request: Request, name: str) -> Reply:
        job = next((job for job in self.jobs.values() if job.id.rpartition("/")[2] == name), None)
        return whole(b"<Error/>", status=403, content_type="application/xml") if job is None else (
            self._content(request, job)
        )  # fmt: skip

    def _content(self, request: Request, job: Job, *, media_type: str | None = None) -> Reply:
        media = job.plan.media
        if media.location is not None:
            return moved(media.location)
        wanted = request.header("range") if media.ranges else None
        start, end = _range(wanted, media.size)
        if start >= media.size:
            return [head(416, {"content-range": f"bytes */{media.size}", "content-length": "0"})]
        headers = {
            "content-type": media_type or media.media_type,
            "content-length": str(end - start),
            "etag": f'"{job.id.rpartition("/")[2]}"',
            "server": "stand-in",
            "set-cookie": "a=b",
        }
        if media.ranges:
            headers["accept-ranges"] = "bytes"
        if wanted is not None:
            headers["content-range"] = f"bytes {start}-{end - 1}/{media.size}"
        until = end if media.cut_at is None else min(end, media.cut_at)
        steps = self.film(job, start, until)
        if media.gate is not None:
            steps.insert(1, media.gate)
        return [head(206 if wanted is not None else 200, headers), *steps, *([Cut()] if until < end else [])]

    def _key_of(self, request: Request) -> str | None:
        if self.dialect == "gemini":
            return request.header("x-goog-api-key")
        return (request.header("authorization") or "").removeprefix("Bearer ")

    def _refused(self, status: int, word: str, message: str, code: str) -> Reply:
        if self.dialect == "gemini":
            return google_refusal(google_status(status, word, message))
        return error(status, message, type="invalid_request_error", code=code)


_TYPES = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}
_IMAGE = {"mimeType", "bytesBase64Encoded"}


def moved(location: str, status: int = 302) -> Reply:
    return [head(status, {"location": location, "content-length": "0"})]


def media_bytes(size: int, start: int = 0) -> bytes:
    """The content from `start` to `size`."""
    return (BLOCK * (size // len(BLOCK) + 1))[start:size]


def _pieces(start: int, end: int) -> Iterator[bytes]:
    while start < end:
        at = start % len(BLOCK)
        piece = BLOCK if at == 0 and end - start >= len(BLOCK) else BLOCK[at : at + end - start]
        yield piece
        start += len(piece)


def _range(wanted: str | None, size: int) -> tuple[int, int]:
    """From and up to, of a single range."""
    if wanted is None:
        return 0, size
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _asked(request: Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The fields of a body of either kind, and its files."""
    content_type = request.header("content-type") or ""
    if not content_type.startswith("multipart/form-data"):
        return json.loads(request.body), {}
    parsed = BytesParser(policy=HTTP).parsebytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + request.body)
    fields: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for part in parsed.iter_parts():
        name, data = str(part.get_param("name", header="content-disposition")), part.get_payload(decode=True)
        assert isinstance(data, bytes)
        if part.get_filename() is None:
            fields[name] = data.decode()
        else:
            files[name] = data
    return fields, files
