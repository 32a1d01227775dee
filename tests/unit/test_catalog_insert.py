"""Entries put into a file that a person keeps."""

from __future__ import annotations

import pytest
import yaml

from server.catalogue.insert import insert

NEW = {"models": [{"id": "a/new", "offers": [{"provider": "p", "provider_model": "m"}]}], "offers": []}

KEPT = """\
# mine
providers:
- {id: p, dialect: openai, base_url: "http://127.0.0.1:1"}   # near

models:
  # the first
  - id: a/x
    offers:
      - {provider: p, provider_model: x}

  # the limits
routing:
  timeout_s: 60 # a minute
"""


def test_what_is_there_stays_as_it_is() -> None:
    after = insert(KEPT, NEW)
    assert [line for line in KEPT.splitlines() if line not in after.splitlines()] == []
    assert after.index("a/new") < after.index("# the limits")
    read = yaml.safe_load(after)
    assert [model["id"] for model in read["models"]] == ["a/x", "a/new"]
    assert read["routing"] == {"timeout_s": 60}


@pytest.mark.parametrize(
    "before",
    [
        "",
        "# nothing yet\n",
        "models:\n",
        "models: []\nrouting: {}\n",
        "models:\nrouting: {}\n",
        "routing: {timeout_s: 60}",
        "models:\n- id: a/x\n  offers: []",
        "models:\n- id: a/x\n  offers: []\n# the end\n",
        "models:\n    - {id: a/x, offers: []}\n\n\nrouting:\n  timeout_s: 3\n",
        "models: [] # none yet\n",
        "models: # none yet\n",
    ],
)
def test_the_result_is_what_was_there_and_what_is_new(before: str) -> None:
    was = yaml.safe_load(before) or {}
    now = yaml.safe_load(insert(before, NEW))
    assert now.pop("models") == [*(was.pop("models", None) or []), *NEW["models"]]
    assert now == was


def test_twice_is_once_more() -> None:
    twice = insert(insert("", NEW), {"models": NEW["models"], "offers": [{"model": "a/new", "provider": "q"}]})
    read = yaml.safe_load(twice)
    assert (len(read["models"]), len(read["offers"])) == (2, 1)


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("models: [{id: a/x}]\n", "has its models in brackets"),
        ("- a\n", "is not a mapping"),
        ("models: 3\n", "brackets"),
    ],
)
def test_a_file_without_a_place_for_them_is_left_alone(before: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        insert(before, NEW)
