from __future__ import annotations

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from server.cli import GROUPS, cli

COMMANDS = ["catalog", "doctor", "envoy", "keys", "teams", "up", "worker"]


def help_of(*names: str) -> str:
    result = CliRunner().invoke(cli, [*names, "--help"], prog_name="aistats-gateway")
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_of_commands_is_complete() -> None:
    listed = re.findall(r"^  (\w+) {2,}\S", help_of().partition("Commands:")[2], re.MULTILINE)
    assert set(COMMANDS) <= set(listed)
    assert set(GROUPS) <= set(listed)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str) -> None:
    text = help_of(name)
    assert text.startswith(f"Usage: aistats-gateway {name}")
    assert len(text.splitlines()[2].split()) > 4


@pytest.mark.parametrize("name", ["up", "worker", "envoy", "doctor"])
def test_a_command_gives_an_example(name: str) -> None:
    text = help_of(name)
    assert "aistats-gateway" in text.partition("Example:")[2]


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        (
            "up",
            ["HTTP_PORT", "GRPC_PORT", "DATA_DIR", "DATABASE_URL", "CONFIG", "WORKERS", "LOCAL_MODEL", "LOG_FORMAT"],
        ),
        ("worker", ["GRPC_PORT", "DATA_DIR", "DATABASE_URL", "CONFIG", "DRAIN_TIMEOUT_S"]),
        ("envoy", ["HTTP_PORT", "WORKERS", "DATA_DIR", "TLS_CERT"]),
    ],
)
def test_the_variables_that_matter_are_explained(name: str, variables: list[str]) -> None:
    text = help_of(name)
    assert [variable for variable in variables if f"AISTATS_{variable}" not in text] == []
    assert "--supervised" not in text


def test_the_version() -> None:
    result = CliRunner().invoke(cli, ["--version"], prog_name="aistats-gateway")
    assert re.fullmatch(r"aistats-gateway, version \d+\.\d+\.\d+\S*\n", result.output)


def test_a_wrong_command_exits_with_2() -> None:
    assert CliRunner().invoke(cli, ["upp"]).exit_code == 2


def test_a_wrong_setting_is_one_line_and_exit_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTATS_WORKERS", "none")
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 2
    assert result.output.startswith("Error: AISTATS_WORKERS=none: ")
    assert "Traceback" not in result.output


def test_help_of_up_loads_neither_database_nor_grpc() -> None:
    program = (
        "import sys; from server.cli import cli\n"
        "try: cli(['up', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('sqlalchemy', 'grpc', 'pydantic', 'xllamacpp') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"
