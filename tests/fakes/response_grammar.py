"""A checker of response event streams against OpenAI's grammar, written from the wire's side: it knows only JSON.

created, in_progress, (item | delta …)*, (completed | incomplete | failed)
item    = output_item.added, part*, output_item.done           at a stable output_index; items may interleave
part    = added, delta*, done, part.done                       within its item; one text, refusal, summary or reasoning
call    = output_item.added, arguments.delta*, arguments.done, output_item.done
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
_INDEX = {"reasoning_summary_part": "summary_index", "reasoning_summary_text": "summary_index"}


class Checker:
    """`check` raises AssertionError at the first event out of place; `output` is what the deltas add up to."""

    def __init__(self) -> None:
        self.items: dict[int, dict[str, Any]] = {}
        self.open: set[int] = set()
        self.parts: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.terminal: dict[str, Any] | None = None

    def check(self, events: Sequence[dict[str, Any]]) -> None:
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
        for event in events[:2]:
            assert (event["response"]["status"], event["response"]["output"]) == ("in_progress", [])
        for event in events[2:]:
            self._take(event)
        assert self.terminal is not None, "no terminal event"

    def _take(self, event: dict[str, Any]) -> None:
        assert self.terminal is None, f"{event['type']} after the end"
        kind = event["type"]
        if kind in TERMINAL or kind == "error":
            self._end(event)
        elif kind == "response.output_item.added":
            self._added(event)
        elif kind == "response.output_item.done":
            self._done(event)
        else:
            self._inside(kind.removeprefix("response."), event)

    def _added(self, event: dict[str, Any]) -> None:
        index, item = event["output_index"], event["item"]
        assert index == len(self.items), "output indexes count up"
        assert all(item["id"] != other["id"] for other in self.items.values())
        self.items[index] = {**item, "_text": "", "_parts": {}}
        self.open.add(index)

    def _done(self, event: dict[str, Any]) -> None:
        index, item = event["output_index"], event["item"]
        assert index in self.open
        self.open.remove(index)
        known = self.items[index]
        assert (item["id"], item["type"]) == (known["id"], known["type"])
        assert item.get("status", "completed") in ("completed", "incomplete")
        assert all(part["state"] == "closed" for part in known["_parts"].values()), "a part is still open"
        if "_whole" in known:
            assert known["_whole"] == item.get("arguments", item.get("input"))
        elif item["type"] in ("function_call", "custom_tool_call"):
            raise AssertionError("the arguments are not done")
        self.items[index] = {**known, "_done": item}

    def _inside(self, kind: str, event: dict[str, Any]) -> None:
        index = event["output_index"]
        assert index in self.open, f"{kind} outside of an item"
        item = self.items[index]
        assert event["item_id"] == item["id"]
        if item["type"] in ("function_call", "custom_tool_call"):
            self._call(kind, event, item)
            return
        family, verb = kind.rsplit(".", 1)
        summary = "summary" in family
        part_key = ("summary" if summary else "content", event["summary_index" if summary else "content_index"])
        self._part(family, verb, event, item, part_key)

    def _call(self, kind: str, event: dict[str, Any], item: dict[str, Any]) -> None:
        family = "custom_tool_call_input" if item["type"] == "custom_tool_call" else "function_call_arguments"
        assert "_whole" not in item, "more after the end of a call"
        if kind == f"{family}.delta":
            item["_text"] += event["delta"]
        else:
            assert kind == f"{family}.done"
            item["_whole"] = event["input" if family.startswith("custom") else "arguments"]
            assert item["_whole"] == item["_text"]

    def _part(self, family: str, verb: str, event: dict[str, Any], item: dict[str, Any], key: tuple[str, int]) -> None:
        parts = item["_parts"]
        if verb == "added" and family in ("content_part", "reasoning_summary_part"):
            assert key not in parts
            assert key[1] == sum(where == key[0] for where, _ in parts), "parts count up"
            parts[key] = {"state": "open", "text": "", "type": event["part"]["type"], "annotations": []}
            return
        part = parts[key]
        texts = {"output_text": "output_text", "refusal": "refusal", "reasoning_text": "reasoning_text",
                 "summary_text": "reasoning_summary_text"}  # fmt: skip
        if verb == "added":
            assert family == "output_text.annotation"
            assert part["state"] == "open"
            assert event["annotation_index"] == len(part["annotations"])
            part["annotations"].append(event["annotation"])
        elif verb == "delta":
            assert (family, part["state"]) == (texts[part["type"]], "open")
            part["text"] += event["delta"]
        elif family in texts.values():
            assert (family, part["state"]) == (texts[part["type"]], "open")
            assert event.get("text", event.get("refusal")) == part["text"]
            part["state"] = "told"
        else:
            assert part["state"] == "told"
            whole = event["part"]
            assert whole["type"] == part["type"]
            assert whole.get("text", whole.get("refusal")) == part["text"]
            assert whole.get("annotations", []) == part["annotations"]
            part["state"] = "closed"

    def _end(self, event: dict[str, Any]) -> None:
        if event["type"] == "error":
            assert event["error"]["message"]
            return
        self.terminal = event
        response = event["response"]
        assert event["type"] == f"response.{response['status']}"
        if event["type"] == "response.failed":
            assert response["error"]["message"]
            return
        assert not self.open, "items are still open"
        assert response["output"] == [self.items[index]["_done"] for index in sorted(self.items)]
        assert response["error"] is None
        assert (response["incomplete_details"] is None) == (response["status"] == "completed")
        assert response["usage"]["total_tokens"] >= 0


def check_events(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The terminal event of a stream that keeps to the grammar."""
    checker = Checker()
    checker.check(events)
    assert checker.terminal is not None
    return checker.terminal
