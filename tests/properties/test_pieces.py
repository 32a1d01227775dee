"""Long texts in pieces: none is too long, none is lost, and no word is torn that fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.providers.pieces import pieces

WORDS = st.sampled_from(["word", "end. ", " ", "\n", "。", "日本語", "x" * 60, "What? ", "a.b"])
TEXTS = st.lists(WORDS, max_size=60).map("".join)


@given(TEXTS, st.integers(1, 80))
def test_pieces_are_the_text_again_and_fit(text: str, limit: int) -> None:
    parted = list(pieces(text, limit))
    assert "".join(parted) == text
    assert all(len(piece) <= limit for piece in parted)
    assert all(parted) or parted == [""]


@given(st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=60).map(" ".join), st.integers(12, 80))
def test_no_word_is_torn(text: str, limit: int) -> None:
    words = [word for piece in pieces(text, limit) for word in piece.split()]
    assert words == text.split()


def test_a_sentence_is_rather_kept_whole() -> None:
    assert list(pieces("One sentence here. Another one here.", 30)) == ["One sentence here. ", "Another one here."]
