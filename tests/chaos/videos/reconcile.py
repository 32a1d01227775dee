"""Holds four accounts of one run against each other: clients', stand-ins', the jobs' rows, and the ledger with its
records. Each rule is a function from the evidence to violations, as in `tests.chaos.reconcile`.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

from tests.chaos import reconcile as requests
from tests.chaos.books import Books
from tests.chaos.reconcile import Violation
from tests.chaos.videos.books import JobRow
from tests.chaos.videos.client import TERMINAL, Told
from tests.chaos.videos.plan import FilmPlan, index_in
from tests.chaos.videos.receiver import Event
from tests.fakes.video_upstream import Job

_ENDS: Final = {
    "completed": "completed", "failed": "failed", "refused": None, "cancelled": "cancelled", "hangs": "expired",
}  # fmt: skip
UNKNOWN: Final = "submit_outcome_unknown"


class Evidence(requests.Evidence):
    """All that is known of a run. `begun` are the stand-ins' jobs, `submits` their submits by idempotency key, and
    `listed` the ids that the team is shown. `events` were to be told, `taken` were, and `forged` were not signed."""

    def __init__(
        self,
        films: Mapping[int, FilmPlan],
        told: Sequence[Told],
        begun: Sequence[Job],
        submits: Mapping[str, int],
        rows: Sequence[JobRow],
        books: Books,
        topped_up: Mapping[str, int],
        listed: Sequence[str],
        events: Sequence[Event],
        taken: Sequence[Event],
        forged: int = 0,
    ) -> None:
        super().__init__({}, [], {}, books, topped_up)
        self.films, self.told, self.begun, self.submits = films, told, begun, submits
        self.rows, self.listed = rows, listed
        self.events, self.taken, self.forged = events, taken, forged

    @cached_property
    def rows_of(self) -> dict[int, list[JobRow]]:
        """By video: all that were begun with its key."""
        by_key = {plan.key: index for index, plan in self.films.items()}
        found: dict[int, list[JobRow]] = defaultdict(list)
        for row in self.rows:
            found[by_key[row.key or ""]].append(row)
        return found

    @cached_property
    def begun_of(self) -> dict[int, list[Job]]:
        found: dict[int, list[Job]] = defaultdict(list)
        for job in self.begun:
            found[index_in(job.asked["prompt"])].append(job)
        return found

    @cached_property
    def row(self) -> dict[str, JobRow]:
        return {row.suffix: row for row in self.rows}

    def each(self) -> Iterator[tuple[FilmPlan, Told]]:
        for told in self.told:
            yield self.films[told.index], told


def may_be_unknown(plan: FilmPlan, told: Told) -> bool:
    """Whether it may never be known if a provider has it: an answer was lost, its own or the client's."""
    return plan.provider == "plain" and (plan.fate == "lost" or told.unanswered > 0)


def may_end_as(plan: FilmPlan, told: Told) -> set[str | None]:
    """What its client may be told in the end; None where it is refused."""
    if plan.fate == "lost":
        return {"failed"} if plan.provider == "plain" else {"completed"}
    ends = {_ENDS[plan.fate]}
    if may_be_unknown(plan, told) or (plan.fate == "refused" and told.unanswered):
        ends.add("failed")
    return ends


def all_end(evidence: Evidence) -> Iterator[Violation]:
    """Every client learned the end of its video, and no row is open."""
    rule = "an end"
    for row in evidence.rows:
        if row.status not in TERMINAL or not row.has_ended:
            yield Violation(rule, row.suffix, f"its row is {row.status}")
    told = {one.index for one in evidence.told}
    for index in evidence.films.keys() - told:
        yield Violation(rule, f"film {index:06d}", "nobody asked for it")
    for plan, one in evidence.each():
        if not one.done:
            yield Violation(rule, _where(one), f"its client gave up; it saw {one.statuses}")
        for wrong in one.wrong:
            yield Violation(rule, _where(one), wrong)
        del plan


def one_end_each(evidence: Evidence) -> Iterator[Violation]:
    """One terminal state, the same to clients and in the row, and one that its plan leads to."""
    rule = "a terminal state"
    for plan, told in evidence.each():
        ends = [status for status in told.statuses if status in TERMINAL]
        if len(ends) > 1:
            yield Violation(rule, _where(told), f"it was {ends}")
        if not told.done:
            continue
        ended = told.ended
        if ended not in may_end_as(plan, told) or (ended is None) != (told.refused is not None):
            yield Violation(rule, _where(told), f"{plan.provider}, {plan.fate}: it is {ended or told.refused}")
        row = evidence.row.get(told.suffix or "")
        if told.suffix is not None and (row is None or row.status != ended):
            yield Violation(rule, _where(told), f"its client was told {ended}, its row says {row and row.status}")
        error = told.last.get("error") or {}
        if error.get("code") == UNKNOWN and not may_be_unknown(plan, told):
            yield Violation(rule, _where(told), "its outcome is said to be unknown, and no answer was lost")


def submitted_once(evidence: Evidence) -> Iterator[Violation]:
    """No video is begun twice; a submit is repeated only where its key is heeded."""
    rule = "a submit"
    honoured = {plan.provider: plan.provider == "keyed" for plan in evidence.films.values()}
    for index, made in evidence.begun_of.items():
        if len(made) > 1:
            yield Violation(rule, f"film {index:06d}", f"{len(made)} jobs were begun: {[job.id for job in made]}")
    for key, count in evidence.submits.items():
        row = evidence.row.get(key.removeprefix("video_"))
        provider = None if row is None else row.provider
        if count > 1 and not honoured.get(provider or "plain", False):  # type: ignore[call-overload]
            yield Violation(rule, key, f"it was submitted {count} times to {provider or 'a provider'}")
    for index, rows in evidence.rows_of.items():
        if len(rows) > 1:
            yield Violation(rule, f"film {index:06d}", f"it has {len(rows)} jobs")


def one_record_each(evidence: Evidence) -> Iterator[Violation]:
    """Every job has one record, and is a success in it just where it is complete."""
    rule = "a record"
    counted = Counter(record.suffix for record in evidence.books.records)
    for row in evidence.rows:
        if counted[row.suffix] != 1:
            yield Violation(rule, row.suffix, f"it has {counted[row.suffix]}")
            continue
        record = evidence.records[row.suffix]
        if record.success != (row.status == "completed"):
            yield Violation(rule, row.suffix, f"it is {row.status}, its record says success={record.success}")


def charged_once(evidence: Evidence) -> Iterator[Violation]:
    """What is complete was charged once, at its price; its row, its record and its object say the same."""
    rule = "a charge"
    films = {row.suffix: evidence.films[index] for index, rows in evidence.rows_of.items() for row in rows}
    for row in evidence.rows:
        if row.status != "completed":
            continue
        kinds, charged, right = evidence.kinds(row.suffix), evidence.charged(row.suffix), films[row.suffix].price
        if kinds != {"reserve": 1, "settle": 1}:
            yield Violation(rule, row.suffix, f"its entries are {dict(kinds)}")
        record = evidence.records.get(row.suffix)
        if not charged == right == row.charged == (record and record.cost):
            yield Violation(
                rule, row.suffix, f"its price is {right}; {charged}, {row.charged} and {record and record.cost}"
            )
    for _, told in evidence.each():
        billing = told.last.get("billing") or {}
        charged = evidence.charged(told.suffix or "")
        state = "settled" if told.ended == "completed" else "void"
        if told.ended and (billing.get("state"), int(billing.get("total_nanos", -1))) != (state, charged):
            yield Violation(rule, _where(told), f"{charged} was charged, and its object says {billing}")


def no_other_charge(evidence: Evidence) -> Iterator[Violation]:
    """What ended otherwise was given back whole; so was what was refused."""
    rule = "a charge"
    for suffix in evidence.entries:
        row = evidence.row.get(suffix)
        if row is not None and row.status == "completed":
            continue
        kinds, charged = evidence.kinds(suffix), evidence.charged(suffix)
        if charged or kinds["settle"] or kinds["adjust"] or kinds["void"] + kinds["expire"] != 1:
            yield Violation(rule, suffix, f"it is {row and row.status}; {charged} was charged, {dict(kinds)}")


def downloads_are_whole(evidence: Evidence) -> Iterator[Violation]:
    """Every complete video was downloaded, and is what its provider made."""
    for plan, told in evidence.each():
        if told.ended == "completed" and told.sha != hashlib.sha256(plan.content).hexdigest():
            yield Violation("a download", _where(told), f"the SHA-256 of what came is {told.sha}")


def nothing_goes_on(evidence: Evidence) -> Iterator[Violation]:
    """No provider works on for a job that is over here, or keeps what was deleted."""
    rule = "a provider"
    wanted = {row.native_id for row in evidence.rows if row.status in ("completed", "failed")}
    for index, made in evidence.begun_of.items():
        for job in made:
            statuses = {row.status for row in evidence.rows_of.get(index, ())}
            if job.ended is None and statuses & {"cancelled", "expired"} and job.id not in wanted:
                yield Violation(rule, f"film {index:06d}", f"{job.id} goes on, and the video is {statuses}")


def lists_have_all(evidence: Evidence) -> Iterator[Violation]:
    """The team is shown every video once, but for those that it deleted."""
    deleted = {told.suffix for told in evidence.told if told.deleted}
    right = Counter(f"video_{row.suffix}" for row in evidence.rows if row.suffix not in deleted)
    if Counter(evidence.listed) != right:
        differ = (Counter(evidence.listed) - right) + (right - Counter(evidence.listed))
        yield Violation("the list", "default", f"{len(evidence.listed)} of {right.total()}: {sorted(differ)[:5]}")


def events_are_told(evidence: Evidence) -> Iterator[Violation]:
    """Every job's end is an event, and every event was told and signed, those of one job in their order."""
    rule = "an event"
    noted: dict[str, list[Event]] = defaultdict(list)
    for event in evidence.events:
        noted[event.subject].append(event)
    taken: dict[str, dict[Event, None]] = defaultdict(dict)
    for event in evidence.taken:
        taken[event.subject].setdefault(event)
    for row in evidence.rows:
        ends = [event.type for event in noted[f"video_{row.suffix}"] if event.type != "video.in_progress"]
        if ends != [f"video.{row.status}"]:
            yield Violation(rule, row.suffix, f"it is {row.status}, and its ends are {ends}")
    for subject in noted.keys() | taken.keys():
        if list(taken[subject]) != noted[subject]:
            told = [event.type for event in taken[subject]]
            yield Violation(rule, subject, f"{[event.type for event in noted[subject]]} came as {told}")
    if evidence.forged:
        yield Violation(rule, "the receiver", f"{evidence.forged} were not signed")


Rule = Callable[[Evidence], Iterator[Violation]]
RULES: Final[Mapping[str, Rule]] = {
    "every job ends, and its client learns of it": all_end,
    "it ends in one terminal state, the one that it should": one_end_each,
    "no provider begins a job twice, or is asked to without a key": submitted_once,
    "every complete video is charged once, at its price": charged_once,
    "no other end is charged": no_other_charge,
    "every complete video is downloaded, byte for byte": downloads_are_whole,
    "every job has one record": one_record_each,
    "entries, wallets, records and days add up": lambda evidence: requests.books_balance(evidence),
    "each reservation ends once, and is recorded": lambda evidence: requests.reservations_end_once(evidence),
    "nothing goes on at a provider that nobody wants": nothing_goes_on,
    "the list has every video once": lists_have_all,
    "every event of every job is told, in order": events_are_told,
}


def reconcile(evidence: Evidence) -> dict[str, list[Violation]]:
    """By rule, what breaks it."""
    return {name: list(rule(evidence)) for name, rule in RULES.items()}


def _where(told: Told) -> str:
    return f"film {told.index:06d} ({told.suffix})"
