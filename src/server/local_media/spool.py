"""Where files of requests are while they are worked on."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Spool"]


class Spool:
    """A directory of its own for each request, gone with it; what a killed server left is removed at the start."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir(mode=0o700, parents=True)

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._parent, ignore_cleanup_errors=True) as name:
            yield Path(name)
