"""Test cards, drawn with Pillow: what was asked for, in plain letters, over colours that follow from a seed.

Letters are those of Pillow's own font, which has the Latin ones; any other is an empty box.
"""

from __future__ import annotations

import colorsys
import random
from functools import lru_cache
from typing import Final

from PIL import Image, ImageDraw, ImageFont

__all__ = ["RING", "Colour", "Palette", "caption", "card", "cover", "font", "lines_of", "palette"]

Colour = tuple[int, int, int]
INK: Final[Colour] = (255, 255, 255)
PAPER: Final[Colour] = (18, 20, 26)
MAX_SHOWN_CHARS: Final = 400
RING: Final = 0.38
"""How far it is from the middle, as part of the shorter side."""
_BARS: Final = 8
_SMALLEST: Final = 9


class Palette:
    """The colours of one seed, and where things begin to move from."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - for colours
        hue = chance.random()
        self.phase = chance.random()
        self.ground = _hsv(hue, 0.55, 0.28)
        self.line = _hsv(hue, 0.45, 0.42)
        self.mark = _hsv(hue + 0.5, 0.75, 0.98)
        self.bars = tuple(_hsv(hue + step / _BARS, 0.65, 0.85) for step in range(_BARS))


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))
    return red, green, blue


def palette(seed: int) -> Palette:
    """The same for the same seed."""
    return Palette(seed)


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, so many pixels high."""
    return ImageFont.load_default(max(_SMALLEST, size))


def card(size: tuple[int, int], colours: Palette, prompt: str, head: str, foot: str) -> Image.Image:
    """A whole card: grid, ring and bars, `head` and `foot` at its edges, and the prompt in the middle."""
    width, height = size
    picture = Image.new("RGB", size, colours.ground)
    draw = ImageDraw.Draw(picture)
    step = max(8, min(size) // 12)
    for x in range(step // 2, width, step):
        draw.line((x, 0, x, height), colours.line)
    for y in range(step // 2, height, step):
        draw.line((0, y, width, y), colours.line)
    reach = min(size) * RING
    draw.ellipse(
        (width / 2 - reach, height / 2 - reach, width / 2 + reach, height / 2 + reach),
        outline=colours.mark,
        width=max(1, min(size) // 160),
    )
    top, bottom = round(height * 0.72), round(height * 0.82)
    for number, colour in enumerate(colours.bars):
        draw.rectangle((width * number // _BARS, top, width * (number + 1) // _BARS - 1, bottom), fill=colour)
    caption(draw, (0, 0, width, round(height * 0.09)), head, PAPER)
    caption(draw, (0, round(height * 0.91), width, height), foot, PAPER)
    caption(draw, (round(width * 0.08), round(height * 0.24), round(width * 0.92), round(height * 0.66)), prompt, PAPER)
    return picture


def caption(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], text: str, paper: Colour | None) -> None:
    """The text as large as it fits into the box, in its middle, over `paper`; cut short where it is too long."""
    left, top, right, bottom = box
    if paper is not None:
        draw.rectangle((left, top, right - 1, bottom - 1), fill=paper)
    width, height = max(1, round((right - left) * 0.92)), max(1, round((bottom - top) * 0.86))
    size, lines = _fitted(" ".join(text.split())[:MAX_SHOWN_CHARS], width, height)
    draw.multiline_text(
        ((left + right) / 2, (top + bottom) / 2),
        "\n".join(lines),
        fill=INK,
        font=font(size),
        anchor="mm",
        align="center",
        spacing=size * 0.25,
    )


def _fitted(text: str, width: int, height: int) -> tuple[int, list[str]]:
    size = max(_SMALLEST, min(height * 2 // 3, width // 8, 72))
    while True:
        lines, room = lines_of(text, size, width), max(1, int(height // (size * 1.3)))
        if len(lines) <= room:
            return size, lines
        if size == _SMALLEST:
            return size, [*lines[: room - 1], lines[room - 1][:-1] + "..."]
        size = max(_SMALLEST, size * 5 // 6)


def lines_of(text: str, size: int, width: int) -> list[str]:
    """The text in lines of so many pixels at the most; a word that is longer is parted."""
    face, lines, line = font(size), [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if face.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while face.getlength(word) > width and len(word) > 1:
            fits = next((end for end in range(len(word) - 1, 1, -1) if face.getlength(word[:end]) <= width), 1)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line or not lines else lines


def cover(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture scaled to fill the size, cut where its shape is another."""
    scale = max(size[0] / picture.width, size[1] / picture.height)
    width, height = (max(1, round(side / scale)) for side in size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    box = (max(0, left), max(0, top), min(picture.width, left + width), min(picture.height, top + height))
    return picture.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)
