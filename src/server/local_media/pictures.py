"""Draws pictures, in a process of work: test cards, and captions over pictures that were sent.

A task has `prompt`, `n`, `size` (two numbers, or none), `format`, `compression`, `partials`, `seed`, `quality` and the
paths of `images` and `mask`.
"""

from __future__ import annotations

import io
import warnings
from typing import Any, Final

from PIL import Image, ImageDraw, ImageOps

from server.local_media.cards import caption, card, cover, palette
from server.local_media.messages import tell
from server.local_media.refusal import bad_request

__all__ = ["draw", "opened"]

MAX_INPUT_PIXELS: Final = 40_000_000
"""Of a picture that is sent; a small file can claim any number."""
MAX_MADE_PIXELS: Final = 16_000_000
"""Of all that one request makes."""
MAX_SIDE: Final = 2048
DEFAULT_SIZE: Final = (1024, 1024)
Image.MAX_IMAGE_PIXELS = MAX_INPUT_PIXELS
_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_INSET: Final = 0.18
"""Of the width, for each further picture."""


def opened(path: str, param: str) -> Image.Image:
    """The picture in a file, upright. Raises Refused for what is none, is broken, or has too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as found:
                found.load()
                return ImageOps.exif_transpose(found)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise bad_request(
            "image_too_large", f"A picture may have {MAX_INPUT_PIXELS:,} pixels at the most.", param
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError):
        raise bad_request(
            "invalid_image", "The file is no PNG, JPEG or WebP picture, or a broken one.", param
        ) from None


def draw(task: dict[str, Any]) -> None:
    """Tell `partial` and `image` messages, for each of `n` pictures in turn. Raises Refused."""
    images = [opened(path, "image") for path in task["images"]]
    size = tuple(task["size"]) if task["size"] else _size_like(images)
    if size[0] * size[1] * task["n"] > MAX_MADE_PIXELS:
        raise bad_request(
            "invalid_size", f"The pictures may have {MAX_MADE_PIXELS:,} pixels together at the most.", "n"
        )
    mask = _mask(task["mask"], images[0].size) if task["mask"] else None
    told = f"{size[0]}x{size[1]}"
    for number in range(task["n"]):
        picture = _picture(task, number, size, images, mask)
        for partial in range(task["partials"]):
            tell("partial", _encoded(_unfinished(picture, partial, task["partials"]), task), index=partial, size=told)
        tell("image", _encoded(picture, task), size=told)


def _picture(
    task: dict[str, Any], number: int, size: tuple[int, int], images: list[Image.Image], mask: Image.Image | None
) -> Image.Image:
    count = f" · {number + 1} of {task['n']}" if task["n"] > 1 else ""
    facts = f"{size[0]} x {size[1]} · {task['format']} · quality {task['quality']}{count}"
    colours = palette(task["seed"] + number)
    if not images:
        return card(size, colours, task["prompt"], "TEST CARD · nothing was generated", facts)
    picture = cover(images[0].convert("RGB"), size)
    width, height = size
    if mask is not None:
        changed = cover(mask, size)
        box = changed.point(lambda value: 255 if value > 127 else 0).getbbox() or (0, 0, width, height)
        inner = (max(1, box[2] - box[0]), max(1, box[3] - box[1]))
        drawn = Image.new("RGB", size)
        drawn.paste(card(inner, colours, task["prompt"], "TEST CARD · edit", facts), box[:2])
        return Image.composite(drawn, picture, changed)
    for place, further in enumerate(images[1:]):
        side = max(1, round(width * _INSET))
        across = max(1, width // (side + 4))
        corner = (4 + place % across * (side + 4), 4 + place // across * (side + 4))
        picture.paste(cover(further.convert("RGB"), (side, side)), corner)
    pen = ImageDraw.Draw(picture)
    caption(pen, (0, round(height * 0.72), width, round(height * 0.92)), task["prompt"], colours.ground)
    caption(pen, (0, round(height * 0.92), width, height), f"TEST CARD · edit · {facts}", colours.ground)
    return picture


def _size_like(images: list[Image.Image]) -> tuple[int, int]:
    if not images:
        return DEFAULT_SIZE
    width, height = images[0].size
    scale = min(1.0, MAX_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _mask(path: str, size: tuple[int, int]) -> Image.Image:
    """Where the picture may be changed: white, where the mask that was sent is transparent."""
    sent = opened(path, "mask")
    if "A" not in sent.getbands() and "transparency" not in sent.info:
        raise bad_request("invalid_mask", "A mask must have an alpha channel: what is transparent is changed.", "mask")
    if sent.size != size:
        raise bad_request("invalid_mask", "A mask must be as large as the first picture.", "mask")
    return ImageOps.invert(sent.convert("RGBA").getchannel("A"))


def _unfinished(picture: Image.Image, number: int, count: int) -> Image.Image:
    """In coarse squares, which get finer from one to the next."""
    side = max(2, 2 ** (5 + number * 2 - (count - 1)))
    coarse = picture.resize((side, max(1, side * picture.height // picture.width)), Image.Resampling.BOX)
    return coarse.resize(picture.size, Image.Resampling.NEAREST)


def _encoded(picture: Image.Image, task: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    match task["format"]:
        case "png":
            picture.save(out, "PNG", compress_level=6)
        case "jpeg":
            picture.save(out, "JPEG", quality=max(1, min(95, task["compression"])))
        case "webp":
            picture.save(out, "WEBP", quality=task["compression"], method=2)
    return out.getvalue()
