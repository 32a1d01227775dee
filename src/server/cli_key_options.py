"""What `keys create` and `keys set` take, as click's types and options."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, get_args

import click

from server.cli_shared import Dollars
from server.domain.identity import Scope
from server.domain.keys import MAX_LIFETIME_S, MAX_NAME_CHARS
from server.domain.ledger import LimitReset
from server.domain.restrictions import MAX_ENTRIES, canonical_cidr, check_model_pattern, check_provider_id

__all__ = [
    "RESETS",
    "DollarsOrNone",
    "KeyName",
    "Lifetime",
    "LifetimeOrNone",
    "entries",
    "restrictions",
    "scope_option",
]

F = TypeVar("F", bound=Callable[..., Any])

NONE: Final = "none"
RESETS: Final[tuple[LimitReset, ...]] = get_args(LimitReset)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Lifetime(click.ParamType[int]):
    """A length of time such as `30d`, in seconds; `least` of them and `most`, which is written as `most_text`."""

    name = "time"

    def __init__(self, *, least: int = 1, most: int = MAX_LIFETIME_S, most_text: str = "3650d") -> None:
        self._range = range(least, most + 1)
        self._most_text = most_text

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,9})([smhdw])", value.strip().lower(), re.ASCII)
        seconds = int(match[1]) * _SECONDS[match[2]] if match else -1
        if seconds not in self._range:
            self.fail(f"write a number and s, m, h, d or w, at most {self._most_text}: 12h, 30d", param, ctx)
        return seconds


class LifetimeOrNone(Lifetime):
    """As Lifetime, or `none`."""

    def convert(  # type: ignore[override]
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["none"]:
        return NONE if value == NONE else super().convert(value, param, ctx)


class KeyName(click.ParamType[str]):
    """What a person calls a key: printable, and not blank."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = str(value).strip()
        if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
            self.fail(f"write 1 to {MAX_NAME_CHARS} printable characters", param, ctx)
        return name


class DollarsOrNone(Dollars):
    """As Dollars, or `none`."""

    def convert(  # type: ignore[override]
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["none"]:
        return NONE if value == NONE else super().convert(value, param, ctx)


class Entry(click.ParamType[str]):
    """One entry of a restriction, or `none`."""

    def __init__(self, name: str, check: Callable[[str], str]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == NONE:
            return NONE
        try:
            return self._check(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_RESTRICTIONS: Final = (
    (
        "models",
        "--model",
        Entry("model", check_model_pattern),
        "A model that it may use: openai/*, *:free",
    ),
    ("providers", "--provider", Entry("id", check_provider_id), "A provider that may serve it"),
    ("cidrs", "--cidr", Entry("network", canonical_cidr), "From where it may be used: 203.0.113.7, 10.0.0.0/8"),
)


def restrictions(else_: str) -> Callable[[F], F]:
    """The options that hold a key to something; `else_` ends the help of each."""

    def decorate(command: F) -> F:
        for name, option, type_, text in reversed(_RESTRICTIONS):
            help_ = f"{text}; give the option again for more. {else_}"
            command = click.option(option, name, multiple=True, type=type_, help=help_)(command)
        return command

    return decorate


def scope_option(*, required: bool) -> Callable[[F], F]:
    return click.option(
        "--scope",
        "scopes",
        required=required,
        multiple=True,
        type=click.Choice([scope.value for scope in Scope]),
        help="What it may do; give the option twice for both.",
    )


def entries(given: tuple[str, ...], option: str) -> tuple[str, ...] | None:
    """What a restriction is to be: None where `none` was given. Raises UsageError."""
    if NONE in given:
        if len(given) > 1:
            raise click.UsageError(f"{option} none lifts the restriction: give it alone.")
        return None
    if len(given) > MAX_ENTRIES:
        raise click.UsageError(f"Give {option} at most {MAX_ENTRIES} times.")
    return tuple(dict.fromkeys(given)) or None
