"""Holds three accounts of one run against each other: what clients saw, what the upstream served, and what was booked.

Each rule is a function from the evidence to violations. A violation names its request, so that it can be looked up in
the files that `--keep` leaves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

import msgspec

from tests.chaos import prices
from tests.chaos.books import Books, Entry, Record
from tests.chaos.client import Seen
from tests.chaos.plan import Plan
from tests.chaos.prices import Tokens
from tests.chaos.upstream import Attempt

_ENDS: Final = ("settle", "void", "expire")
_REFUSALS: Final = (402, 503)


class Violation(msgspec.Struct, frozen=True):
    """`what` tells the rule broken, `where` the request or team, `how` the figures."""

    what: str
    where: str
    how: str

    def __str__(self) -> str:
        return f"{self.what}: {self.where}: {self.how}"


class Evidence:
    """All that is known of a run. `topped_up` is by team; `cut_short` are the requests under way at a kill."""

    def __init__(
        self,
        plans: Mapping[int, Plan],
        seen: Sequence[Seen],
        attempts: Mapping[int, Sequence[Attempt]],
        books: Books,
        topped_up: Mapping[str, int],
        kills: Sequence[tuple[float, int]] = (),
    ) -> None:
        self.plans, self.seen, self.books, self.topped_up = plans, seen, books, topped_up
        self._attempts = attempts
        self._kills = kills

    def attempts(self, index: int) -> Sequence[Attempt]:
        return self._attempts.get(index, ())

    def was_killed(self, seen: Seen) -> bool:
        """Whether something of its gateway was killed while it was under way, or read on for a client that had left."""
        until = seen.ended_at + _KILL_SLACK_S
        if (seen.left or seen.broken) and (plan := self.plans[seen.index]).is_read_on:
            until += plan.lasts_s
        return any(
            gateway == seen.gateway and seen.started_at - _KILL_SLACK_S <= at <= until for at, gateway in self._kills
        )

    @cached_property
    def records(self) -> dict[str, Record]:
        return {record.suffix: record for record in self.books.records}

    @cached_property
    def entries(self) -> dict[str, list[Entry]]:
        """By suffix, in the order in which they were written."""
        by_suffix: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.books.entries:
            if entry.suffix is not None:
                by_suffix[entry.suffix].append(entry)
        return by_suffix

    @cached_property
    def indexes(self) -> dict[str, int]:
        """Which request a suffix belongs to: by the client that was told it, or by the upstream's id in its record."""
        found = {seen.suffix: seen.index for seen in self.seen if seen.suffix is not None}
        served = {one.id: index for index, made in self._attempts.items() for one in made}
        for record in self.books.records:
            if (native := record.told.get("native_response_id")) in served:
                found.setdefault(record.suffix, served[native])
        return found

    def attempt(self, index: int, provider: str | None, record: Record) -> Attempt | None:
        """The provider's attempt that a record tells of; there are two where a request was asked again."""
        made = [one for one in self.attempts(index) if one.provider == provider]
        native = record.told.get("native_response_id")
        return next((one for one in made if one.id == native), made[-1] if made else None)

    def asked_for(self, seen: Seen) -> list[Attempt]:
        """The attempts that were made while a client waited."""
        return [one for one in self.attempts(seen.index) if seen.started_at <= one.arrived_at <= seen.ended_at]

    def charged(self, suffix: str) -> int:
        return -sum(entry.balance for entry in self.entries.get(suffix, ()))

    def kinds(self, suffix: str) -> Counter[str]:
        return Counter(entry.kind for entry in self.entries.get(suffix, ()))


_KILL_SLACK_S: Final = 0.2


def completed_replies(evidence: Evidence) -> Iterator[Violation]:
    """A reply that was seen to its end is settled once, recorded once as a success, and costs what it says."""
    rule = "a completed reply"
    for seen in evidence.seen:
        if not seen.complete:
            continue
        where, plan = _where(seen), evidence.plans[seen.index]
        if seen.suffix is None:
            yield Violation(rule, where, "it has no x-generation-id")
            continue
        record, kinds = evidence.records.get(seen.suffix), evidence.kinds(seen.suffix)
        if plan.is_paid and (kinds["settle"] != 1 or kinds["reserve"] != 1):
            yield Violation(rule, where, f"its entries are {dict(kinds)}")
        if not plan.is_paid and kinds:
            yield Violation(rule, where, f"it is free, and its entries are {dict(kinds)}")
        if record is None:
            yield Violation(rule, where, "it has no record")
            continue
        if not record.success or record.status != 200:
            yield Violation(rule, where, f"its record says success={record.success}, {record.told.get('error_code')}")
        charged = evidence.charged(seen.suffix)
        told = record.pricing.get("total_nanos", 0)
        if not charged == told == record.cost:
            yield Violation(rule, where, f"charged {charged}, its record says {told} and costs {record.cost}")
        if seen.usage is None and (plan.surface == "responses" or not plan.stream or plan.tells_usage):
            yield Violation(rule, where, "it does not tell its usage")
        if seen.usage is not None and seen.total_nanos != charged:
            yield Violation(rule, where, f"it says that it cost {seen.total_nanos}, and {charged} was charged")
        texts = {one.text for one in evidence.attempts(seen.index) if one.finished}
        if seen.text not in texts:
            yield Violation(rule, where, "its text is not what any provider said")


def books_balance(evidence: Evidence) -> Iterator[Violation]:
    """Each wallet is the sum of its entries, holds nothing, and has spent what its records and days say."""
    rule = "balances"
    entries, records, days = evidence.books.entries, evidence.books.records, evidence.books.days
    wallets = {wallet.team: wallet for wallet in evidence.books.wallets}
    for team in sorted({*evidence.topped_up, *wallets, *(entry.team for entry in entries)}):
        ours = [entry for entry in entries if entry.team == team]
        balance, reserved = sum(one.balance for one in ours), sum(one.reserved for one in ours)
        wallet = wallets.get(team)
        if wallet is None:
            yield Violation(rule, team, "it has no wallet")
            continue
        if wallet.balance != balance:
            yield Violation(rule, team, f"the wallet has {wallet.balance}, its entries add up to {balance}")
        if wallet.reserved != reserved or reserved != 0:
            yield Violation(rule, team, f"the wallet holds {wallet.reserved}, its entries {reserved}")
        put_in = sum(one.balance for one in ours if one.kind == "top_up")
        if put_in != evidence.topped_up.get(team, 0):
            yield Violation(rule, team, f"{evidence.topped_up.get(team, 0)} was put in, and {put_in} booked")
        spent = put_in - balance
        recorded = sum(record.cost for record in records if record.team == team)
        counted = sum(day.cost for day in days if day.team == team)
        if not spent == recorded == counted:
            yield Violation(rule, team, f"spent {spent}, records add up to {recorded}, days to {counted}")
    for suffix in evidence.books.open_holds:
        yield Violation(rule, suffix, "its reservation is still open")


def reservations_end_once(evidence: Evidence) -> Iterator[Violation]:
    """Each reservation begins once, ends once, gives back what it held, and has a record with its cost."""
    rule = "a reservation"
    for suffix, entries in evidence.entries.items():
        kinds, where = evidence.kinds(suffix), _named(evidence, suffix)
        if kinds["reserve"] != 1 or sum(kinds[kind] for kind in _ENDS) != 1 or kinds["adjust"] > 1:
            yield Violation(rule, where, f"its entries are {dict(kinds)}")
        if held := sum(entry.reserved for entry in entries):
            yield Violation(rule, where, f"it still holds {held}")
        if kinds["void"] and (kinds["adjust"] or evidence.charged(suffix)):
            yield Violation(rule, where, f"it is void, and {evidence.charged(suffix)} was charged")
        record = evidence.records.get(suffix)
        if record is None:
            yield Violation(rule, where, f"it has no record; its entries are {dict(kinds)}")
        elif record.cost != evidence.charged(suffix):
            yield Violation(rule, where, f"charged {evidence.charged(suffix)}, its record costs {record.cost}")
    for record in evidence.books.records:
        if record.cost and record.suffix not in evidence.entries:
            yield Violation(rule, _named(evidence, record.suffix), f"its record costs {record.cost}, nothing is booked")


def held_before_asked(evidence: Evidence) -> Iterator[Violation]:
    """No provider is asked for what costs something before credit is held for it, durably."""
    for seen in evidence.seen:
        if seen.suffix is None or seen.turn or not evidence.plans[seen.index].is_paid:
            continue
        made = evidence.asked_for(seen)
        if made and not evidence.kinds(seen.suffix)["reserve"]:
            yield Violation("a call", _where(seen), f"{made[0].provider} was asked, and nothing was reserved")


def nothing_unserved(evidence: Evidence) -> Iterator[Violation]:
    """What was charged is what a provider reported, or at most the prompt and the text that a provider sent."""
    rule = "a charge"
    for suffix in evidence.entries:
        charged = evidence.charged(suffix)
        record = evidence.records.get(suffix)
        if not charged or record is None:
            continue
        where, index = _named(evidence, suffix), evidence.indexes.get(suffix)
        if index is None:
            yield Violation(rule, where, f"{charged} was charged for no request that anybody knows")
            continue
        parts = sum(one.get("cost_nanos", 0) for one in record.attempts)
        if parts != charged:
            yield Violation(rule, where, f"charged {charged}, its attempts cost {parts}")
        if record.pricing.get("total_nanos") != charged:
            yield Violation(rule, where, f"charged {charged}, its lines add up to {record.pricing.get('total_nanos')}")
        for one in record.attempts:
            if told := one.get("cost_nanos", 0):
                is_counted = one["provider"] == record.provider and record.usage.get("source") == "counted"
                attempt = evidence.attempt(index, one["provider"], record)
                for how in _unjustified(evidence.plans[index], attempt, told, is_counted):
                    yield Violation(rule, where, how)


def _unjustified(plan: Plan, attempt: Attempt | None, charged: int, is_counted: bool) -> Iterator[str]:
    """Why a provider's attempt does not justify what was charged for it."""
    if attempt is None:
        yield f"{charged} was charged for a provider that was not asked"
        return
    provider = attempt.provider
    told = [prices.cost(provider, used) for used in attempt.told]
    if not is_counted:
        # A stream with running usage may have been read up to any of its reports.
        if charged not in told:
            yield f"{provider} charged {charged} as reported; it reported what costs {sorted(set(told))}"
        return
    if not attempt.text:
        yield f"{provider} charged {charged} as counted, and it said nothing"
        return
    limit = max(prices.cost(provider, used) for used in _counted(plan, attempt, attempt.text))
    if charged > limit:
        yield f"{provider} charged {charged} as counted; prompt and text cost {limit} at most"


def _counted(plan: Plan, attempt: Attempt, text: str) -> Iterator[Tokens]:
    """What may have been used where nobody told in the end: the text, with the prompt as estimated or as reported."""
    said = prices.estimate(text)
    yield Tokens(input=prices.prompt_estimate(plan.turns), output=said)
    for told in attempt.told:
        yield msgspec.structs.replace(told, output=max(told.output, said))


def nothing_for_free(evidence: Evidence) -> Iterator[Violation]:
    """What a client saw of an answer is charged, unless its worker was killed; a whole one for the last report."""
    rule = "an answer"
    for seen in evidence.seen:
        plan = evidence.plans[seen.index]
        if seen.suffix is None or not seen.text or not plan.is_paid:
            continue
        record = evidence.records.get(seen.suffix)
        charged, where = evidence.charged(seen.suffix), _where(seen)
        if record is None or not record.attempts:
            if not evidence.was_killed(seen):
                yield Violation(rule, where, f"it was seen, and charged {charged}; nothing was killed")
            continue
        attempt = evidence.attempt(seen.index, record.provider, record)
        if attempt is None:
            yield Violation(rule, where, f"its record names {record.provider}, which was not asked")
            continue
        if seen.complete and attempt.told:
            if charged != (right := prices.cost(attempt.provider, attempt.told[-1])):
                yield Violation(rule, where, f"charged {charged}; what {attempt.provider} reported costs {right}")
        elif record.usage.get("source") == "counted":
            right = min(prices.cost(attempt.provider, used) for used in _counted(plan, attempt, seen.text))
            if charged < right:
                yield Violation(rule, where, f"charged {charged}; what the client read costs {right} at least")
        elif not charged:
            yield Violation(rule, where, "it was seen, and not charged")


def failures_cost_nothing(evidence: Evidence) -> Iterator[Violation]:
    """An error before any output costs nothing where no provider served anything; a refusal reaches no provider."""
    rule = "a failure"
    for seen in evidence.seen:
        if seen.status is None or seen.status == 200:
            continue
        made, where = evidence.asked_for(seen), _where(seen)
        charged = evidence.charged(seen.suffix) if seen.suffix else 0
        if charged and not any(one.served for one in evidence.attempts(seen.index)):
            yield Violation(rule, where, f"nothing was served, and {charged} was charged")
        if seen.status == 402 and made:
            yield Violation(rule, where, f"refused with 402, and {len(made)} attempts were made")
        if seen.status == 503 and made and not evidence.was_killed(seen):
            yield Violation(rule, where, f"refused with 503, and {len(made)} attempts were made; nothing was killed")
        if seen.status not in _EXPECTED:
            yield Violation(rule, where, f"status {seen.status} is none that this run provokes")


_ENVOYS_OWN: Final = b"The gateway cannot serve this request now."
"""What Envoy says while there is no worker that it could ask."""
_EXPECTED: Final = frozenset({402, 429, 502, 503})


def replies_are_recorded(evidence: Evidence) -> Iterator[Violation]:
    """What a client was told an id of has a record, save what never reached a worker or was lost without money."""
    rule = "a record"
    for seen in evidence.seen:
        if seen.suffix is None or seen.suffix in evidence.records:
            continue
        has_reserved = evidence.kinds(seen.suffix)["reserve"]
        was_lost = not has_reserved and not seen.complete and evidence.was_killed(seen)
        reached_nobody = _ENVOYS_OWN in seen.body and not has_reserved and not evidence.asked_for(seen)
        if not was_lost and not reached_nobody:
            yield Violation(rule, _where(seen), f"status {seen.status}, and there is no record of it")


def all_were_answered(evidence: Evidence) -> Iterator[Violation]:
    """No request hangs; and none breaks off unless something was killed, or its client left."""
    rule = "a reply"
    asked = Counter(seen.index for seen in evidence.seen)
    for index in evidence.plans:
        if asked[index] != 1 and not (asked[index] == 2 and evidence.plans[index].key):
            yield Violation(rule, f"plan {index:06d}", f"it was asked {asked[index]} times")
    for seen in evidence.seen:
        if seen.hung:
            yield Violation(rule, _where(seen), "it did not come")
        if seen.broken and not evidence.was_killed(seen):
            yield Violation(rule, _where(seen), f"it broke off (status {seen.status}), and nothing was killed")


def suffixes_agree(evidence: Evidence) -> Iterator[Violation]:
    """The client's id and the upstream's lead to the same request."""
    served = {one.id: index for index in evidence.plans for one in evidence.attempts(index)}
    for record in evidence.books.records:
        native = record.told.get("native_response_id")
        if native is None:
            continue
        if native not in served:
            yield Violation("an id", record.suffix, f"its record names {native}, which no provider said")
        elif evidence.indexes.get(record.suffix) != served[native]:
            yield Violation("an id", _named(evidence, record.suffix), f"its record names {native}")


def keys_charge_once(evidence: Evidence) -> Iterator[Violation]:
    """Who asks again with the same idempotency key is charged for one of the two, and told the first if it ended."""
    rule = "an idempotency key"
    suffixes: dict[int, set[str]] = defaultdict(set)
    for suffix, index in evidence.indexes.items():
        suffixes[index].add(suffix)
    for index, plan in evidence.plans.items():
        charged = {suffix: evidence.charged(suffix) for suffix in suffixes[index] if evidence.charged(suffix)}
        if len(charged) > 1:
            kind = "with" if plan.key else "without"
            yield Violation(rule, f"plan {index:06d}", f"asked {kind} a key, and charged for {charged}")


Rule = Callable[[Evidence], Iterator[Violation]]
RULES: Final[Mapping[str, Rule]] = {
    "completed replies are settled once and cost what they say": completed_replies,
    "entries, wallets, records and days add up": books_balance,
    "each reservation ends once, and is recorded": reservations_end_once,
    "no provider is asked before credit is held": held_before_asked,
    "nothing is charged that no provider served": nothing_unserved,
    "nothing that a client read is for free": nothing_for_free,
    "failures cost nothing, refusals reach nobody": failures_cost_nothing,
    "every reply with an id is recorded": replies_are_recorded,
    "every request is answered": all_were_answered,
    "who asks again with the same key is charged once": keys_charge_once,
    "ids lead to one request": suffixes_agree,
}


def reconcile(evidence: Evidence) -> dict[str, list[Violation]]:
    """By rule, what breaks it."""
    return {name: list(rule(evidence)) for name, rule in RULES.items()}


def _where(seen: Seen) -> str:
    return f"plan {seen.index:06d} ({seen.suffix})"


def _named(evidence: Evidence, suffix: str) -> str:
    index = evidence.indexes.get(suffix)
    return suffix if index is None else f"plan {index:06d} ({suffix})"
