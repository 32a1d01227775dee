"""Variables that come as files: by their names, after what is set, and never in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.secret_files import MAX_SECRET_BYTES, SECRETS_DIR, UnreadableSecret, read_secret_files


def test_each_file_is_the_variable_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "openai_api_key").write_text("sk-file\n")
    (tmp_path / "AISTATS_DATABASE_URL").write_text("  sqlite:///x  ")
    (tmp_path / "GROQ_API_KEY").write_text("sk-unwanted")
    (tmp_path / "blank_key").write_text("sk-blank")
    environ = {SECRETS_DIR: str(tmp_path), "GROQ_API_KEY": "sk-set", "BLANK_KEY": " "}
    read_secret_files(environ)
    assert environ == {
        SECRETS_DIR: str(tmp_path),
        "OPENAI_API_KEY": "sk-file",
        "AISTATS_DATABASE_URL": "sqlite:///x",
        "GROQ_API_KEY": "sk-set",
        "BLANK_KEY": "sk-blank",
    }


def test_the_directory_of_a_mounted_volume_holds_links_and_more(tmp_path: Path) -> None:
    version = tmp_path / "..2026_11_22"
    version.mkdir()
    (version / "openai_api_key").write_text("sk-file")
    (tmp_path / "..data").symlink_to(version)
    (tmp_path / "openai_api_key").symlink_to("..data/openai_api_key")
    (tmp_path / "tls.key").write_bytes(b"\xff")
    (tmp_path / "directory").mkdir()
    environ = {SECRETS_DIR: str(tmp_path)}
    read_secret_files(environ)
    assert environ == {SECRETS_DIR: str(tmp_path), "OPENAI_API_KEY": "sk-file"}


@pytest.mark.parametrize("directory", [None, "", "  "], ids=["unset", "empty", "blank"])
def test_without_a_directory_nothing_is_read(directory: str | None) -> None:
    environ = {} if directory is None else {SECRETS_DIR: directory}
    before = dict(environ)
    read_secret_files(environ)
    assert environ == before


@pytest.mark.parametrize(
    "content", [b"sk-\xff", b"sk-a\0b", b"sk-" * MAX_SECRET_BYTES], ids=["not text", "a zero byte", "endless"]
)
def test_what_cannot_be_a_variable_is_named_and_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "openai_api_key").write_bytes(content)
    with pytest.raises(UnreadableSecret, match="openai_api_key: it is no") as refused:
        read_secret_files({SECRETS_DIR: str(tmp_path)})
    assert "sk-" not in str(refused.value)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSecret, match="nowhere: No such file"):
        read_secret_files({SECRETS_DIR: str(tmp_path / "nowhere")})
