"""What the page at /docs consists of is what the locked package holds, byte for byte."""

from __future__ import annotations

import gzip
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from rest_bridge.documents import PAGE_FILES

SCRIPT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "docs_page.py"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = SCRIPT["install"](tmp_path_factory.mktemp("docs-page"))
    return found


@pytest.mark.parametrize("name", SCRIPT["ZIPPED"] + SCRIPT["COPIED"])
def test_a_committed_file_is_the_packages(package: Path, name: str) -> None:
    page: Path = SCRIPT["PAGE"]
    zipped = page / f"{name}.gz"
    committed = gzip.decompress(zipped.read_bytes()) if zipped.exists() else (page / name).read_bytes()
    assert committed == (package / name).read_bytes()


def test_the_lock_pins_one_version_and_its_integrity_and_names_no_place() -> None:
    pins = json.loads((SCRIPT["PINS"] / "package.json").read_text())["dependencies"]
    lock = json.loads((SCRIPT["PINS"] / "package-lock.json").read_text())["packages"]
    assert all(version[0].isdigit() for version in pins.values())
    for name, locked in lock.items():
        assert "resolved" not in locked
        assert name == "" or locked["integrity"].startswith("sha512-")


def test_all_of_its_files_are_served() -> None:
    own = {"index.html", "page.css", "page.js"}
    assert own | set(SCRIPT["ZIPPED"]) | set(SCRIPT["COPIED"]) == PAGE_FILES.keys()
