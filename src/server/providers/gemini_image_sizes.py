"""Sizes of pictures as Gemini knows them: a shape, and how large it is to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["image_config"]

_SHAPES: Final[Mapping[str, tuple[str, ...]]] = {
    "1:1": ("1024x1024",),
    "2:3": ("848x1264", "832x1248", "1024x1536"),
    "3:2": ("1264x848", "1248x832", "1536x1024"),
    "3:4": ("896x1200", "864x1184"),
    "4:3": ("1200x896", "1184x864"),
    "4:5": ("928x1152", "896x1152"),
    "5:4": ("1152x928", "1152x896"),
    "9:16": ("768x1376", "768x1344", "1024x1792"),
    "16:9": ("1376x768", "1344x768", "1792x1024"),
    "21:9": ("1584x672", "1536x672"),
}
"""By shape, the size that the third generation makes of it at 1K, that of the second, and OpenAI's of that shape, which
comes out as one of the former."""

_TIMES: Final = {"2K": 2, "4K": 4}
"""How much longer the sides are, from the third generation on."""


def _larger(size: str, times: int) -> str:
    width, _, height = size.partition("x")
    return f"{int(width) * times}x{int(height) * times}"


_CONFIGS: Final[Mapping[str, Mapping[str, str]]] = {
    **{size: {"aspectRatio": shape} for shape, sizes in _SHAPES.items() for size in sizes},
    **{
        _larger(sizes[0], times): {"aspectRatio": shape, "imageSize": name}
        for shape, sizes in _SHAPES.items()
        for name, times in _TIMES.items()
    },
}


def image_config(size: str | None, *, has_sizes: bool) -> Mapping[str, str] | None:
    """`imageConfig` for a size in pixels; None where it cannot be said. `has_sizes`: not all models have 2K and 4K."""
    if size in (None, "auto"):
        return {}
    found = _CONFIGS.get(size or "")
    return None if found is not None and "imageSize" in found and not has_sizes else found
