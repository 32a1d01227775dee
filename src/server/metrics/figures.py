"""Counters, histograms and gauges of one process, as plain as dictionaries: to count costs well under a microsecond.

Whoever counts takes its labels from a closed set; a new set of labels is a new series for as long as the process lives.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

__all__ = ["Counter", "Family", "Figure", "Histogram", "Labels", "Sampled", "Series"]

Kind = Literal["counter", "gauge", "histogram"]
Labels: TypeAlias = tuple[str, ...]
"""The values of the labels, in the order of their names; empty where a label says nothing."""


class Series(msgspec.Struct, frozen=True, array_like=True):
    """`value` is a histogram's sum; its `buckets` are how many lay below each bound, and in the end how many beyond."""

    labels: Labels
    value: int | float
    buckets: tuple[int, ...] = ()


class Family(msgspec.Struct, frozen=True, array_like=True):
    """Every series of one name. `bounds` are a histogram's, ascending."""

    name: str
    kind: Kind
    text: str
    label_names: Labels
    series: tuple[Series, ...]
    bounds: tuple[float, ...] = ()


class Figure(Protocol):
    def family(self) -> Family:
        """How it stands now."""
        ...


class Counter:
    """Whole numbers stay whole: money is exact here."""

    def __init__(self, name: str, text: str, *label_names: str) -> None:
        self._name = name
        self._text = text
        self._label_names = label_names
        self._values: dict[Labels, int | float] = {}

    def add(self, labels: Labels, amount: int | float = 1) -> None:
        values = self._values
        values[labels] = values.get(labels, 0) + amount

    def family(self) -> Family:
        series = tuple(Series(labels, value) for labels, value in self._values.items())
        return Family(self._name, "counter", self._text, self._label_names, series)


class Histogram:
    """`bounds` ascend."""

    def __init__(self, name: str, text: str, *label_names: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._label_names = label_names
        self._bounds = tuple(bounds)
        self._buckets: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, labels: Labels, value: float) -> None:
        buckets = self._buckets.get(labels)
        if buckets is None:
            buckets = self._buckets[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0
        buckets[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def family(self) -> Family:
        series = tuple(Series(labels, self._sums[labels], tuple(buckets)) for labels, buckets in self._buckets.items())
        return Family(self._name, "histogram", self._text, self._label_names, series, self._bounds)


class Sampled:
    """What somebody else knows, read off them when it is asked for."""

    def __init__(
        self,
        name: str,
        text: str,
        *label_names: str,
        read: Callable[[], Mapping[Labels, int | float]],
        kind: Literal["counter", "gauge"] = "gauge",
    ) -> None:
        self._name = name
        self._text = text
        self._label_names = label_names
        self._read = read
        self._kind: Kind = kind

    def family(self) -> Family:
        series = tuple(Series(labels, value) for labels, value in self._read().items())
        return Family(self._name, self._kind, self._text, self._label_names, series)
