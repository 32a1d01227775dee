"""New entries put into a file that a person keeps: everything else in it stays as it is, comments included."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from server.catalogue.adopt import as_yaml


def insert(text: str, parts: Mapping[str, Sequence[Any]]) -> str:
    """The file with more entries at the end of its lists. Raises ValueError where it has no place for them."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise ValueError("is not a mapping (key: value)")
    nodes = {} if root is None else {str(key.value): (key, value) for key, value in root.value}
    changes: list[tuple[int, bool, int, int, str]] = []
    for number, (name, entries) in enumerate(parts.items()):
        if entries:
            is_new = name not in nodes
            start, end, new = _at_end(text, name, entries) if is_new else _in_list(text, name, *nodes[name], entries)
            changes.append((start, is_new, number, end, new))
    for start, _, _, end, new in sorted(changes, reverse=True):  # what comes later in the file first
        text = text[:start] + new + text[end:]
    return text


def _at_end(text: str, name: str, entries: Sequence[Any]) -> tuple[int, int, str]:
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return len(text), len(text), gap + as_yaml({name: entries})


def _in_list(text: str, name: str, key: yaml.Node, value: yaml.Node, entries: Sequence[Any]) -> tuple[int, int, str]:
    if isinstance(value, yaml.SequenceNode) and value.value and not value.flow_style:
        start = _end_of(text, value)
        gap = "" if text[start - 1] == "\n" else "\n"
        return start, start, gap + textwrap.indent(as_list(entries), " " * value.start_mark.column)
    if value.value:
        raise ValueError(f"has its {name} in brackets; write them one a line, each with a dash")
    colon = text.index(":", key.end_mark.index) + 1
    return colon, max(colon, value.end_mark.index), f"\n{as_list(entries)}".rstrip("\n")


def as_list(entries: Sequence[Any]) -> str:
    return yaml.safe_dump(list(entries), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def _end_of(text: str, node: yaml.SequenceNode) -> int:
    """After the last line of a list; comments behind it belong to what follows."""
    lines = text[: node.end_mark.index].splitlines(keepends=True)
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return sum(map(len, lines))
