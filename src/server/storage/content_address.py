"""Where the content of videos is kept, as AISTATS_CONTENT_STORE says it."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

__all__ = ["OFF", "ContentAddress", "parse_content_address"]

OFF: Final = "off"
SCHEMES: Final = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss")
"""Of buckets, in the words of obstore."""


class ContentAddress(msgspec.Struct, frozen=True):
    """A directory, or the URL of a bucket: one of them."""

    directory: Path | None = None
    url: str = ""

    @property
    def place(self) -> str:
        """For people."""
        return self.url or str(self.directory)


def parse_content_address(text: str) -> ContentAddress | None:
    """None for `off`. Raises ValueError saying what it may be."""
    if text.lower() == OFF:
        return None
    if "://" not in text:
        return ContentAddress(Path(text).expanduser().absolute())
    parts = urlsplit(text)
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
        return ContentAddress(Path(parts.path))
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise ValueError("it must be a directory, `off`, or a bucket such as s3://<bucket>/<prefix>")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("it holds a bucket and a prefix only: credentials and endpoint are told by AWS_… variables")
    return ContentAddress(url=text)
