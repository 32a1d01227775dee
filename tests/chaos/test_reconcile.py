"""The reckoning itself: books that are right pass, and each way of cooking them is found by the rule that is for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.chaos import prices, reconcile
from tests.chaos.books import Books, Entry, Record, Spent, Wallet
from tests.chaos.client import Seen
from tests.chaos.plan import Plan, Script
from tests.chaos.prices import Tokens
from tests.chaos.reconcile import Evidence
from tests.chaos.upstream import Attempt

TEXT = "seven rivers, quietly "
TOLD = Tokens(input=101, output=37, cached=33)
PUT_IN = 5_000_000_000
HELD = 2_600_000
TURNS = ("plan 000000 tell me",)


class Case:
    """Three requests: 0 was completed, 1 was left by its client in the middle, 2 was refused with 402."""

    def __init__(self) -> None:
        script = Script(pieces=(TEXT,), usage=TOLD)
        self.plans = {
            index: Plan(index, "default", prices.PAID, "chat", True, TURNS, None, None, True, {"one": script}, None)
            for index in range(3)
        }
        self.whole = prices.cost("one", TOLD)
        counted = Tokens(prices.prompt_estimate(TURNS), prices.estimate(TEXT))
        self.part = prices.cost("one", counted)
        self.seen = [
            Seen(0, 0, status=200, suffix="s0", complete=True, text=TEXT, usage={"pricing": _pricing(self.whole)}),
            Seen(1, 0, status=200, suffix="s1", left=True, text=TEXT),
            Seen(2, 0, status=402, suffix="s2", error="insufficient_funds", reason="insufficient_funds"),
        ]
        self.attempts = {
            0: [Attempt(0, "one", "up-0", "chat/completions", 0.0, 200, [TEXT], [TOLD], finished=True)],
            1: [Attempt(1, "one", "up-1", "chat/completions", 0.0, 200, [TEXT])],
        }
        self.entries = [
            Entry("default", "top_up", None, None, PUT_IN, 0),
            *_ended("s0", "settle", self.whole),
            *_ended("s1", "settle", self.part),
        ]
        self.records = [
            _record("s0", self.whole, 200, "up-0", "provider"),
            _record("s1", self.part, 499, "up-1", "counted"),
            _record("s2", 0, 402, None, None),
        ]
        self.wallets = [Wallet("default", PUT_IN - self.whole - self.part, 0)]
        self.days = [Spent("default", 2, self.whole + self.part)]
        self.open_holds: list[str] = []

    def broken(self) -> set[str]:
        """The rules that find something."""
        books = Books(
            tuple(self.entries), tuple(self.wallets), tuple(self.open_holds), tuple(self.records), tuple(self.days)
        )
        evidence = Evidence(self.plans, self.seen, self.attempts, books, {"default": PUT_IN})
        return {reconcile.RULES[name].__name__ for name, found in reconcile.reconcile(evidence).items() if found}

    def charge(self, index: int, more: int) -> None:
        """Book more everywhere, so that all the books agree."""
        suffix = f"s{index}"
        self.entries = [
            msgspec.structs.replace(one, balance=one.balance - more)
            if one.suffix == suffix and one.kind == "settle"
            else one
            for one in self.entries
        ]
        old = self.records[index]
        source = old.usage.get("source")
        self.records[index] = _record(suffix, old.cost + more, old.status, old.told["native_response_id"], source)
        self.wallets = [Wallet("default", self.wallets[0].balance - more, 0)]
        self.days = [Spent("default", 2, self.days[0].cost + more)]


def _ended(suffix: str, kind: str, charge: int) -> list[Entry]:
    return [
        Entry("default", "reserve", suffix, "k", 0, HELD),
        Entry("default", kind, suffix, "k", -charge, -HELD),
    ]


def _pricing(total: int) -> dict[str, Any]:
    return {"total_nanos": total, "lines": []}


def _record(suffix: str, cost: int, status: int, native: str | None, source: str | None) -> Record:
    told: dict[str, Any] = {"native_response_id": native}
    if source is not None:
        told["usage"] = {"source": source, "pricing": _pricing(cost)}
        told["attempts"] = [{"provider": "one", "billed": True, "cost_nanos": cost}]
    provider = "one" if source else None
    return Record(suffix, "default", "k", "chat", prices.PAID, provider, status, status == 200, cost, told)


def test_books_that_are_right_pass() -> None:
    assert Case().broken() == set()


def charged_twice(case: Case) -> None:
    case.entries += _ended("s0", "settle", case.whole)


def charged_a_nano_more(case: Case) -> None:
    case.charge(0, 1)


def counted_more_than_was_said(case: Case) -> None:
    case.charge(1, 1)


def counted_less_than_was_read(case: Case) -> None:
    case.charge(1, -1)


def charged_for_what_no_provider_said(case: Case) -> None:
    case.attempts[1][0].sent.clear()


def charged_for_what_nobody_asked(case: Case) -> None:
    del case.attempts[1]


def voided_though_completed(case: Case) -> None:
    case.charge(0, -case.whole)
    case.entries[2] = msgspec.structs.replace(case.entries[2], kind="void")


def record_lost(case: Case) -> None:
    del case.records[0]


def refusal_without_a_record(case: Case) -> None:
    del case.records[2]


def record_of_a_failure(case: Case) -> None:
    case.records[0] = msgspec.structs.replace(case.records[0], success=False)


def reply_names_another_price(case: Case) -> None:
    case.seen[0].usage = {"pricing": _pricing(case.whole + 1)}


def reservation_left_open(case: Case) -> None:
    case.entries.append(Entry("default", "reserve", "s3", "k", 0, HELD))
    case.wallets = [msgspec.structs.replace(case.wallets[0], reserved=HELD)]
    case.open_holds.append("s3")


def wallet_off_by_one(case: Case) -> None:
    case.wallets = [msgspec.structs.replace(case.wallets[0], balance=case.wallets[0].balance + 1)]


def day_off_by_one(case: Case) -> None:
    case.days = [msgspec.structs.replace(case.days[0], cost=case.days[0].cost + 1)]


def top_up_lost(case: Case) -> None:
    del case.entries[0]


def refused_and_yet_sent(case: Case) -> None:
    case.attempts[2] = [Attempt(2, "one", "up-2", "chat/completions", 0.0, 200)]


def failed_and_yet_charged(case: Case) -> None:
    case.entries += _ended("s2", "settle", 7)


def text_lost_on_the_way(case: Case) -> None:
    case.seen[0].text = TEXT[:-1]


def never_answered(case: Case) -> None:
    case.seen[1].hung = True


def broken_off_without_a_cause(case: Case) -> None:
    case.seen[1].broken = True


def never_asked(case: Case) -> None:
    del case.seen[2]


def answered_for_another(case: Case) -> None:
    case.records[0].told["native_response_id"] = "up-1"


def asked_without_a_reservation(case: Case) -> None:
    case.entries = [one for one in case.entries if one.suffix != "s1"]


def charged_for_both(case: Case) -> None:
    case.seen[1].index = 0
    case.seen[1].turn = 1


@pytest.mark.parametrize(
    ("cook", "rules"),
    [
        (asked_without_a_reservation, {"held_before_asked", "books_balance", "reservations_end_once"}),
        (charged_for_both, {"all_were_answered", "keys_charge_once", "suffixes_agree"}),
        (charged_twice, {"completed_replies", "books_balance", "reservations_end_once"}),
        (charged_a_nano_more, {"completed_replies", "nothing_unserved", "nothing_for_free"}),
        (counted_more_than_was_said, {"nothing_unserved"}),
        (counted_less_than_was_read, {"nothing_for_free"}),
        (charged_for_what_no_provider_said, {"nothing_unserved"}),
        (charged_for_what_nobody_asked, {"nothing_unserved", "suffixes_agree"}),
        (voided_though_completed, {"completed_replies", "nothing_for_free"}),
        (record_lost, {"completed_replies", "books_balance", "reservations_end_once", "replies_are_recorded"}),
        (refusal_without_a_record, {"replies_are_recorded"}),
        (record_of_a_failure, {"completed_replies"}),
        (reply_names_another_price, {"completed_replies"}),
        (reservation_left_open, {"books_balance", "reservations_end_once"}),
        (wallet_off_by_one, {"books_balance"}),
        (day_off_by_one, {"books_balance"}),
        (top_up_lost, {"books_balance"}),
        (refused_and_yet_sent, {"failures_cost_nothing"}),
        (failed_and_yet_charged, {"books_balance", "failures_cost_nothing", "reservations_end_once"}),
        (text_lost_on_the_way, {"completed_replies"}),
        (never_answered, {"all_were_answered"}),
        (broken_off_without_a_cause, {"all_were_answered"}),
        (never_asked, {"all_were_answered"}),
        (answered_for_another, {"suffixes_agree"}),
    ],
)
def test_cooked_books_are_found(cook: Callable[[Case], None], rules: set[str]) -> None:
    case = copy.deepcopy(Case())
    cook(case)
    found = case.broken()
    assert rules <= found, found
    assert found - rules <= _IMPLIED, found


_IMPLIED = {"nothing_unserved", "nothing_for_free", "held_before_asked"}
"""Rules that may find the same thing by another way."""


@pytest.mark.parametrize(
    ("used", "nanos"),
    [
        (Tokens(input=1, output=0), 138),
        (Tokens(input=0, output=1), 612),
        (Tokens(input=3, output=0, cached=3), 41),
        (Tokens(input=101, output=37, cached=33), 9326 + 22608 + 446),
        (Tokens(input=0, output=10, reasoning=10), 6111),
    ],
)
def test_prices_are_reckoned_line_by_line(used: Tokens, nanos: int) -> None:
    assert prices.cost("one", used) == nanos


def test_reasoning_is_a_line_where_it_has_a_price() -> None:
    assert prices.lines("two", Tokens(input=0, output=10, reasoning=4)) == {
        "output_text_tokens": (6, 7063),
        "reasoning_text_tokens": (4, 7109),
    }
