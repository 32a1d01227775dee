"""What each request of a soak is: derived from the seed and its number alone, as those of `tests.chaos.plan`.

Nothing is killed here: what clients and providers do amiss is all that happens. It goes ten times as fast.
"""

from __future__ import annotations

import random
from typing import Final, Literal

import msgspec

from tests.chaos.plan import DEFAULT, POOR, Plan, Script, Surface, leaving, prompt, refusing, serving
from tests.chaos.prices import DRAINED, FREE, PAID, PROVIDERS, VECTORS, Tokens

Mistake = Literal["broken JSON", "no such key", "no such model", "half an upload"]
MISTAKES: Final[tuple[Mistake, ...]] = (
    "broken JSON",
    "no such key",
    "no such model",
    "half an upload",
    "half an upload",
)

MISTAKE_SHARE: Final = 0.06
"""Of all requests: no provider hears of them. A third ends in the middle of its body."""
LEAVE_SHARE: Final = 0.10
FAULT_SHARE: Final = 0.10
"""Of those that are none; the two may meet."""
FALLBACK_SERVES_SHARE: Final = 0.80
POOR_SHARE: Final = 0.03
"""Requests of a team whose credit ends: from then on they are refused with 402."""
FREE_SHARE: Final = 0.05
DRAINED_SHARE: Final = 0.20
KEYED_SHARE: Final = 0.05
TYPED_SHARE: Final = 0.25
STREAM_SHARE: Final = 0.60
SURFACES: Final[tuple[Surface, ...]] = ("chat", "chat", "responses", "messages", "embeddings")
TYPED: Final[tuple[Surface, ...]] = ("chat", "chat", "chat", "embeddings")
PACE: Final = 0.1
"""What the pauses of providers are multiplied by; one provider in fifty keeps them as they are."""


class Typed(Plan, frozen=True):
    """A plan that is asked by gRPC."""


def plan_of(seed: int, index: int) -> Plan | Mistake:
    """Request `index`: the same in every process and in every run with this seed."""
    rng = random.Random(f"soak:{seed}:{index}")
    if rng.random() < MISTAKE_SHARE:
        return rng.choice(MISTAKES)
    is_typed = rng.random() < TYPED_SHARE
    surface = rng.choice(TYPED if is_typed else SURFACES)
    has_text = surface != "embeddings"
    stream = has_text and rng.random() < STREAM_SHARE
    team = POOR if rng.random() < POOR_SHARE else DEFAULT
    model = _model(rng, team) if has_text else VECTORS
    prefers = rng.choice([None, None, *PROVIDERS[model]])
    first = prefers or PROVIDERS[model][0]
    other = next(name for name in PROVIDERS[model] if name != first)
    scripts = {name: _script(rng, stream, has_text) for name in (first, other)}
    if rng.random() < FAULT_SHARE:
        scripts[first] = _faulty(rng, scripts[first])
        if rng.random() >= FALLBACK_SERVES_SHARE:
            scripts[other] = refusing(rng)
    may_leave = has_text and rng.random() < LEAVE_SHARE
    return (Typed if is_typed else Plan)(
        index=index,
        team=team,
        model=model,
        surface=surface,
        stream=stream,
        turns=prompt(rng, index) if has_text else prompt(rng, index)[-1:],
        max_tokens=rng.choice([None, 64, 700]),
        prefers=prefers,
        tells_usage=rng.random() < 0.9,
        scripts=scripts,
        leave=leaving(rng, stream, scripts[first]) if may_leave else None,
        key=f"soak-{index:06d}" if not is_typed and rng.random() < KEYED_SHARE else None,
    )


def _model(rng: random.Random, team: str) -> str:
    if team == DEFAULT and rng.random() < FREE_SHARE:
        return FREE
    return DRAINED if rng.random() < DRAINED_SHARE else PAID


def _script(rng: random.Random, stream: bool, has_text: bool) -> Script:
    script = serving(rng, stream)
    if not has_text:
        return Script(first_s=script.first_s * PACE, usage=Tokens(input=rng.randrange(1, 500), output=0))
    pace = 1.0 if rng.random() < 0.02 else PACE
    return msgspec.structs.replace(script, first_s=script.first_s * pace, every_s=script.every_s * pace)


def _faulty(rng: random.Random, script: Script) -> Script:
    """It refuses, is slow, says what nobody can read, or is cut in the middle."""
    match rng.choice(["refuses", "slow", "garbage", "cut"]):
        case "refuses":
            return refusing(rng)
        case "slow":
            return msgspec.structs.replace(script, first_s=script.first_s + 2.0)
        case "cut" if script.pieces:
            after = rng.randrange(1, len(script.pieces) + 1)
            return msgspec.structs.replace(script, cut_after=after, rude=rng.random() < 0.5)
        case _:
            return msgspec.structs.replace(script, garbage=True)
