"""The reckoning of videos itself: a run that is right passes, and what is wrong is found by the rule that is for it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.chaos.books import Books, Entry, Record, Spent, Wallet
from tests.chaos.videos import reconcile
from tests.chaos.videos.books import JobRow
from tests.chaos.videos.client import Told
from tests.chaos.videos.plan import Fate, FilmPlan, Provider
from tests.chaos.videos.receiver import Event
from tests.chaos.videos.reconcile import UNKNOWN, Evidence
from tests.fakes.video_upstream import Job, Plan

PUT_IN = 5_000_000_000
HELD = 800_000_000


class Case:
    """Five videos: 0 is complete, 1 failed, 2 was refused, 3 was cancelled, 4 got lost on the way to `plain`."""

    def __init__(self) -> None:
        self.films = {
            0: _film(0, "keyed", "completed"),
            1: _film(1, "keyed", "failed"),
            2: _film(2, "keyed", "refused"),
            3: _film(3, "plain", "cancelled"),
            4: _film(4, "plain", "lost"),
        }
        price = self.films[0].price
        self.told = [
            _told(0, "completed", price, sha=hashlib.sha256(self.films[0].content).hexdigest()),
            _told(1, "failed", error="video_generation_failed"),
            Told(2, refused=400, done=True),
            _told(3, "cancelled", error="cancelled"),
            _told(4, "failed", error=UNKNOWN),
        ]
        self.begun = [_job(0, "completed"), _job(1, "failed"), _job(3, "cancelled"), _job(4, None)]
        self.submits = {"video_s0": 1, "video_s1": 1, "video_s2": 1, "video_s3": 1, "video_s4": 1}
        self.rows = [
            _row(0, "completed", "keyed", charged=price),
            _row(1, "failed", "keyed"),
            _row(3, "cancelled", "plain"),
            _row(4, "failed", "plain"),
        ]
        self.entries = [
            Entry("default", "top_up", None, None, PUT_IN, 0),
            *_ended("s0", "settle", price),
            *(entry for number in (1, 2, 3, 4) for entry in _ended(f"s{number}", "void", 0)),
        ]
        self.records = [_record("s0", price), *(_record(f"s{number}", 0) for number in (1, 2, 3, 4))]
        self.wallets = [Wallet("default", PUT_IN - price, 0)]
        self.days = [Spent("default", 5, price)]
        self.listed = ["video_s0", "video_s1", "video_s3", "video_s4"]
        self.events = [
            Event("e0", "video.in_progress", "video_s0"),
            Event("e1", "video.failed", "video_s1"),
            Event("e2", "video.completed", "video_s0"),
            Event("e3", "video.cancelled", "video_s3"),
            Event("e4", "video.failed", "video_s4"),
        ]
        self.taken = [self.events[index] for index in (1, 0, 4, 0, 2, 3)]
        self.forged = 0

    def broken(self) -> set[str]:
        """The rules that find something, by their first words."""
        books = Books(tuple(self.entries), tuple(self.wallets), (), tuple(self.records), tuple(self.days))
        evidence = Evidence(
            *(self.films, self.told, self.begun, self.submits, self.rows, books, {"default": PUT_IN}, self.listed),
            *(self.events, self.taken, self.forged),
        )
        return {name for name, found in reconcile.reconcile(evidence).items() if found}

    def change(self, index: int, **changes: Any) -> None:
        self.rows = [replace(row, **changes) if row.suffix == f"s{index}" else row for row in self.rows]

    def end(self, index: int, status: str, **changes: Any) -> None:
        """Have it end so in its row and in its event."""
        self.change(index, status=status, **changes)
        for events in (self.events, self.taken):
            events[:] = [
                one._replace(type=f"video.{status}") if one.subject == f"video_s{index}" else one for one in events
            ]


def _film(index: int, provider: Provider, fate: Fate) -> FilmPlan:
    return FilmPlan(index, 1, provider, fate, 0.0, seconds=4, takes_s=1.0, size=1000, pause_s=0.0)


def _told(index: int, status: str, charged: int = 0, *, sha: str | None = None, error: str | None = None) -> Told:
    told = Told(index, suffix=f"s{index}", done=True, sha=sha)
    state = "settled" if status == "completed" else "void"
    billing = {"state": state, "reserved_nanos": HELD, "total_nanos": charged}
    for now in ("queued", status):
        told.see({"status": now, "billing": billing, "error": error and {"code": error}})
    return told


def _job(index: int, ended: str | None) -> Job:
    return Job(f"native_{index}", f"video_s{index}", Plan(), {"prompt": f"film {index:06d}"}, ended=ended)


def _row(index: int, status: str, provider: str, *, charged: int | None = None) -> JobRow:
    native = None if index == 4 else f"native_{index}"
    return JobRow(f"s{index}", status, provider, native, HELD, charged, True, f"film-{index:06d}")


def _ended(suffix: str, kind: str, charge: int) -> list[Entry]:
    return [Entry("default", "reserve", suffix, "k", 0, HELD), Entry("default", kind, suffix, "k", -charge, -HELD)]


def _record(suffix: str, cost: int) -> Record:
    return Record(suffix, "default", "k", "video", "chaos/keyed", "keyed", 200 if cost else 502, bool(cost), cost, {})


END = "every job ends, and its client learns of it"
ONE_END = "it ends in one terminal state, the one that it should"
ONCE = "no provider begins a job twice, or is asked to without a key"
CHARGED = "every complete video is charged once, at its price"
VOID = "no other end is charged"
BYTES = "every complete video is downloaded, byte for byte"
RECORD = "every job has one record"
BALANCE = "entries, wallets, records and days add up"
RESERVATION = "each reservation ends once, and is recorded"
GOES_ON = "nothing goes on at a provider that nobody wants"
EVENTS = "every event of every job is told, in order"
LIST = "the list has every video once"


def test_a_run_that_is_right_passes() -> None:
    assert Case().broken() == set()


def stuck(case: Case) -> None:
    case.change(3, status="in_progress", has_ended=False)
    case.events = [one for one in case.events if one.subject != "video_s3"]


def given_up(case: Case) -> None:
    case.told[1].done = False


def never_asked_for(case: Case) -> None:
    del case.told[2]


def said_what_is_wrong(case: Case) -> None:
    case.told[0].wrong.append("404 There is no such video.")


def two_ends(case: Case) -> None:
    case.told[0].statuses.insert(1, "failed")


def told_another_end(case: Case) -> None:
    case.end(1, "cancelled")


def ended_as_it_should_not(case: Case) -> None:
    case.told[3] = _told(3, "expired")
    case.end(3, "expired")


def unknown_though_its_key_is_heeded(case: Case) -> None:
    case.told[1].last["error"] = {"code": UNKNOWN}


def begun_twice(case: Case) -> None:
    case.begun.append(_job(0, None))


def submitted_twice_without_a_key(case: Case) -> None:
    case.submits["video_s3"] = 2


def two_jobs_of_one_key(case: Case) -> None:
    case.rows.append(replace(case.rows[1], suffix="s9"))
    case.entries += _ended("s9", "void", 0)
    case.records.append(_record("s9", 0))
    case.listed.append("video_s9")
    case.events.append(Event("e9", "video.failed", "video_s9"))
    case.taken.append(Event("e9", "video.failed", "video_s9"))


def charged_twice(case: Case) -> None:
    case.entries += _ended("s0", "settle", case.films[0].price)


def charged_a_nano_more(case: Case) -> None:
    case.entries[2] = replace(case.entries[2], balance=case.entries[2].balance - 1)


def object_says_another_price(case: Case) -> None:
    case.told[0].last["billing"] = {"state": "settled", "total_nanos": 1}


def not_charged(case: Case) -> None:
    case.entries[2] = replace(case.entries[2], kind="void", balance=0)


def a_failure_is_charged(case: Case) -> None:
    case.entries[4] = replace(case.entries[4], kind="settle", balance=-5)


def held_for_ever(case: Case) -> None:
    del case.entries[4]


def other_bytes(case: Case) -> None:
    case.told[0].sha = hashlib.sha256(b"").hexdigest()


def never_downloaded(case: Case) -> None:
    case.told[0].sha = None


def no_record(case: Case) -> None:
    del case.records[1]


def two_records(case: Case) -> None:
    case.records.append(case.records[1])


def record_of_a_success(case: Case) -> None:
    case.records[1] = replace(case.records[1], success=True)


def wallet_off_by_one(case: Case) -> None:
    case.wallets = [replace(case.wallets[0], balance=case.wallets[0].balance + 1)]


def still_held(case: Case) -> None:
    case.wallets = [replace(case.wallets[0], reserved=HELD)]


def made_for_nobody(case: Case) -> None:
    case.begun[2].ended = None


def not_listed(case: Case) -> None:
    case.listed.pop()


def listed_twice(case: Case) -> None:
    case.listed.append("video_s0")


def listed_though_deleted(case: Case) -> None:
    case.told[0].deleted = True


def never_told(case: Case) -> None:
    del case.taken[0]


def told_in_another_order(case: Case) -> None:
    case.taken.insert(0, case.events[2])


def told_of_what_was_not(case: Case) -> None:
    case.taken.append(Event("e8", "video.failed", "video_s3"))


def told_of_two_ends(case: Case) -> None:
    twice = Event("e8", "video.failed", "video_s3")
    case.events.append(twice)
    case.taken.append(twice)


def not_noted(case: Case) -> None:
    case.events.pop()
    case.taken = [one for one in case.taken if one.suffix != "e4"]


def not_signed(case: Case) -> None:
    case.forged = 1


@pytest.mark.parametrize(
    ("cook", "rules"),
    [
        (stuck, {END, ONE_END, EVENTS}),
        (given_up, {END}),
        (never_asked_for, {END}),
        (said_what_is_wrong, {END}),
        (two_ends, {ONE_END}),
        (told_another_end, {ONE_END}),
        (ended_as_it_should_not, {ONE_END}),
        (unknown_though_its_key_is_heeded, {ONE_END}),
        (begun_twice, {ONCE}),
        (submitted_twice_without_a_key, {ONCE}),
        (two_jobs_of_one_key, {ONCE}),
        (charged_twice, {CHARGED, BALANCE, RESERVATION}),
        (charged_a_nano_more, {CHARGED, BALANCE, RESERVATION}),
        (object_says_another_price, {CHARGED}),
        (not_charged, {CHARGED, BALANCE, RESERVATION}),
        (a_failure_is_charged, {CHARGED, VOID, BALANCE, RESERVATION}),
        (held_for_ever, {VOID, BALANCE, RESERVATION}),
        (other_bytes, {BYTES}),
        (never_downloaded, {BYTES}),
        (no_record, {RECORD, RESERVATION}),
        (two_records, {RECORD}),
        (record_of_a_success, {RECORD}),
        (wallet_off_by_one, {BALANCE}),
        (still_held, {BALANCE}),
        (made_for_nobody, {GOES_ON}),
        (not_listed, {LIST}),
        (listed_twice, {LIST}),
        (listed_though_deleted, {LIST}),
        (never_told, {EVENTS}),
        (told_in_another_order, {EVENTS}),
        (told_of_what_was_not, {EVENTS}),
        (told_of_two_ends, {EVENTS}),
        (not_noted, {EVENTS}),
        (not_signed, {EVENTS}),
    ],
)
def test_what_is_wrong_is_found(cook: Callable[[Case], None], rules: set[str]) -> None:
    case = copy.deepcopy(Case())
    cook(case)
    assert case.broken() == rules


def test_an_answer_that_got_lost_explains_an_unknown_outcome_of_who_heeds_no_keys_alone() -> None:
    case = Case()
    case.told[3] = _told(3, "failed", error=UNKNOWN)
    case.end(3, "failed", native_id=None)
    assert case.broken() == {ONE_END}
    case.told[3].unanswered = 1
    assert case.broken() == set()
    case.told[1].last["error"] = {"code": UNKNOWN}
    case.told[1].unanswered = 1
    assert case.broken() == {ONE_END}
