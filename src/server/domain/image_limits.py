"""What of a request for pictures can be meant, whatever surface it came in by. Errors name the field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from server.domain.errors import GatewayError, Reason
from server.domain.images import MAX_IMAGES, MAX_INPUT_IMAGES, MAX_PROMPT_CHARS
from server.domain.limits import check_choice, check_count, check_length, invalid_value, missing_field
from server.domain.picture_header import UnknownPicture, picture_size
from server.domain.upload import Upload

__all__ = [
    "CHOICES",
    "IMAGE",
    "MASK",
    "MAX_INPUT_BYTES",
    "MAX_PARTIALS",
    "MAX_USER_CHARS",
    "SIZE_PATTERN",
    "check_files",
    "check_picture",
    "check_prompt",
    "check_settings",
]

IMAGE: Final = "image"
MASK: Final = "mask"
MAX_PARTIALS: Final = 3
MAX_SIDE: Final = 8192
"""Of a picture that is asked for."""
MAX_USER_CHARS: Final = 512
MAX_INPUT_PIXELS: Final = 64_000_000
"""Of one picture that is sent in: who decodes it needs some four bytes for each."""
MAX_INPUT_BYTES: Final = 25 * 1024 * 1024
"""Of all pictures and the mask together."""

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "quality": ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"),
    "background": ("auto", "transparent", "opaque"),
    "output_format": ("png", "jpeg", "webp"),
    "moderation": ("auto", "low"),
    "style": ("vivid", "natural"),
    "input_fidelity": ("high", "low"),
}
"""By field, what it may say; providers take fewer."""

SIZE_PATTERN: Final = "auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3}"
_SIZE: Final = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise missing_field("prompt")
    check_length(prompt, MAX_PROMPT_CHARS, "prompt")


def check_settings(
    texts: Mapping[str, str | None], *, n: int | None, compression: int | None, partials: int | None, stream: bool
) -> None:
    """`texts` are fields that say one word, `size` and `user` among them; None where the client says nothing."""
    for name, text in texts.items():
        if text is None:
            continue
        if name == "size":
            _check_size(text)
        elif name in CHOICES:
            check_choice(text, CHOICES[name], name)
        else:
            check_length(text, MAX_USER_CHARS, name)
    _check_within(n, 1, MAX_IMAGES, "n")
    _check_within(compression, 0, 100, "output_compression")
    _check_within(partials, 0, MAX_PARTIALS, "partial_images")
    if partials and not stream:
        raise invalid_value("partial_images", "needs a stream")


def _check_size(size: str) -> None:
    if size == "auto":
        return
    if not is_size(size):
        raise invalid_value("size", f"must be auto, or <width>x<height> of at most {MAX_SIDE} pixels each")


def is_size(text: str) -> bool:
    """Whether it is `<width>x<height>` of at most MAX_SIDE pixels each."""
    found = _SIZE.fullmatch(text)
    return found is not None and max(map(int, found.groups())) <= MAX_SIDE


def _check_within(value: int | None, low: int, high: int, param: str) -> None:
    if value is not None and not low <= value <= high:
        raise invalid_value(param, f"must be from {low} to {high}, not {value}")


async def check_files(images: Sequence[Upload], mask: Upload | None) -> None:
    """None of them is decoded: how large a picture is stands in its header."""
    if not images:
        raise missing_field(IMAGE)
    check_count(len(images), MAX_INPUT_IMAGES, IMAGE)
    named = [(IMAGE if len(images) == 1 else f"{IMAGE}[{place}]", image) for place, image in enumerate(images)]
    if mask is not None:
        named.append((MASK, mask))
    if sum(file.size for _, file in named) > MAX_INPUT_BYTES:
        raise GatewayError(
            Reason.REQUEST_TOO_LARGE,
            f"The pictures are larger than {MAX_INPUT_BYTES // 2**20} MiB together.",
            param=IMAGE,
        )
    for param, file in named:
        await check_picture(param, file)


async def check_picture(param: str, file: Upload) -> None:
    """Raise GatewayError naming `param` where it is no picture, or one with too many pixels."""
    try:
        width, height = await picture_size(file)
    except UnknownPicture as mistake:
        raise invalid_value(param, str(mistake)) from None
    if width * height > MAX_INPUT_PIXELS:
        raise invalid_value(
            param, f"is a picture of {width}x{height}; one of {MAX_INPUT_PIXELS} pixels is the largest that is taken"
        )
