"""What is installed is what the locks name, and nothing of it runs before the gateway does."""

from __future__ import annotations

import re
import site
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
OURS = "aistats-gateway"
BROUGHT_BY_PYTHON = {"pip", "setuptools"}
"""A new virtual environment has these before any lock is read."""

PTH_WITH_CODE = {
    # Of setuptools: sets up its copy of distutils where a program imports that.
    "distutils-precedence.pth": (
        "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
        "enabled and __import__('_distutils_hack').add_shim(); "
    ),
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(lock: Path) -> Iterator[tuple[str, list[str]]]:
    """Each requirement, and its options."""
    text = re.sub(r"\\\n", " ", lock.read_text())
    for line in text.splitlines():
        line = line.split(" #")[0].strip()
        if line and not line.startswith("#"):
            requirement, *options = re.split(r"\s+(?=--)", line)
            yield requirement, options


def locked(*names: str) -> dict[str, set[str]]:
    """The versions of each distribution in these locks; markers may choose between several."""
    found: dict[str, set[str]] = {}
    for name in names:
        for requirement, _ in requirements(ROOT / "requirements" / name):
            distribution, _, version = requirement.partition(" ;")[0].partition("==")
            found.setdefault(canonical(distribution.strip()), set()).add(version.strip())
    return found


def test_there_are_the_three_locks() -> None:
    assert [lock.name for lock in LOCKS] == ["dev.txt", "run.txt", "setup.txt"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_requirement_has_one_version_and_its_hashes(lock: Path) -> None:
    pinned = list(requirements(lock))
    assert pinned
    for requirement, options in pinned:
        assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[0-9][\w.!+]*( ; .+)?", requirement.strip()), requirement
        assert options, requirement
        for option in options:
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option.strip()), (requirement, option)


def test_all_that_the_project_asks_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(wanted: list[str]) -> set[str]:
        return {canonical(re.split(r"[\[=<>~! ;]", one)[0]) for one in wanted}

    assert (
        names(project["dependencies"]) | names(extras["local"]) | names(extras["postgres"]) <= locked("run.txt").keys()
    )
    assert names(extras["dev"]) <= locked("dev.txt").keys()


def test_every_installation_checks_the_hashes() -> None:
    """But for that of the project itself, which takes nothing from anywhere."""
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    assert len(installs) >= 3
    for line in installs:
        from_a_lock = "--require-hashes --no-deps -r requirements/" in line
        from_the_lock_of_a_rule = line.endswith("--require-hashes --no-deps -r $<")
        assert from_a_lock or from_the_lock_of_a_rule or line.endswith("--no-build-isolation -e .")


def test_what_runs_is_what_was_tested() -> None:
    """Both locks name the same version of what they share."""
    run, dev = locked("run.txt"), locked("dev.txt")
    assert {name: dev.get(name) for name in run} == run


def test_nothing_is_installed_that_no_lock_names() -> None:
    allowed = locked("run.txt", "dev.txt", "setup.txt")
    here = Path(sys.prefix).resolve()
    installed = {
        canonical(one.metadata["Name"]): one.version
        for one in distributions()
        if here in Path(str(one.locate_file(""))).parents
    }
    assert len(installed) > 50
    strangers = {
        name: version
        for name, version in installed.items()
        if version not in allowed.get(name, set()) and name not in {OURS, *BROUGHT_BY_PYTHON}
    }
    assert strangers == {}


def test_no_code_runs_when_the_interpreter_starts() -> None:
    for directory in map(Path, site.getsitepackages()):
        for path in sorted(directory.glob("*.pth")):
            lines = path.read_text().splitlines()
            code = [line for line in lines if line.startswith(("import ", "import\t"))]
            assert code == [] or lines == PTH_WITH_CODE.get(path.name, "").splitlines(), path.name
        assert sorted(directory.glob("*customize*")) == []


def test_no_committed_file_names_a_registry() -> None:
    """Where packages come from is the machine's business; a lock that named a place would not work at another."""
    hosts = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "crates" + ".io", "golang" + ".org/proxy",
             "gh" + "cr.io", "docker" + ".io", "anaconda" + ".org", "index" + "-url", "find" + "-links"]  # fmt: skip
    pattern = [argument for host in hosts for argument in ("-e", host)]
    exempt = ["--no-emit-" + "index" + "-url"]
    found = subprocess.run(["git", "grep", "-nIiF", *pattern], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode in {0, 1}, found.stderr
    assert [line for line in found.stdout.splitlines() if not any(text in line for text in exempt)] == []
