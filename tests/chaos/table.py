"""What a run came to, as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from tests.chaos import prices
from tests.chaos.prices import Tokens
from tests.chaos.reconcile import Evidence, Violation
from tests.chaos.run import Outcome
from tests.chaos.upstream import Attempt
from tests.fakes.hosting import CHOSEN

SHOWN_VIOLATIONS: Final = 20


def table(outcome: Outcome) -> str:
    """All of it, lines of at most 120 characters but for violations."""
    options, evidence = outcome.options, outcome.evidence
    whole = sum(kill.what == "gateway" for kill in outcome.kills)
    title = (
        f"{options.database}, {CHOSEN}, seed {options.seed}: {len(evidence.plans)} requests from {options.clients}"
        f" clients in {outcome.traffic_s:.0f} s, quiet after {outcome.quiet_s:.1f} s;"
        f" {len(outcome.kills) - whole} workers and {whole} whole gateways killed"
    )
    parts = [title, "", *accounts(evidence), "", *verdicts(outcome.violations)]
    return "\n".join(parts).rstrip() + "\n"


def accounts(evidence: Evidence) -> list[str]:
    """What clients, providers and the books say, in figures."""
    lines = [*rows("clients saw", _seen(evidence)), *rows("providers", _served(evidence))]
    return [*lines, *rows("the books", _booked(evidence)), *rows("money, USD", _money(evidence))]


def verdicts(found: Mapping[str, Sequence[Violation]]) -> list[str]:
    """A line for each rule, and then what breaks them."""
    lines = [_verdict(rule, len(broken)) for rule, broken in found.items()]
    broken = [violation for violations in found.values() for violation in violations]
    lines += ["", *(str(violation) for violation in broken[:SHOWN_VIOLATIONS])]
    if len(broken) > SHOWN_VIOLATIONS:
        lines.append(f"... and {len(broken) - SHOWN_VIOLATIONS} more")
    return lines


def _verdict(rule: str, broken: int) -> str:
    return f"  {'ok  ' if not broken else 'FAIL'}  {rule}" + (f": {broken} violations" if broken else "")


def rows(title: str, cells: Sequence[tuple[str, object]]) -> list[str]:
    """A title, and beside it as many cells a line as fit."""
    lines, line = [], ""
    for name, value in cells:
        cell = f"{name} {value}"
        if line and len(line) + len(cell) > 96:
            lines.append(line)
            line = ""
        line += f"{', ' if line else ''}{cell}"
    return [f"  {title if not number else '':<14}{text}" for number, text in enumerate([*lines, line])]


def _seen(evidence: Evidence) -> list[tuple[str, object]]:
    seen = evidence.seen
    kinds = Counter(
        f"{'stream' if evidence.plans[one.index].stream else 'unary'} {evidence.plans[one.index].surface}"
        for one in seen
        if one.complete
    )
    leaves = Counter(plan.leave.when for one in seen if one.left and (plan := evidence.plans[one.index]).leave)
    statuses = Counter(one.status for one in seen if one.status not in (200, None))
    return [
        *((f"complete {name}", count) for name, count in sorted(kinds.items())),
        *((f"left {when}", leaves[when]) for when in ("before", "middle", "end")),
        ("error in the stream", sum(one.status == 200 and one.error is not None for one in seen)),
        *((f"status {status}", count) for status, count in sorted(statuses.items(), key=str)),
        ("broken off", sum(one.broken for one in seen)),
        ("asked again with their key", sum(one.turn for one in seen)),
        ("connections refused and tried again", sum(one.refusals for one in seen)),
    ]


def _served(evidence: Evidence) -> list[tuple[str, object]]:
    attempts = _attempts(evidence)
    second = [made for index in evidence.plans if len(made := evidence.attempts(index)) > 1]
    return [
        ("calls", len(attempts)),
        ("whole replies", sum(one.finished and one.status == 200 for one in attempts)),
        ("without usage", sum(one.finished and one.status == 200 and not one.told for one in attempts)),
        ("refused with 429 or 500", sum(one.status != 200 for one in attempts)),
        ("cut", sum(one.cut for one in attempts)),
        ("left by the gateway", sum(not one.finished and not one.cut for one in attempts)),
        ("served by the second", sum(made[-1].status == 200 for made in second)),
    ]


def _booked(evidence: Evidence) -> list[tuple[str, object]]:
    kinds = Counter(entry.kind for entry in evidence.books.entries)
    notes = Counter(entry.note for entry in evidence.books.entries if entry.kind == "adjust")
    sources = Counter(record.usage.get("source") for record in evidence.books.records if record.cost)
    ways = Counter(record.told.get("disconnect") for record in evidence.books.records)
    return [
        *((kind, kinds[kind]) for kind in ("reserve", "settle", "void", "expire")),
        *((f"adjust ({note})", count) for note, count in sorted(notes.items(), key=str)),
        ("records", len(evidence.books.records)),
        *((f"charged as {source}", count) for source, count in sorted(sources.items(), key=str)),
        *((f"{way} on disconnect", ways[way]) for way in ("cancelled", "drained")),
    ]


def _money(evidence: Evidence) -> list[tuple[str, object]]:
    put_in = sum(evidence.topped_up.values())
    left = sum(wallet.balance for wallet in evidence.books.wallets)
    asked = sum(_billed(evidence, one) for one in _attempts(evidence))
    return [
        ("put in", prices.usd(put_in)),
        ("left", prices.usd(left)),
        ("charged", prices.usd(put_in - left)),
        ("what providers would bill", prices.usd(asked)),
    ]


def _billed(evidence: Evidence, attempt: Attempt) -> int:
    """What a provider would ask for an attempt that was paid: its last report, or all that it had said."""
    plan = evidence.plans[attempt.index]
    if not plan.is_paid or not attempt.served:
        return 0
    counted = Tokens(input=prices.prompt_estimate(plan.turns), output=prices.estimate(attempt.text))
    return prices.cost(attempt.provider, attempt.told[-1] if attempt.told else counted)


def _attempts(evidence: Evidence) -> list[Attempt]:
    return [one for index in evidence.plans for one in evidence.attempts(index)]
