"""Pictures made of a text, or of a text and other pictures: what is asked for, and what is answered."""

from __future__ import annotations

from typing import Final

import msgspec

from server.domain.request import Request
from server.domain.upload import Upload

__all__ = ["MAX_IMAGES", "MAX_INPUT_IMAGES", "MAX_PROMPT_CHARS", "ImageRequest", "Images", "MadeImage"]

MAX_IMAGES: Final = 10
"""Of one request, by OpenAI's limit."""
MAX_INPUT_IMAGES: Final = 16
MAX_PROMPT_CHARS: Final = 32_000


class ImageRequest(Request, frozen=True, kw_only=True):
    """`n` pictures of `prompt`; with `images` they are changes of those, within `mask` where there is one.

    None leaves a choice to the provider. `size` is `<width>x<height>` in pixels, or `auto`. `partials`: how many
    unfinished pictures a stream is to show before each finished one. What has no field here (`background`,
    `moderation`, …) is in `passthrough`.
    """

    prompt: str
    images: tuple[Upload, ...] = ()
    mask: Upload | None = None
    n: int = 1
    size: str | None = None
    quality: str | None = None
    output_format: str | None = None
    partials: int | None = None


class MadeImage(msgspec.Struct, frozen=True, gc=False):
    """One picture, as base64. `revised_prompt` is the text that the provider made of the client's."""

    data: str
    media_type: str
    revised_prompt: str | None = None


class Images(msgspec.Struct, frozen=True):
    """Pictures in the order in which the provider named them, and what it says that it chose."""

    images: tuple[MadeImage, ...]
    size: str | None = None
    quality: str | None = None
    background: str | None = None
    output_format: str | None = None
