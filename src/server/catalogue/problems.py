"""What loading the catalogue yields: a catalogue with the files behind it, or every problem at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from server.domain.catalog import Catalog

Mark: TypeAlias = tuple[int, int, int, int] | None
"""What shows that a file has changed; None where there is none."""


def mark_of(path: Path) -> Mark:
    """Links are followed: a mounted ConfigMap changes by swapping one."""
    try:
        stat = path.stat()
    except (OSError, ValueError):  # a name with a NUL
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, and how to mend it. `line` counts from 1, 0 where the whole file is meant.

    `text` never holds a value that might be a credential.
    """

    file: str
    line: int
    path: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.text}" if self.path else f"{place}: {self.text}"


class LoadedCatalog(msgspec.Struct, frozen=True):
    """`files` are those that the catalogue depends on, key files included, as they were just before they were read."""

    catalog: Catalog
    files: Mapping[Path, Mark]


class CatalogError(Exception):
    """The catalogue cannot be used. `problems` is complete and in the order of the files; `files` as above."""

    def __init__(self, problems: Iterable[Problem], files: Mapping[Path, Mark]) -> None:
        self.problems = tuple(problems)
        self.files = files
        super().__init__("\n".join(map(str, self.problems)))


MOST_LISTED: Final = 80


def suggestion(word: str, known: Sequence[str]) -> str:
    """The nearest known words as a hint, else all of them, unless they are too many to read."""
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(f'"{match}"' for match in near) + "?"
    if len(known) > MOST_LISTED:
        return f"{len(known)} others are known"
    return "known are " + ", ".join(known)
