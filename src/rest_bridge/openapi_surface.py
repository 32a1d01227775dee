"""What the description of one route is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from rest_bridge.http import JSON

__all__ = ["Surface", "Type"]

Type: TypeAlias = Any
"""A type that msgspec knows, or a tuple of several."""


class Surface(msgspec.Struct, frozen=True, kw_only=True):
    """`body` is read, with `examples` of it; `required` are fields of it that have a default and may not be absent.

    `form` is read where a form is sent, with `form_examples` of it, and `files` are the names of the files in it:
    `optional_files` of them may be absent and `many_files` be several.
    `reply` is what a 200 holds, `events` what each event of a stream does. `stream` says how these follow each other,
    and `stream_example` shows it. `kept`: replies have an etag. `media`: of what is no JSON, such as a page; `sounds`:
    of replies that are bytes; `text_example`: of a reply that may be plain text as well. `is_file`: its bytes are
    somebody else's to send, part by part, and once they are there. `needs_body`: it may not be left out.
    """

    reply: Type = None
    body: Type = None
    required: tuple[str, ...] = ()
    examples: Mapping[str, Mapping[str, Any]] = {}
    form: Type = None
    form_examples: Mapping[str, Mapping[str, Any]] = {}
    files: tuple[str, ...] = ()
    optional_files: tuple[str, ...] = ()
    many_files: tuple[str, ...] = ()
    events: Type = None
    stream: str = ""
    stream_example: str = ""
    kept: bool = False
    media: str = JSON
    sounds: tuple[str, ...] = ()
    text_example: str = ""
    status: int = 200
    is_file: bool = False
    needs_body: bool = True
