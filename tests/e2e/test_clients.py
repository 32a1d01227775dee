"""What the documents show of clients is true: the package installs by itself, and every example of Python's runs."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway
from tests.fakes.client_package import SOURCE, build_wheel, install, requirements, run, wheel_metadata

ROOT = SOURCE.parents[1]
STUBS = ROOT / "src" / "aistats" / "gateway" / "v1"
PAGES = ("README.md", "docs/clients.md", "clients/python/README.md")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def examples() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, code in enumerate(blocks(page, "python"), start=1):
            yield f"{page}-{number}", code


EXAMPLES = dict(examples())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("client") / "venv")


def test_the_package_holds_the_stubs_with_their_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    stubs = {f"aistats/gateway/v1/{path.name}" for path in STUBS.glob("*_pb2*.py*")}
    assert len(stubs) > 40
    assert held == stubs | {
        "aistats/__init__.py",
        "aistats/gateway/__init__.py",
        "aistats/gateway/v1/__init__.py",
        "aistats/gateway/v1/py.typed",
    }


def test_the_package_asks_for_the_runtime_of_its_generated_code(wheel: Path) -> None:
    metadata = wheel_metadata(wheel)
    asked = {one.name: one.specifier for one in requirements(metadata)}
    assert set(asked) == {"googleapis-common-protos", "grpcio", "protobuf"}
    (grpc_version,) = re.findall(
        r"^GRPC_GENERATED_VERSION = '(.+)'$", (STUBS / "chat_pb2_grpc.py").read_text(), re.MULTILINE
    )
    (protobuf_version,) = re.findall(
        r"^# Protobuf Python Version: (.+)$", (STUBS / "chat_pb2.py").read_text(), re.MULTILINE
    )
    assert f">={grpc_version}" in str(asked["grpcio"])
    assert f">={protobuf_version}" in str(asked["protobuf"])
    assert metadata["Version"] == version("aistats-gateway")


def test_nothing_of_the_servers_comes_with_it(python: Path) -> None:
    code = (
        "import importlib.util as u; print([n for n in ('server', 'msgspec', 'pydantic', 'openai') if u.find_spec(n)])"
    )
    assert run(python, "-c", code) == "[]\n"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_is_printed(gateway: Gateway, python: Path, name: str, tmp_path: Path) -> None:
    """But for the ports, in the directory of the gateway's data."""
    code = EXAMPLES[name].replace(":8080", f":{gateway.http_port}").replace(":50051", f":{gateway.rpc_port}")
    script = tmp_path / "example.py"
    script.write_text(code)
    interpreter = sys.executable if "openai" in code else python
    assert run(interpreter, "-W", "error", script, cwd=gateway.directory).strip()


@pytest.mark.parametrize(("language", "path"), [("ts", "clients/typescript/example.ts"), ("go", "clients/go/main.go")])
def test_a_page_shows_an_example_as_it_is(language: str, path: str) -> None:
    (shown,) = blocks("docs/clients.md", language)
    assert shown == (ROOT / path).read_text()
