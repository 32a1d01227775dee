"""What is known of Claude models by their names: which of the API's words each of them takes.

A name that is not known is taken for the newest of Claude where it says `claude`, and else for a model of another maker
behind the same API, which as a rule has the older words only.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final, Literal

import msgspec

DEFAULT_MAX_TOKENS: Final = 8192
"""The output limit of a model of which none is known: the API wants one always."""

_FAMILY: Final = "opus|sonnet|haiku|fable|mythos"
_NAME: Final = re.compile(rf"claude-({_FAMILY})-(\d{{1,2}})(?:-(\d{{1,2}}))?(?!\d)")
_OLD_NAME: Final = re.compile(rf"claude-(\d{{1,2}})(?:-(\d{{1,2}}))?-({_FAMILY})")
_ALWAYS: Final = (0, 0)
_NEVER: Final = (99, 0)

Thinking = Literal["none", "budget", "adaptive"]


class Abilities(msgspec.Struct, frozen=True):
    """`thinking`: how it is asked for; `thinks_always`: it cannot be turned off;
    `between_tools`: only as far as thoughts between calls of tools. `sampling`: temperature and top_p.

    `sampling_both`: the two of them together. `forced_tools`: a choice that demands a call. `xhigh`: an effort between
    high and max. `schemas`: output by a JSON schema. `late_system`: a system turn amid the others.
    """

    thinking: Thinking
    thinks_always: bool
    between_tools: bool
    xhigh: bool
    sampling: bool
    sampling_both: bool
    forced_tools: bool
    schemas: bool
    late_system: bool


_ELSEWHERE: Final = Abilities(
    thinking="budget",
    thinks_always=False,
    between_tools=False,
    xhigh=False,
    sampling=True,
    sampling_both=True,
    forced_tools=True,
    schemas=True,
    late_system=False,
)

# From which version on each family has it: opus, sonnet, haiku; fable and mythos have always been as the newest are.
_SINCE: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "adaptive": {"opus": (4, 6), "sonnet": (4, 6), "haiku": (5, 0)},
    "budget": {"opus": (4, 0), "sonnet": (3, 7), "haiku": (4, 5)},
    "thinks_always": {"opus": (5, 5), "sonnet": _NEVER, "haiku": _NEVER},
    "between_tools": {"opus": _NEVER, "sonnet": (5, 5), "haiku": _NEVER},
    "xhigh": {"opus": (4, 7), "sonnet": (5, 0), "haiku": (5, 0)},
    "no_sampling": {"opus": (4, 7), "sonnet": (5, 0), "haiku": (5, 0)},
    "no_sampling_both": {"opus": (4, 1), "sonnet": (4, 5), "haiku": (4, 5)},
    "no_forced_tools": {"opus": (5, 5), "sonnet": (5, 5), "haiku": _NEVER},
    "schemas": {"opus": (4, 1), "sonnet": (4, 5), "haiku": (4, 5)},
    "late_system": {"opus": (4, 8), "sonnet": (5, 0), "haiku": (5, 0)},
}


@cache
def abilities(provider_model: str) -> Abilities:
    name = provider_model.lower().replace(".", "-")
    version = _version(name)
    if version is None and "claude" not in name:
        return _ELSEWHERE
    family, number = version or ("opus", (98, 0))

    def since(ability: str) -> bool:
        return number >= _SINCE[ability].get(family, _ALWAYS)

    return Abilities(
        thinking="adaptive" if since("adaptive") else "budget" if since("budget") else "none",
        thinks_always=since("thinks_always"),
        between_tools=since("between_tools"),
        xhigh=since("xhigh"),
        sampling=not since("no_sampling"),
        sampling_both=not since("no_sampling_both"),
        forced_tools=not since("no_forced_tools"),
        schemas=since("schemas"),
        late_system=since("late_system"),
    )


def _version(name: str) -> tuple[str, tuple[int, int]] | None:
    """Family and version of `claude-opus-4-5-20251101`, `anthropic/claude-opus-4.5` or `claude-3-7-sonnet-latest`."""
    if found := _NAME.search(name):
        return found[1], (int(found[2]), int(found[3] or 0))
    if found := _OLD_NAME.search(name):
        return found[3], (int(found[1]), int(found[2] or 0))
    return None
