"""Films a test card, in a process of work: H.264 in MP4, playable from its first byte on, silent.

A task has `prompt`, `seconds`, `size`, `seed`, the path of a `reference` picture or none, and the `directory` that
`video.mp4`, `thumbnail.webp` and `spritesheet.jpg` are written to.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
from av.video.stream import VideoStream
from PIL import Image, ImageDraw

from server.local_media.cards import INK, PAPER, RING, Palette, caption, card, cover, font, palette
from server.local_media.messages import tell
from server.local_media.pictures import opened

__all__ = ["FRAMES_A_SECOND", "SPRITES", "render"]

FRAMES_A_SECOND: Final = 24
SPRITES: Final = (4, 3)
"""Pictures across and down in the sheet."""
_SPRITE_SIDE: Final = 320
_TELL_EVERY: Final = 6


def render(task: dict[str, Any]) -> None:
    """Tell `progress` messages, in per cent of the frames. Raises Refused for a reference that is no picture."""
    size, count = tuple(task["size"]), task["seconds"] * FRAMES_A_SECOND
    directory, colours = Path(task["directory"]), palette(task["seed"])
    ground = _ground(task, size, colours)
    scale = _SPRITE_SIDE / max(size)
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    sheet = Image.new("RGB", (small[0] * SPRITES[0], small[1] * SPRITES[1]))
    places = {count * place // (SPRITES[0] * SPRITES[1]): place for place in range(SPRITES[0] * SPRITES[1])}
    unready = directory / f"video-{os.getpid()}.tmp"
    with av.open(str(unready), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = "A test card: nothing in it was generated."
        stream = container.add_stream("libx264", rate=FRAMES_A_SECOND, options={"preset": "ultrafast", "crf": "23"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = FRAMES_A_SECOND
        stream.time_base = Fraction(1, FRAMES_A_SECOND)
        for number in range(count):
            picture = _frame(ground, colours, number, count)
            if number in places:
                across, down = places[number] % SPRITES[0], places[number] // SPRITES[0]
                sheet.paste(picture.resize(small, Image.Resampling.BILINEAR), (across * small[0], down * small[1]))
            if number == count // 2:
                _written(picture, directory / "thumbnail.webp", "WEBP", quality=80, method=2)
            shot = av.VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]
            container.mux(stream.encode(shot))
            if number % _TELL_EVERY == 0:
                tell("progress", percent=100 * number // count)
        container.mux(stream.encode(None))
    _written(sheet, directory / "spritesheet.jpg", "JPEG", quality=80)
    unready.replace(directory / "video.mp4")
    tell("progress", percent=100)


def _ground(task: dict[str, Any], size: tuple[int, int], colours: Palette) -> Image.Image:
    """What does not move."""
    facts = f"{size[0]} x {size[1]} · {FRAMES_A_SECOND} frames/s · {task['seconds']} s · seed {task['seed']}"
    if task["reference"] is None:
        return card(size, colours, task["prompt"], "TEST CARD · nothing was generated", facts)
    width, height = size
    picture = cover(opened(task["reference"], "input_reference").convert("RGB"), size)
    pen = ImageDraw.Draw(picture)
    caption(pen, (0, 0, width, round(height * 0.09)), "TEST CARD · over the picture that was sent", PAPER)
    caption(pen, (0, round(height * 0.74), width, round(height * 0.91)), task["prompt"], PAPER)
    caption(pen, (0, round(height * 0.91), width, height), facts, PAPER)
    return picture


def _frame(ground: Image.Image, colours: Palette, number: int, count: int) -> Image.Image:
    """One picture: a ball on its way around, how far the film is, and the number of the frame."""
    picture = ground.copy()
    pen = ImageDraw.Draw(picture)
    width, height = picture.size
    reach, ball = min(width, height) * RING, max(3, min(width, height) // 24)
    angle = 2 * math.pi * (colours.phase + number / (FRAMES_A_SECOND * 4))
    x, y = width / 2 + reach * math.cos(angle), height / 2 + reach * math.sin(angle)
    pen.ellipse((x - ball, y - ball, x + ball, y + ball), fill=colours.mark, outline=INK, width=max(1, ball // 8))
    top, bottom = round(height * 0.68), round(height * 0.71)
    left, right = round(width * 0.08), round(width * 0.92)
    pen.rectangle((left, top, right, bottom), fill=PAPER)
    pen.rectangle((left, top, left + (right - left) * (number + 1) // count, bottom), fill=colours.mark)
    size = max(9, min(width, height) // 28)
    text = f"frame {number + 1} of {count} · {number / FRAMES_A_SECOND:05.2f} s"
    line = (width / 2, height * 0.165)
    half = font(size).getlength(text) / 2 + size
    pen.rectangle((line[0] - half, line[1] - size, line[0] + half, line[1] + size), fill=PAPER)
    pen.text(line, text, fill=INK, font=font(size), anchor="mm")
    return picture


def _written(picture: Image.Image, path: Path, format_: str, **options: Any) -> None:
    """All of it or nothing."""
    unready = path.with_suffix(f".{os.getpid()}.tmp")
    picture.save(unready, format_, **options)
    unready.replace(path)
