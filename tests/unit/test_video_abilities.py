"""What offers of videos say that they can be asked for: just what their dialects let through."""

from __future__ import annotations

import pytest

from server.domain.catalog import VideoFacts
from server.domain.video import VideoAbilities
from server.providers.gemini_videos import GeminiVideos
from server.providers.openai_videos_encode import unsupported
from server.providers.video_abilities import abilities
from tests.fakes.health import HandClock
from tests.unit.test_gemini_videos import FACTS
from tests.unit.test_gemini_videos import offer as veo
from tests.unit.test_openai_videos import SIZES, WORDS, XAI, offer

USUAL = ("aspect_ratio", "input_reference", "remix", "resolution", "seconds", "size")


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (VideoFacts(), VideoAbilities(USUAL)),
        (SIZES, VideoAbilities(USUAL, ("720p",), ("16:9", "9:16"))),
        (WORDS, VideoAbilities(tuple(sorted({*USUAL, "negative_prompt", "seed"})))),
        (XAI, VideoAbilities(("aspect_ratio", "input_reference", "resolution", "seconds", "size"))),
        (VideoFacts(sizes=("1920x1080", "480x480")), VideoAbilities(USUAL, ("480p", "1080p"), ("16:9", "1:1"))),
        (VideoFacts(sizes=("1000x77",)), VideoAbilities(("input_reference", "remix", "seconds", "size"))),
    ],
    ids=["bare", "sizes", "words", "xai", "halves of one size", "no words for its size"],
)
def test_openai_and_xai(facts: VideoFacts, told: VideoAbilities) -> None:
    assert abilities(offer(facts), unsupported) == told


def test_veo() -> None:
    videos = GeminiVideos(None, HandClock())  # type: ignore[arg-type]
    fields = ("aspect_ratio", "input_reference", "negative_prompt", "resolution", "seconds", "seed", "size")
    assert videos.abilities(veo(FACTS)) == VideoAbilities(fields, ("720p",), ("16:9", "9:16"))
