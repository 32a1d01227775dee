"""What each request of a run does to the gateway: derived from the seed and the number of the request alone.

The number travels to the upstream in the prompt ("plan 000123"), and the upstream derives the same plan from it.
"""

from __future__ import annotations

import random
import re
from typing import Final, Literal

import msgspec

from tests.chaos.prices import DRAINED, FREE, MAX_OUTPUT_TOKENS, PAID, PROVIDERS, Tokens, estimate

Surface = Literal["chat", "responses", "messages", "embeddings"]
PATHS: Final[dict[Surface, str]] = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
}
When = Literal["before", "middle", "end"]
DEFAULT: Final = "default"
POOR: Final = "poor"
"""A team with so little credit that it is refused again and again, and at last for good."""

LEAVE_SHARE: Final = 0.20
ERROR_SHARE: Final = 0.10
CUT_SHARE: Final = 0.05
NO_USAGE_SHARE: Final = 0.08
RUNNING_USAGE_SHARE: Final = 0.04
OVERRUN_SHARE: Final = 0.04
POOR_SHARE: Final = 0.05
KEYED_SHARE: Final = 0.15
"""Requests with an idempotency key: who left, was cut off or refused asks once more."""
DRAINED_SHARE: Final = 0.30
FREE_SHARE: Final = 0.04
STREAM_SHARE: Final = 0.60
FALLBACK_SERVES_SHARE: Final = 0.60

_WORDS: Final = ("tide", "lantern", "of", "seven", "rivers,", "quietly", "under", "glass", "étude", "水", "море", "ok")
_MARK: Final = re.compile(rb"plan (\d{6})")


class Script(msgspec.Struct, frozen=True):
    """What one provider does: refuses with `status`, or says `pieces`, the first after `first_s` seconds and the others
    `every_s` apart, and then what it used. With `garbage` it says instead what no client could read.

    `usage` None tells nothing of that. `running`: each chunk of a stream tells what was used so far. `cut_after`: the
    connection ends after so many pieces, with a reset where `rude`.
    """

    status: int = 200
    first_s: float = 0.0
    every_s: float = 0.0
    pieces: tuple[str, ...] = ()
    usage: Tokens | None = None
    running: bool = False
    cut_after: int | None = None
    rude: bool = False
    garbage: bool = False

    @property
    def lasts_s(self) -> float:
        return self.first_s + self.every_s * len(self.pieces)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def used_after(self, pieces: int) -> Tokens | None:
        """What a chunk with running usage tells after so many pieces."""
        if self.usage is None or not self.running:
            return None
        return msgspec.structs.replace(self.usage, output=estimate("".join(self.pieces[:pieces])), reasoning=0)


class Leave(msgspec.Struct, frozen=True):
    """When the client goes: `before` the first byte, so many seconds after it asked; in the `middle`, after so many
    events with text; at the `end`, after the last text and before the end of the stream. `rude`: with a reset.
    """

    when: When
    after_s: float = 0.0
    events: int = 0
    rude: bool = False


class Plan(msgspec.Struct, frozen=True):
    """One request. `turns` are its prompt, the first of two a system turn; `prefers` is asked before the other."""

    index: int
    team: str
    model: str
    surface: Surface
    stream: bool
    turns: tuple[str, ...]
    max_tokens: int | None
    prefers: str | None
    tells_usage: bool
    scripts: dict[str, Script]
    leave: Leave | None = None
    key: str | None = None

    @property
    def is_read_on(self) -> bool:
        """Whether the gateway reads the provider to its end when the client has left."""
        return self.model == DRAINED or self.key is not None

    @property
    def lasts_s(self) -> float:
        """All that its providers may take together."""
        return sum(script.lasts_s for script in self.scripts.values())

    @property
    def is_paid(self) -> bool:
        return self.model != FREE

    @property
    def asks_first(self) -> str:
        """The provider that is called first."""
        return self.prefers or PROVIDERS[self.model][0]

    @property
    def path(self) -> str:
        return PATHS[self.surface]

    def body(self) -> dict[str, object]:
        """The request as it is sent."""
        body: dict[str, object] = {"model": self.model}
        *system, user = self.turns
        if self.prefers is not None:
            body["provider"] = {"order": [self.prefers]}
        if self.surface == "embeddings":
            return body | {"input": user}
        body["stream"] = self.stream
        if self.surface == "messages":
            body |= {
                "messages": [{"role": "user", "content": user}],
                "max_tokens": self.max_tokens or MAX_OUTPUT_TOKENS,
            }
            return body | ({"system": system[0]} if system else {})
        if self.surface == "responses":
            body |= {"input": user, "store": self.index % 2 == 0}
            body |= {"instructions": system[0]} if system else {}
            return body | ({} if self.max_tokens is None else {"max_output_tokens": self.max_tokens})
        body["messages"] = [
            *({"role": "system", "content": text} for text in system),
            {"role": "user", "content": user},
        ]
        if self.stream and self.tells_usage:
            body["stream_options"] = {"include_usage": True}
        return body | ({} if self.max_tokens is None else {"max_tokens": self.max_tokens})


def plan_of(seed: int, index: int) -> Plan:
    """The plan of request `index`: the same in every process and in every run with this seed."""
    rng = random.Random(f"chaos:{seed}:{index}")
    fate = rng.random()
    is_cut = ERROR_SHARE <= fate < ERROR_SHARE + CUT_SHARE
    stream = is_cut or rng.random() < STREAM_SHARE
    team = POOR if rng.random() < POOR_SHARE else DEFAULT
    free, drained = rng.random() < FREE_SHARE, rng.random() < DRAINED_SHARE
    model = FREE if free and team == DEFAULT else DRAINED if drained else PAID
    prefers = rng.choice([None, None, *PROVIDERS[model]])
    first = prefers or PROVIDERS[model][0]
    other = next(name for name in PROVIDERS[model] if name != first)
    scripts = {first: serving(rng, stream), other: serving(rng, stream)}
    if fate < ERROR_SHARE:
        scripts[first] = refusing(rng)
        if rng.random() >= FALLBACK_SERVES_SHARE:
            scripts[other] = refusing(rng)
    elif is_cut:
        served = scripts[first]
        scripts[first] = msgspec.structs.replace(
            served, cut_after=rng.randrange(1, len(served.pieces) + 1), rude=rng.random() < 0.5
        )
    return Plan(
        index=index,
        team=team,
        model=model,
        surface=rng.choice(["chat", "responses"]),
        stream=stream,
        turns=prompt(rng, index),
        max_tokens=rng.choice([None, None, 64, 700]),
        prefers=prefers,
        tells_usage=rng.random() < 0.9,
        scripts=scripts,
        leave=leaving(rng, stream, scripts[first]) if rng.random() < LEAVE_SHARE else None,
        key=f"order-{index:06d}" if rng.random() < KEYED_SHARE else None,
    )


def index_in(body: bytes) -> int:
    """The number of the plan that a prompt belongs to. Raises ValueError where there is none."""
    if (found := _MARK.search(body)) is None:
        raise ValueError("no plan is named in the prompt")
    return int(found[1])


def prompt(rng: random.Random, index: int) -> tuple[str, ...]:
    user = f"plan {index:06d} {_words(rng, rng.randrange(2, 60))}"
    return (_words(rng, rng.randrange(3, 20)), user) if rng.random() < 0.3 else (user,)


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(_WORDS, k=count))


def refusing(rng: random.Random) -> Script:
    return Script(status=rng.choice([429, 500]), first_s=rng.uniform(0.0, 0.2))


def serving(rng: random.Random, stream: bool) -> Script:
    pieces = tuple(f"{word} " for word in rng.choices(_WORDS, k=rng.randrange(3, 40)))
    fate = rng.random()
    return Script(
        first_s=rng.uniform(0.0, 0.8) if stream else rng.uniform(0.05, 3.5),
        every_s=rng.uniform(0.005, 0.18),
        pieces=pieces,
        usage=None if fate < NO_USAGE_SHARE else _usage(rng),
        running=NO_USAGE_SHARE <= fate < NO_USAGE_SHARE + RUNNING_USAGE_SHARE,
    )


def _usage(rng: random.Random) -> Tokens:
    """Sometimes far more than the request had asked for: then what it held does not suffice."""
    given, made = rng.randrange(5, 3000), rng.randrange(1, 400)
    if rng.random() < OVERRUN_SHARE:
        made += rng.randrange(6_000, 40_000)
    return Tokens(
        input=given,
        output=made,
        cached=rng.randrange(given + 1) if rng.random() < 0.5 else 0,
        reasoning=rng.randrange(made + 1) if rng.random() < 0.3 else 0,
    )


def leaving(rng: random.Random, stream: bool, script: Script) -> Leave:
    rude = rng.random() < 0.5
    when: When = rng.choice(["before", "middle", "end"]) if stream else rng.choice(["before", "before", "middle"])
    # What leaves before the first byte is as likely to go before the provider was asked as while it thinks.
    after_s = rng.uniform(0.0, rng.choice([0.01, 0.04, max(0.05, script.first_s)]))
    return Leave(when, after_s, rng.randrange(1, max(2, len(script.pieces))), rude)
