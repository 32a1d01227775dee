"""Routes as protos declare them, in annotations of `google.api.http`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from google.api.annotations_pb2 import http  # type: ignore[import-untyped]  # the package has no stubs
from google.protobuf.descriptor_pb2 import MethodOptions

VARIABLE: Final = re.compile(r"\{(\w+)(=[^}]*)?\}")
"""A variable of a pattern, `{model_id}` or `{model_id=**}`; its name is the first group."""

_VERBS: Final = ("get", "post", "put", "patch", "delete")


def rules(options: MethodOptions) -> Iterator[tuple[str, str, str]]:
    """The routes of a method, the first one and its aliases: method of HTTP, pattern of its path, `body`."""
    rule = options.Extensions[http]
    for one in (rule, *rule.additional_bindings):
        verb = one.WhichOneof("pattern")
        if verb == "custom":
            yield one.custom.kind, one.custom.path, one.body
        elif verb in _VERBS:
            yield verb.upper(), getattr(one, verb), one.body
