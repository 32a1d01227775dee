"""The client's package as a user has it: built, and installed with what it asks for into an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

SOURCE = Path(__file__).parents[2] / "clients" / "python"


def run(*argv: str | Path, cwd: Path | None = None, timeout: float = 120) -> str:
    """What a command prints; AssertionError with all that it said where it fails."""
    done = subprocess.run([*map(str, argv)], cwd=cwd, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheel(directory: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=SOURCE)
    (wheel,) = directory.glob("*.whl")
    return wheel


def wheel_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(archive.read(name))


def requirements(metadata: Message) -> list[Requirement]:
    """Those without which it cannot be used."""
    declared = map(Requirement, metadata.get_all("Requires-Dist", []))
    return [one for one in declared if one.marker is None or one.marker.evaluate({"extra": ""})]


def install(wheel: Path, directory: Path) -> Path:
    """The Python of an environment with the wheel and what it declares to need, taken from this one: no network."""
    run(sys.executable, "-m", "venv", "--without-pip", directory)
    python = directory / "bin" / "python"
    run(Path(sys.executable).parent / "uv", "pip", "install", "--offline", "--no-deps", "--python", python, wheel)
    (packages,) = directory.glob("lib/python*/site-packages")
    for name in _closure([one.name for one in requirements(wheel_metadata(wheel))]):
        for file in distribution(name).files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(Path(str(file.locate())).resolve())
    return python


def _closure(names: list[str]) -> Iterator[str]:
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name not in seen:
            seen.add(name)
            names += [one.name for one in requirements(distribution(name).metadata)]  # type: ignore[arg-type]
            yield name
