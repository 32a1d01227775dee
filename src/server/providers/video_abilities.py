"""What an offer of videos can be asked for, told by asking its dialect: each thing by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from server.domain.catalog import Offer
from server.domain.request import Endpoint
from server.domain.upload import HeldUpload
from server.domain.video import VideoAbilities, VideoRequest
from server.providers.video_frames import RATIOS, SHORT_SIDES

__all__ = ["abilities"]

_PICTURE: Final = HeldUpload(b"\x89PNG\r\n\x1a\n", "image/png")
_ASKED: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("input_reference", {"reference": _PICTURE}),
    ("negative_prompt", {"negative_prompt": "blur"}),
    ("remix", {"remix_of": "another"}),
    ("seed", {"seed": 1}),
)


def abilities(offer: Offer, unsupported: Callable[[Offer, VideoRequest], str | None]) -> VideoAbilities:
    """`unsupported` as `server.domain.video.VideoAdapter` has it."""

    def takes(**asked: Any) -> bool:
        request = VideoRequest(endpoint=Endpoint.VIDEO, model="", prompt="a cat", **asked)
        return unsupported(offer, request) is None

    facts = offer.videos
    usual = ("seconds", {"seconds": (*facts.seconds, 4)[0]}), ("size", {"size": (*facts.sizes, "1280x720")[0]})
    fields = [name for name, asked in (*_ASKED, *usual) if takes(**asked)]
    resolutions = [word for word in SHORT_SIDES if takes(resolution=word) or _with_a_ratio(word, takes)]
    ratios = [word for word in RATIOS if takes(aspect_ratio=word) or _with_a_resolution(word, takes)]
    fields += [name for name, words in (("resolution", resolutions), ("aspect_ratio", ratios)) if words]
    is_told = bool(facts.sizes)
    return VideoAbilities(
        tuple(sorted(fields)), tuple(resolutions) if is_told else (), tuple(ratios) if is_told else ()
    )


def _with_a_ratio(resolution: str, takes: Callable[..., bool]) -> bool:
    return any(takes(resolution=resolution, aspect_ratio=ratio) for ratio in RATIOS)


def _with_a_resolution(ratio: str, takes: Callable[..., bool]) -> bool:
    return any(takes(resolution=resolution, aspect_ratio=ratio) for resolution in SHORT_SIDES)
