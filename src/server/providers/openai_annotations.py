"""Citations, in the one shape that events carry: the flat one of the Responses API."""

from __future__ import annotations

from typing import Any


def flat_annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    """`{"type": "url_citation", "url_citation": {…}}` of chat as `{"type": "url_citation", …}`; others unchanged."""
    kind = annotation.get("type")
    nested = annotation.get(kind) if isinstance(kind, str) else None
    return {"type": kind, **nested} if isinstance(nested, dict) else annotation


def citation(url: str, results: Any) -> dict[str, Any]:
    """An annotation for a source that is only listed (Perplexity): about no place in the text in particular."""
    titles = (
        found.get("title")
        for found in (results if isinstance(results, list) else ())
        if isinstance(found, dict) and found.get("url") == url
    )
    title = next((title for title in titles if isinstance(title, str)), "")
    return {"type": "url_citation", "start_index": 0, "end_index": 0, "url": url, "title": title}
