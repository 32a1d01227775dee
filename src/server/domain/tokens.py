"""Tokens of text, estimated: an average, never an exact tokenisation.

About four ASCII characters make a token, and about one of any other script does, as in current tokenisers. The count
takes time in proportion to the text and no memory, so that no prompt can stall the event loop.
"""

from __future__ import annotations

from typing import Final

_ASCII_PER_TOKEN: Final = 4


class TokenCounter:
    """Adds up the tokens of many pieces of text."""

    __slots__ = ("_ascii", "_other")

    def __init__(self) -> None:
        self._ascii = 0
        self._other = 0

    def add(self, text: str) -> None:
        if text.isascii():
            self._ascii += len(text)
        else:
            ascii_only = len(text.encode("ascii", "ignore"))
            self._ascii += ascii_only
            self._other += len(text) - ascii_only

    @property
    def tokens(self) -> int:
        return -(-self._ascii // _ASCII_PER_TOKEN) + self._other


def count_input(given: str | tuple[int, ...]) -> int:
    """Tokens of one text, or of one that comes as tokens."""
    if not isinstance(given, str):
        return len(given)
    counter = TokenCounter()
    counter.add(given)
    return counter.tokens
