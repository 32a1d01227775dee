"""What a run came to, as a table for people."""

from __future__ import annotations

from collections import Counter

from tests.chaos import prices
from tests.chaos.table import rows, verdicts
from tests.chaos.videos.reconcile import UNKNOWN, Evidence
from tests.chaos.videos.run import Outcome
from tests.fakes.hosting import CHOSEN


def table(outcome: Outcome) -> str:
    """All of it, lines of at most 120 characters but for violations."""
    options, evidence = outcome.options, outcome.evidence
    pace = outcome.traffic_s / max(1, len(outcome.kills))
    title = (
        f"videos, {CHOSEN}, seed {options.seed}: {len(evidence.films)} jobs on two gateways and one PostgreSQL in"
        f" {outcome.traffic_s:.0f} s, quiet after {outcome.quiet_s:.1f} s;"
        f" {len(outcome.kills)} gateways killed, one every {pace:.1f} s"
    )
    parts = [title, "", *rows("planned", _planned(evidence)), *rows("clients saw", _seen(evidence))]
    parts += [*rows("stand-ins", _made(evidence)), *rows("the books", _booked(evidence))]
    parts += [*rows("webhooks", _events(evidence)), ""]
    return "\n".join([*parts, *verdicts(outcome.violations)]).rstrip() + "\n"


def _planned(evidence: Evidence) -> list[tuple[str, object]]:
    return sorted(Counter(plan.fate for plan in evidence.films.values()).items())


def _seen(evidence: Evidence) -> list[tuple[str, object]]:
    told = evidence.told
    ends = Counter(one.ended for one in told if one.ended)
    unknown = sum((one.last.get("error") or {}).get("code") == UNKNOWN for one in told)
    return [
        *sorted(ends.items()),
        ("refused", sum(one.refused is not None for one in told)),
        ("outcome unknown", unknown),
        ("creates without an answer", sum(one.unanswered for one in told)),
        ("calls made again", sum(one.retries for one in told)),
        ("downloaded", sum(one.sha is not None for one in told)),
        ("downloads resumed", sum(one.resumed for one in told)),
        ("deleted", sum(one.deleted for one in told)),
    ]


def _made(evidence: Evidence) -> list[tuple[str, object]]:
    ends = Counter(job.ended or "never ended" for job in evidence.begun)
    again = sum(count - 1 for count in evidence.submits.values())
    polls = sum(job.polled for job in evidence.begun)
    return [("jobs begun", len(evidence.begun)), *sorted(ends.items()), ("submitted again", again), ("polls", polls)]


def _events(evidence: Evidence) -> list[tuple[str, object]]:
    kinds = Counter(event.type.removeprefix("video.") for event in evidence.events)
    return [*sorted(kinds.items()), ("told again", len(evidence.taken) - len(set(evidence.taken)))]


def _booked(evidence: Evidence) -> list[tuple[str, object]]:
    kinds = Counter(entry.kind for entry in evidence.books.entries)
    charged = sum(evidence.charged(suffix) for suffix in evidence.entries)
    return [
        ("jobs", len(evidence.rows)),
        ("records", len(evidence.books.records)),
        *((kind, kinds[kind]) for kind in ("reserve", "settle", "void", "expire")),
        ("charged, USD", prices.usd(charged)),
    ]
