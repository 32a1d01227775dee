"""Bounds that a request must keep whatever surface it comes in by, as one table and pure checks on it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from server.domain.errors import GatewayError, Reason

MAX_TOOLS: Final = 128
MAX_STOP_SEQUENCES: Final = 16
MAX_NAME_CHARS: Final = 64
MAX_SESSION_ID_CHARS: Final = 256
MAX_METADATA_PAIRS: Final = 16
MAX_METADATA_KEY_CHARS: Final = 64
MAX_METADATA_VALUE_CHARS: Final = 512
DEFAULT_PAGE: Final = 50
"""Entries of a list where the client says nothing."""
MAX_PAGE: Final = 250
MAX_SHOWN_CHARS: Final = 60
"""Of a value that a client sent, this much at most is repeated in an error."""

REASONING_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
REASONING_SUMMARIES: Final = ("auto", "concise", "detailed")
IMAGE_DETAILS: Final = ("auto", "low", "high", "original")
AUDIO_FORMATS: Final = ("wav", "mp3")
SORTS: Final = ("price", "latency", "throughput")

_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Range(msgspec.Struct, frozen=True):
    """Both ends belong to it, except `low` where `above` is set; `high` is None where only the provider has a bound."""

    low: float
    high: float | None = None
    above: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is within; a NaN never is."""
        over_low = value > self.low if self.above else value >= self.low
        return over_low and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return f"above {self.low:g} and at most {self.high:g}" if self.above else f"from {self.low:g} to {self.high:g}"


RANGES: Final[dict[str, Range]] = {
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, above=True),
    "frequency_penalty": Range(-2, 2),
    "presence_penalty": Range(-2, 2),
    "logit_bias": Range(-100, 100),
    "max_output_tokens": Range(1),
    "n": Range(1, 128),
    "top_logprobs": Range(0, 20),
}
"""By the parameter's canonical name; `logit_bias` is of each value in it."""


def check_range(name: str, value: float, param: str) -> None:
    """Raise `invalid_value` naming `param` where the parameter's value is out of its range; `name` is canonical."""
    bounds = RANGES[name]
    if not bounds.holds(value):
        raise invalid_value(param, f"must be {bounds}, not {value:g}")


def check_choice(value: str, allowed: Collection[str], param: str) -> None:
    """Raise `invalid_value` naming `param` and what is allowed where `value` isn't."""
    if value not in allowed:
        raise invalid_choice(param, allowed, value)


def check_count(count: int, at_most: int, param: str) -> None:
    """Raise `invalid_value` naming `param` where a list is longer than `at_most`."""
    if count > at_most:
        raise invalid_value(param, f"must have at most {at_most} entries, not {count}")


def page_size(limit: int | None) -> int:
    """How many entries a page has. Raises `invalid_value` naming `limit`."""
    limit = DEFAULT_PAGE if limit is None else limit
    if not 1 <= limit <= MAX_PAGE:
        raise invalid_value("limit", f"must be from 1 to {MAX_PAGE}, not {limit}")
    return limit


def check_length(text: str, at_most: int, param: str) -> None:
    """Raise `invalid_value` naming `param` where a text is longer than `at_most` characters."""
    if len(text) > at_most:
        raise invalid_value(param, f"must be at most {at_most} characters long, not {len(text)}")


def check_tool_name(name: str, param: str) -> None:
    """Raise where the name of a tool or schema is absent, or not one that providers take."""
    if not name:
        raise missing_field(param)
    if not _TOOL_NAME.fullmatch(name):
        raise invalid_value(param, "must be 1 to 64 letters, digits, underscores and dashes")


def invalid_value(param: str, rule: str) -> GatewayError:
    """`rule` completes the sentence that begins with the field's name."""
    return GatewayError(Reason.INVALID_VALUE, f"{param} {rule}.", param=param)


def invalid_choice(param: str, allowed: Collection[str], value: str) -> GatewayError:
    return invalid_value(param, f'must be one of {", ".join(allowed)}, not "{value[:MAX_SHOWN_CHARS]}"')


def missing_field(param: str) -> GatewayError:
    return GatewayError(Reason.MISSING_FIELD, f"{param} is required.", param=param)


def check_metadata(metadata: Mapping[str, str], param: str) -> None:
    """Raise `invalid_value` naming `param` where the client's labels are too many or too long."""
    check_count(len(metadata), MAX_METADATA_PAIRS, param)
    for key, value in metadata.items():
        check_length(key, MAX_METADATA_KEY_CHARS, param)
        check_length(value, MAX_METADATA_VALUE_CHARS, f"{param}.{key}")
