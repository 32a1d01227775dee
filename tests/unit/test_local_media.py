"""Parts of the embedded media server: what is drawn, voices, messages between processes, and how jobs are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.clock import UuidV7
from server.local_media import jobs as jobs_module
from server.local_media.cards import card, cover, font, lines_of, palette
from server.local_media.jobs import KEPT_S, MAX_QUEUED, Jobs
from server.local_media.messages import received
from server.local_media.refusal import Refused
from server.local_media.replies import size_of
from server.local_media.voices import VOICES, voice_of
from tests.fakes.health import HandClock

SMALL = {"prompt": "x", "seconds": 1, "size": (64, 64), "seed": 1}


@given(st.text(max_size=300), st.integers(9, 40), st.integers(40, 400))
def test_lines_hold_every_word_and_are_no_longer_than_there_is_room(text: str, size: int, width: int) -> None:
    lines = lines_of(text, size, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(len(line) == 1 or font(size).getlength(line) <= width for line in lines)


@given(st.text(max_size=500), st.sampled_from([(64, 64), (64, 1920), (1920, 64), (320, 200)]), st.integers(0))
def test_any_prompt_fits_on_any_card(prompt: str, size: tuple[int, int], seed: int) -> None:
    assert card(size, palette(seed), prompt, "head", "foot").size == size


@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_a_picture_covers_any_other_shape(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    covering = cover(Image.new("RGB", size, (1, 2, 3)), wanted)
    assert (covering.size, covering.getpixel((wanted[0] - 1, 0))) == (wanted, (1, 2, 3))


@pytest.mark.parametrize("name", ["", "..", "../x", "en-us+f3/x", "en us", "x" * 40, "de\n", "en-us+klatt\0"])
def test_no_voice_leads_anywhere_else(name: str) -> None:
    assert voice_of(name) is None


def test_voices_have_openais_names_or_their_own() -> None:
    assert len(set(VOICES.values())) == len(VOICES) == 13
    assert (voice_of("Alloy"), voice_of("de"), voice_of("en-us+f3")) == ("en-us+klatt", "de", "en-us+f3")


@pytest.mark.parametrize(
    "text", ["", "auto", "1024", "1024x", "x1024", "1x1", "99999x64", "65x64", "64x64x64", "64X64", "٦٤x٦٤"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Refused) as refused:
        size_of(text, 64, 1920, step=2)
    assert refused.value.param == "size"


async def told(data: bytes) -> list[tuple[str, bytes]]:
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    return [(message.kind, message.data) async for message in received(stream)]


async def test_messages_are_read_whole_or_not_at_all() -> None:
    one = b'{"kind":"a","size":3}\nxyz'
    assert await told(one + b'{"kind":"b"}\n') == [("a", b"xyz"), ("b", b"")]
    assert await told(one[:-1]) == []
    for wrong in (b"hello\n", b'{"kind":"a","size":-1}\n', b'{"kind":"a","size":99999999999}\n', b'{"size":1}\nx'):
        with pytest.raises(ValueError):  # noqa: PT011 - any of them
            await told(wrong)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def the_jobs(directory: Path, clock: HandClock) -> Jobs:
    return Jobs(directory, clock, UuidV7())


def test_only_so_many_jobs_wait(tmp_path: Path, clock: HandClock) -> None:
    jobs = the_jobs(tmp_path, clock)
    created = [jobs.create(**SMALL) for _ in range(MAX_QUEUED)]
    with pytest.raises(Refused) as refused:
        jobs.create(**SMALL)
    assert refused.value.status == 429
    jobs.cancel(created[7])
    jobs.create(**SMALL)
    assert len(list(tmp_path.iterdir())) == MAX_QUEUED + 1


def test_what_has_ended_is_kept_for_a_day(tmp_path: Path, clock: HandClock) -> None:
    jobs = the_jobs(tmp_path, clock)
    job, waiting = jobs.create(**SMALL, key="k"), jobs.create(**SMALL)
    jobs.cancel(job)
    clock.now_s += KEPT_S - 1
    assert the_jobs(tmp_path, clock).get(job.id).status == "cancelled"
    assert jobs.under("k") is job
    clock.now_s += 1
    assert jobs.create(**SMALL).id != job.id
    assert jobs.under("k") is None
    with pytest.raises(Refused):
        jobs.get(job.id)
    assert not jobs.directory(job.id).exists()
    assert the_jobs(tmp_path, clock).get(waiting.id).status == "queued"


def test_the_oldest_makes_room(tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MAX_KEPT_BYTES", 10_000)
    jobs = the_jobs(tmp_path, clock)
    old, new = jobs.create(**SMALL), jobs.create(**SMALL)
    for job in (old, new):
        (jobs.directory(job.id) / "video.mp4").write_bytes(bytes(6_000))
        jobs.cancel(job)
    jobs.create(**SMALL)
    assert jobs.get(new.id) is new
    with pytest.raises(Refused):
        jobs.get(old.id)


async def test_a_job_that_ends_the_process_each_time_fails_in_the_end(tmp_path: Path, clock: HandClock) -> None:
    jobs = the_jobs(tmp_path, clock)
    job = jobs.create(**{**SMALL, "size": (-1, -1)})  # what no request can ask for
    running = asyncio.create_task(jobs.run())
    async with asyncio.timeout(60):
        while job.status in ("queued", "in_progress"):  # noqa: ASYNC110 - it is told by polling
            await asyncio.sleep(0.02)
    running.cancel()
    assert (job.status, job.attempts) == ("failed", jobs_module.MAX_ATTEMPTS)
    assert job.error is not None
    assert job.error.code == "rendering_failed"
