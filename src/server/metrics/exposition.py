"""The families of all workers as one text, in Prometheus' format (`text/plain; version=0.0.4`).

Each series says which worker it is of. A worker that was started again begins at 0, which is what `rate` expects of a
counter; `sum without (worker)` adds them up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from server.metrics.figures import Family, Series

__all__ = ["CONTENT_TYPE", "Reading", "render"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Reading(NamedTuple):
    """What one worker told; nothing where it did not answer."""

    worker: str
    families: Sequence[Family]


def render(readings: Sequence[Reading]) -> str:
    """All series of a family stand together, whichever worker they are of."""
    by_name: dict[str, list[tuple[str, Family]]] = {}
    for reading in readings:
        for family in reading.families:
            by_name.setdefault(family.name, []).append((reading.worker, family))
    return "".join(f"{line}\n" for told in by_name.values() for line in _lines(told))


def _lines(told: Sequence[tuple[str, Family]]) -> Iterator[str]:
    _, first = told[0]
    yield f"# HELP {first.name} {first.text}"
    yield f"# TYPE {first.name} {first.kind}"
    for worker, family in told:
        for series in family.series:
            pairs = [("worker", worker), *zip(family.label_names, series.labels, strict=True)]
            labels = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs)
            if family.kind == "histogram":
                yield from _buckets(family, series, labels)
            else:
                yield f"{family.name}{{{labels}}} {_number(series.value)}"


def _buckets(family: Family, series: Series, labels: str) -> Iterator[str]:
    total = 0
    for bound, count in zip((*family.bounds, math.inf), series.buckets, strict=True):
        total += count
        yield f'{family.name}_bucket{{{labels},le="{_number(bound)}"}} {total}'
    yield f"{family.name}_sum{{{labels}}} {_number(series.value)}"
    yield f"{family.name}_count{{{labels}}} {total}"


def _number(value: int | float) -> str:
    return "+Inf" if value == math.inf else repr(value)
