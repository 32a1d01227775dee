"""What becomes of each video of a run, and what its client does: derived from the seed and the video's number alone.

The number travels to the stand-ins in the prompt ("film 000123"), and they derive the same plan from it.
"""

from __future__ import annotations

import random
import re
from typing import Final, Literal

import msgspec

from tests.chaos import prices

Provider = Literal["keyed", "plain"]
Fate = Literal["completed", "failed", "refused", "cancelled", "hangs", "lost"]

PROVIDERS: Final[tuple[Provider, ...]] = ("keyed", "plain")
"""The first heeds idempotency keys, the second does not."""
PRICES: Final = {"keyed": "100000.137", "plain": "29311.0707"}
"""USD per million seconds. A second of them makes no whole number of nano-dollars."""
FATES: Final[dict[Fate, float]] = {
    "completed": 0.58, "failed": 0.10, "refused": 0.08, "cancelled": 0.10, "hangs": 0.06, "lost": 0.08,
}  # fmt: skip
"""`hangs`: it goes on for ever. `lost`: a provider begins it, and its answer is lost."""
DELETED_SHARE: Final = 0.15
"""Of those that are complete: deleted once they are downloaded."""
STOPS_SHARE: Final = 0.5
"""Of those that are downloaded: their clients stop in the middle, and go on later."""

_MARK: Final = re.compile(r"film (\d{6})")


class FilmPlan(msgspec.Struct, frozen=True):
    """One video. `begins_at_s` after the run did. `takes_s`: after so long its provider is done; None is never.

    `size` of its content is in bytes, each block of which comes `pause_s` after the one before. `cancel_after_s`: when
    its client has enough of it. `stops_at`: after so many bytes its client breaks the download off.
    """

    index: int
    seed: int
    provider: Provider
    fate: Fate
    begins_at_s: float
    seconds: int
    takes_s: float | None
    size: int
    pause_s: float
    cancel_after_s: float | None = None
    stops_at: int | None = None
    is_deleted: bool = False

    @property
    def model(self) -> str:
        return f"chaos/{self.provider}"

    @property
    def prompt(self) -> str:
        return f"film {self.index:06d}"

    @property
    def key(self) -> str:
        """The idempotency key that it is asked for with."""
        return f"film-{self.index:06d}"

    @property
    def price(self) -> int:
        """Nano-dollars, if it is complete."""
        return prices.line(PRICES[self.provider], self.seconds)

    @property
    def content(self) -> bytes:
        """What is made; no two videos have the same."""
        return random.Random(f"content:{self.seed}:{self.index}").randbytes(self.size)


def plan_of(seed: int, index: int, *, begins_at_s: float, may_hang: bool) -> FilmPlan:
    """The plan of video `index`. A run that has no time for it has none that hang: what would is complete."""
    rng = random.Random(f"films:{seed}:{index}")
    [fate] = rng.choices(list(FATES), list(FATES.values()))
    if fate == "hangs" and not may_hang:
        fate = "completed"
    size = rng.randrange(150_000, 1_200_000)
    return FilmPlan(
        index=index,
        seed=seed,
        provider=rng.choice(PROVIDERS),
        fate=fate,
        begins_at_s=begins_at_s,
        seconds=rng.choice([4, 8]),
        takes_s=None if fate in ("hangs", "cancelled") else rng.uniform(0.0, 5.0),
        size=size,
        pause_s=rng.uniform(0.0, 0.15),
        cancel_after_s=rng.uniform(0.0, 3.0) if fate == "cancelled" else None,
        stops_at=rng.randrange(1, size) if rng.random() < STOPS_SHARE else None,
        is_deleted=fate == "completed" and rng.random() < DELETED_SHARE,
    )


def plans_of(seed: int, count: int, spread_s: float, *, hang_until_s: float) -> dict[int, FilmPlan]:
    """All of a run's, which begin evenly over `spread_s`; of those that hang none begins after `hang_until_s`."""
    begins = {index: spread_s * index / count for index in range(count)}
    return {
        index: plan_of(seed, index, begins_at_s=at_s, may_hang=at_s < hang_until_s) for index, at_s in begins.items()
    }


def index_in(prompt: str) -> int:
    """The number of the video that a prompt belongs to. Raises ValueError where there is none."""
    if (found := _MARK.search(prompt)) is None:
        raise ValueError("no film is named in the prompt")
    return int(found[1])
