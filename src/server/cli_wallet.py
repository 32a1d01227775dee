"""The commands `wallet` and `ledger`. They work on the database itself, whether or not a gateway is running."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import click
import msgspec

from server.cli_shared import (
    Dollars,
    ShortText,
    as_json,
    date,
    example,
    print_json,
    print_table,
    unknown_team,
    with_database,
)
from server.clock import SystemClock
from server.domain.money import usd
from server.storage.key_records import UnknownTeam
from server.storage.ledger_verify import Problem, verify_ledger
from server.storage.wallets import AmountRefused, Entry, Payment, ReferenceUsed, Wallet, Wallets

__all__ = ["ledger", "wallet"]

T = TypeVar("T")

MAX_STATEMENT: Final = 10_000
VERIFY_TIMEOUT_S: Final = 3600.0


the_team = click.option("--team", required=True, help="The team, by name.")


@click.group(epilog=example("aistats-gateway wallet top-up --team default --usd 5.00"))
def wallet() -> None:
    """Pay credit in, correct it, and see what became of it.

    A request needs 1 USD available, and as much as it may cost at most; models whose name ends in `:free` need none.
    """


@wallet.command("top-up", epilog=example("aistats-gateway wallet top-up --team default --usd 5.00 --reference inv-17"))
@the_team
@click.option("--usd", "amount", required=True, type=Dollars(), help="How much: 5.00")
@click.option("--reference", type=ShortText(), help="Your own id of the payment; the same one counts once.")
@as_json
def top_up(team: str, amount: int, reference: str | None, as_json: bool) -> None:
    """Pay credit in. With a reference it can be repeated safely."""
    done = _use(team, lambda wallets: wallets.top_up(team, amount, reference=reference))
    _print_payment(team, done, f"Paid in {usd(amount)} USD.", as_json)


@wallet.command("adjust", epilog=example("aistats-gateway wallet adjust --team default --usd -1.00 --note refunded"))
@the_team
@click.option("--usd", "amount", required=True, type=Dollars(is_signed=True), help="What to add: 1.00 or -1.00")
@click.option("--note", required=True, type=ShortText(), help="Why; it stands in the statement.")
@as_json
def adjust(team: str, amount: int, note: str, as_json: bool) -> None:
    """Correct a balance, up or down. What is reserved cannot be taken."""
    done = _use(team, lambda wallets: wallets.adjust(team, amount, note))
    _print_payment(team, done, f"Adjusted by {usd(amount)} USD.", as_json)


@wallet.command("show", epilog=example("aistats-gateway wallet show --team default"))
@the_team
@as_json
def show(team: str, as_json: bool) -> None:
    """Show what a team has. `available` is the balance without what requests under way have reserved."""
    found = _use(team, lambda wallets: wallets.show(team))
    if as_json:
        print_json(_wallet_object(found))
        return
    for name, value in _wallet_object(found).items():
        click.echo(f"{name.removesuffix('_nanos'):<10} {usd(value)} USD")


@wallet.command("statement", epilog=example("aistats-gateway wallet statement --team default --limit 20"))
@the_team
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, MAX_STATEMENT), help="How many entries.")
@as_json
def statement(team: str, limit: int, as_json: bool) -> None:
    """List the latest entries of a team, newest first."""
    found = _use(team, lambda wallets: wallets.statement(team, limit))
    if as_json:
        print_json([_entry_object(entry) for entry in found])
        return
    print_table(
        ("TIME", "KIND", "BALANCE", "RESERVED", "GENERATION", "NOTE"),
        [
            (
                date(entry.created_at),
                entry.kind,
                usd(entry.balance_nanos),
                usd(entry.reserved_nanos),
                f"gen_{entry.suffix}" if entry.suffix else "",
                entry.note or entry.reference or "",
            )
            for entry in found
        ],
    )


@click.group(epilog=example("aistats-gateway ledger verify"))
def ledger() -> None:
    """Check the books."""


@ledger.command("verify", epilog=example("aistats-gateway ledger verify --json"))
@as_json
def verify(as_json: bool) -> None:
    """Recompute every wallet from its entries, and follow every reservation to its end.

    Looks at one state of the database, also while the gateway runs, and changes nothing. Exits 1 where something does
    not agree.
    """

    def tell(problem: Problem) -> None:
        if as_json:
            print_json(msgspec.to_builtins(problem))
        else:
            click.echo(f"{problem.kind}: {problem.text}")

    found = with_database(lambda database: verify_ledger(database, tell), statement_timeout_s=VERIFY_TIMEOUT_S)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        click.echo(
            f"{found.wallets} wallets, {found.entries} entries, {found.reservations} reservations"
            f" ({found.open} open), {found.generations} generations: "
            + ("no problem" if not found.problems else f"problems: {found.problems}")
        )
    sys.exit(1 if found.problems else 0)


def _use(team: str, call: Callable[[Wallets], Awaitable[T]]) -> T:
    try:
        return with_database(lambda database: call(Wallets(database, SystemClock())))
    except UnknownTeam:
        raise unknown_team(team) from None
    except AmountRefused as error:
        raise click.BadParameter(f"{error}.", param_hint="--usd") from None
    except ReferenceUsed as error:
        raise click.BadParameter(f"{error}.", param_hint="--reference") from None


def _print_payment(team: str, payment: Payment, done: str, as_json: bool) -> None:
    if as_json:
        print_json(_wallet_object(payment.wallet) | {"is_new": payment.is_new})
        return
    said = done if payment.is_new else "That reference was paid in before, and counts once."
    click.echo(f"{said} Team {team} has {usd(payment.wallet.available_nanos)} USD available.")


def _wallet_object(wallet: Wallet) -> dict[str, int]:
    return {
        "balance_nanos": wallet.balance_nanos,
        "reserved_nanos": wallet.reserved_nanos,
        "available_nanos": wallet.available_nanos,
    }


def _entry_object(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "kind": entry.kind,
        "generation_id": f"gen_{entry.suffix}" if entry.suffix else None,
        "key_id": entry.key_id,
        "balance_nanos": entry.balance_nanos,
        "reserved_nanos": entry.reserved_nanos,
        "created_at": entry.created_at,
        "note": entry.note,
        "reference": entry.reference,
    }
