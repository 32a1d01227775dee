"""What the catalogue says of videos: of a provider's, and of an offer's where that says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.catalogue import CatalogError, load_catalog
from server.domain.catalog import VideoFacts

FILE = """
providers:
  - {id: film, dialect: openai, base_url: "http://127.0.0.1:1/v1", videos: {%s}}
models:
  - id: acme/film:free
    offers: [{provider: film, provider_model: m, endpoints: [video], videos: {%s}}]
"""


def facts(tmp_path: Path, of_provider: str, of_offer: str = "") -> VideoFacts:
    path = tmp_path / "my.yaml"
    path.write_text(FILE % (of_provider, of_offer), encoding="utf-8")
    return load_catalog(path, {}).models["acme/film:free"].offers[0].videos


def test_nothing_said_is_nothing_known(tmp_path: Path) -> None:
    assert facts(tmp_path, "") == VideoFacts()


def test_an_offer_says_otherwise_key_by_key(tmp_path: Path) -> None:
    said = "seconds: [4, 8], sizes: [1280x720], default_seconds: 4, cancel: true, fields: [seed], api: generations"
    assert facts(tmp_path, said, "seconds: [4, 12], variants: [video, thumbnail], idempotent: true") == VideoFacts(
        seconds=(4, 12),
        sizes=("1280x720",),
        default_seconds=4,
        variants=("video", "thumbnail"),
        api="generations",
        fields=frozenset({"seed"}),
        cancel=True,
        idempotent=True,
    )


@pytest.mark.parametrize(
    ("of_provider", "of_offer", "said"),
    [
        ("sizes: [720p]", "", "must be width and height in pixels, such as 1280x720"),
        ("seconds: [0]", "", "seconds"),
        ("colour: true", "", "colour"),
        ("", "colour: true", "colour"),
        ("seconds: [4, 8]", "default_seconds: 5", "the default of its videos, 5, must be one of their seconds: 4, 8"),
        (
            "default_size: 10x10",
            "sizes: [20x20]",
            "the default of its videos, 10x10, must be one of their sizes: 20x20",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, of_provider: str, of_offer: str, said: str) -> None:
    with pytest.raises(CatalogError) as caught:
        facts(tmp_path, of_provider, of_offer)
    (problem,) = caught.value.problems
    assert said in str(problem)
