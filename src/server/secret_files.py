"""Variables of the environment that come as files: a secret is mounted, and no listing of a container shows it."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

import click

__all__ = ["SECRETS_DIR", "UnreadableSecret", "read_secret_files"]

SECRETS_DIR: Final = "AISTATS_SECRETS_DIR"
MAX_SECRET_BYTES: Final = 64 * 1024
_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")


class UnreadableSecret(click.ClickException):
    """A file of the directory, or the directory, can't be used; the message says which and never what is in it."""

    exit_code = 2


def read_secret_files(environ: MutableMapping[str, str]) -> None:
    """Add to `environ` a variable for each file in the directory that it names: `openai_api_key` is OPENAI_API_KEY.

    What is set already stays. Spaces and lines around a text do not count; files that could name no variable are left
    alone. Raises UnreadableSecret.
    """
    directory = environ.get(SECRETS_DIR, "").strip()
    if not directory:
        return
    try:
        paths = sorted(Path(directory).iterdir())
    except OSError as failure:
        raise UnreadableSecret(f"{SECRETS_DIR}={directory}: {failure.strerror}") from None
    for path in paths:
        name = path.name.upper()
        if _NAME.fullmatch(name) and not environ.get(name, "").strip() and path.is_file():
            environ[name] = _read(path)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SECRET_BYTES + 1).decode().strip()
    except OSError as failure:
        raise UnreadableSecret(f"{path}: {failure.strerror}") from None
    except UnicodeDecodeError:
        raise UnreadableSecret(f"{path}: it is not UTF-8") from None
    if len(text) > MAX_SECRET_BYTES or "\0" in text:
        raise UnreadableSecret(f"{path}: it is no text of at most {MAX_SECRET_BYTES} bytes")
    return text
