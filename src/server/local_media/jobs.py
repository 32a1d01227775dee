"""Jobs of videos: kept as files, made one after another, and begun anew where the process died over them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal

import msgspec

from server.domain.ports import Clock, IdSource
from server.local_media.refusal import Refused, bad_request
from server.local_media.workers import WorkFailed, work

__all__ = ["ENDED", "MAX_QUEUED", "Job", "Jobs", "Status"]

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
ENDED: Final = ("completed", "failed", "cancelled")
MAX_QUEUED: Final = 256
MAX_JOBS: Final = 2000
MAX_KEPT_BYTES: Final = 1 << 30
"""Of all videos that are done; the oldest make room."""
KEPT_S: Final = 24 * 3600
"""How long one that has ended is kept."""
MAX_ATTEMPTS: Final = 3
SWEEP_S: Final = 600.0
_ID: Final = re.compile(r"video_[0-9a-f]{32}")
_RECORD: Final = "job.json"
_REFERENCE: Final = "reference"


class Failure(msgspec.Struct, frozen=True):
    """Why a job failed, for its client."""

    code: str
    message: str


class Job(msgspec.Struct, kw_only=True):
    """One video. `key` is what it was asked for under; `attempts` counts how often it was begun."""

    id: str
    prompt: str
    seconds: int
    size: tuple[int, int]
    seed: int
    created_at: int
    status: Status = "queued"
    progress: int = 0
    attempts: int = 0
    has_reference: bool = False
    remix_of: str | None = None
    key: str | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    error: Failure | None = None


_decoder: Final = msgspec.json.Decoder(Job)


class Jobs:
    """All of them. `run` makes them; everything else returns at once. One event loop only."""

    def __init__(self, directory: Path, clock: Clock, ids: IdSource) -> None:
        self._directory = directory
        self._clock = clock
        self._ids = ids
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[str, str] = {}
        self._wake = asyncio.Event()
        self._making: tuple[str, asyncio.Task[None]] | None = None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._load()

    def _load(self) -> None:
        """What is unreadable or half written is removed; what was being made is queued again."""
        found = []
        for place in self._directory.iterdir():
            try:
                job = _decoder.decode((place / _RECORD).read_bytes())
            except (OSError, msgspec.MsgspecError):
                shutil.rmtree(place, ignore_errors=True)
                continue
            if job.id == place.name:
                found.append(job)
        for job in sorted(found, key=lambda job: job.id):
            for left in self.directory(job.id).glob("*.tmp"):
                left.unlink(missing_ok=True)
            if job.status == "in_progress":
                job.status = "queued"
            self._add(job)
        self._sweep()

    def _add(self, job: Job) -> None:
        self._jobs[job.id] = job
        if job.key is not None:
            self._by_key[job.key] = job.id
        self._wake.set()

    def directory(self, id_: str) -> Path:
        return self._directory / id_

    def get(self, id_: str) -> Job:
        """Raises Refused where there is none."""
        job = self._jobs.get(id_)
        if job is None or not _ID.fullmatch(id_):
            raise Refused(HTTPStatus.NOT_FOUND, "not_found", "There is no such video.", "video_id")
        return job

    def under(self, key: str) -> Job | None:
        """The job that was asked for under this key, if it is still there."""
        return self._jobs.get(self._by_key.get(key, ""))

    def listed(self, after: str | None, limit: int, *, newest_first: bool) -> tuple[Sequence[Job], bool]:
        """So many of them from after that one on, and whether there are more."""
        ids = sorted(self._jobs, reverse=newest_first)
        if after is not None:
            self.get(after)
            ids = ids[ids.index(after) + 1 :]
        return [self._jobs[id_] for id_ in ids[:limit]], len(ids) > limit

    def create(
        self,
        *,
        prompt: str,
        seconds: int,
        size: tuple[int, int],
        seed: int,
        key: str | None = None,
        reference: Path | None = None,
        remix_of: str | None = None,
    ) -> Job:
        """A new job, on disk when this returns; a `reference` is copied. Raises Refused where too many wait."""
        self._sweep()
        waiting = sum(job.status not in ENDED for job in self._jobs.values())
        if waiting >= MAX_QUEUED or len(self._jobs) >= MAX_JOBS:
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_exceeded", "Too many videos are waiting here.")
        job = Job(
            id=f"video_{self._ids.new()}",
            prompt=prompt,
            seconds=seconds,
            size=size,
            seed=seed,
            created_at=int(self._clock.now()),
            has_reference=reference is not None,
            remix_of=remix_of,
            key=key,
        )
        place = self.directory(job.id)
        place.mkdir(mode=0o700)
        if reference is not None:
            shutil.copyfile(reference, place / _REFERENCE)
        self._save(job)
        self._add(job)
        return job

    def remix(self, job: Job, prompt: str, key: str | None) -> Job:
        """A new job like a completed one, with another prompt. Raises Refused."""
        if job.status != "completed":
            raise bad_request("video_not_ready", "Only a video that is completed can be remixed.", "video_id")
        reference = self.directory(job.id) / _REFERENCE if job.has_reference else None
        return self.create(
            prompt=prompt,
            seconds=job.seconds,
            size=job.size,
            seed=job.seed,
            key=key,
            reference=reference,
            remix_of=job.id,
        )

    def cancel(self, job: Job) -> None:
        """End it, if it has not ended."""
        if job.status not in ENDED:
            self._end(job, "cancelled")
        if self._making is not None and self._making[0] == job.id:
            self._making[1].cancel()

    def delete(self, job: Job) -> None:
        """Remove it and all that was made of it."""
        self.cancel(job)
        self._jobs.pop(job.id, None)
        if job.key is not None:
            self._by_key.pop(job.key, None)
        shutil.rmtree(self.directory(job.id), ignore_errors=True)

    async def run(self) -> None:
        """Make what is queued, the oldest first, until cancelled."""
        while True:
            self._wake.clear()
            job = min((job for job in self._jobs.values() if job.status == "queued"), key=_age, default=None)
            if job is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), SWEEP_S)
                self._sweep()
                continue
            task = asyncio.create_task(self._make(job))
            self._making = (job.id, task)
            try:
                await asyncio.wait([task])
            finally:
                self._making = None
                task.cancel()
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _make(self, job: Job) -> None:
        place = self.directory(job.id)
        job.status, job.progress, job.attempts = "in_progress", 0, job.attempts + 1
        self._save(job)
        reference = str(place / _REFERENCE) if job.has_reference else None
        task = {"prompt": job.prompt, "seconds": job.seconds, "size": job.size, "seed": job.seed}
        try:
            async with contextlib.aclosing(
                work("video", {**task, "reference": reference, "directory": str(place.absolute())})
            ) as messages:
                async for message in messages:
                    job.progress = max(job.progress, min(99, message.facts["percent"]))
        except Refused as refused:
            self._end(job, "failed", Failure(refused.code, str(refused)))
        except WorkFailed:
            if job.attempts >= MAX_ATTEMPTS:
                self._end(job, "failed", Failure("rendering_failed", "The video could not be made."))
            else:
                job.status = "queued"
                self._save(job)
        else:
            job.progress = 100
            self._end(job, "completed")

    def _end(self, job: Job, status: Status, error: Failure | None = None) -> None:
        now = int(self._clock.now())
        job.status, job.error, job.expires_at = status, error, now + KEPT_S
        job.completed_at = now if status == "completed" else None
        self._save(job)

    def _save(self, job: Job) -> None:
        if not (place := self.directory(job.id)).is_dir():
            return  # it has been deleted
        unready = place / f"{_RECORD}.tmp"
        with unready.open("wb") as file:
            file.write(msgspec.json.encode(job))
            file.flush()
            os.fsync(file.fileno())
        unready.replace(place / _RECORD)

    def _sweep(self) -> None:
        """Remove what has ended too long ago, and the oldest of what takes too much room."""
        now, room, left = self._clock.now(), MAX_KEPT_BYTES, MAX_JOBS // 2
        ended = [job for job in self._jobs.values() if job.status in ENDED]
        for job in sorted(ended, key=_age, reverse=True):
            room -= sum(file.stat().st_size for file in self.directory(job.id).glob("*") if file.is_file())
            left -= 1
            if room < 0 or left < 0 or (job.expires_at is not None and job.expires_at <= now):
                self.delete(job)


def _age(job: Job) -> str:
    return job.id
