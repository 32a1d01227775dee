"""Finding and reading the catalogue's files. Blocking: a running gateway calls it from a thread."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

import server
from server.catalogue.build import build
from server.catalogue.files import ParsedFile, check_shape
from server.catalogue.problems import CatalogError, LoadedCatalog, Mark, Problem, mark_of
from server.catalogue.source import read_source
from server.domain.catalog import Catalog

MAX_KEY_FILE_BYTES: Final = 16 << 10


def shipped_directory() -> Path:
    """Where the files lie that come with the gateway: inside the installed package, or beside the sources."""
    package = Path(server.__file__).parent
    inside = package / "catalog"
    return inside if inside.is_dir() else package.parents[1] / "catalog"


def load_catalog(config_path: Path | None, environ: Mapping[str, str]) -> Catalog:
    """What ships, and on top of it the operator's file. Raises CatalogError with all problems."""
    return read_catalog(config_path, environ).catalog


def read_catalog(config_path: Path | None, environ: Mapping[str, str]) -> LoadedCatalog:
    """As `load_catalog`, with the files that were read. Raises CatalogError, which names them too."""
    return _Reading(config_path, environ).run()


def _parse(path: Path, name: str, shipped: bool) -> tuple[ParsedFile | None, list[Problem]]:
    source, problems = read_source(path, name, trusted=shipped)
    if source is None or problems:
        return None, problems
    content, problems = check_shape(source)
    return None if content is None else ParsedFile(source, content, shipped), problems


@lru_cache(maxsize=64)
def _parse_shipped(path: Path, name: str, mark: Mark) -> tuple[ParsedFile | None, list[Problem]]:
    """Once for each state of a file: when the operator's own changes, these have not."""
    return _parse(path, name, True)


class _Reading:
    """One pass over the files; remembers which they were."""

    def __init__(self, config_path: Path | None, environ: Mapping[str, str]) -> None:
        self._config_path = config_path
        self._environ = environ
        self._files: dict[Path, Mark] = {}
        self._problems: list[Problem] = []

    def run(self) -> LoadedCatalog:
        own = self._parse(self._config_path, str(self._config_path), False) if self._config_path else None
        parsed = [] if own is not None and own.content.replace_catalog else self._shipped()
        if own is not None:
            parsed.append(own)
        self._stop_at_problems()
        catalog, problems = build(parsed, self._environ, self._read_key)
        self._problems += problems
        self._stop_at_problems()
        return LoadedCatalog(catalog, self._files)

    def _stop_at_problems(self) -> None:
        if self._problems:
            raise CatalogError(self._problems, self._files)

    def _shipped(self) -> list[ParsedFile]:
        directory = shipped_directory()
        self._files[directory] = mark_of(directory)
        found = [self._parse(path, f"catalog/{path.name}", True) for path in sorted(directory.glob("*.yaml"))]
        if not found:
            self._problems.append(Problem("catalog", 0, "", "the shipped files are missing; install the gateway again"))
        return [file for file in found if file is not None]

    def _parse(self, path: Path, name: str, shipped: bool) -> ParsedFile | None:
        self._files[path] = mark = mark_of(path)
        parsed, problems = _parse_shipped(path, name, mark) if shipped else _parse(path, name, shipped)
        self._problems += problems
        return parsed

    def _read_key(self, file: ParsedFile, spelled: str) -> str | None:
        """A relative path is relative to the file that names it."""
        base = shipped_directory() if file.shipped else (self._config_path or Path()).parent
        try:
            path = base / Path(spelled).expanduser()
        except RuntimeError:  # nobody has that name
            return None
        self._files[path] = mark_of(path)
        try:
            with path.open("rb") as key_file:
                raw = key_file.read(MAX_KEY_FILE_BYTES + 1)
        except (OSError, ValueError):  # a name with a NUL
            return None
        if len(raw) > MAX_KEY_FILE_BYTES:
            return None
        try:
            return raw.decode("utf-8-sig").strip() or None
        except UnicodeDecodeError:
            return None
