"""A gateway that tells its figures."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.gateway import Gateway

Told = dict[tuple[str, str], float]
"""Values by the name of a series and its labels as text."""


class Metered(Gateway):
    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.environ['AISTATS_METRICS_PORT']}/metrics"

    def series(self) -> Told:
        """What each series says, all workers together."""
        text = httpx.get(self.metrics_url, timeout=30).text
        told: Told = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(
                    sorted(f"{name}={value}" for name, value in sample.labels.items() if name != "worker")
                )
                told[sample.name, labels] = told.get((sample.name, labels), 0) + sample.value
        return told


def grown(before: Told, after: Told, name: str) -> dict[str, float]:
    """By how much the series of a name have grown, those that have."""
    return {
        labels: value - before.get((found, labels), 0)
        for (found, labels), value in after.items()
        if found == name and value != before.get((found, labels), 0)
    }
