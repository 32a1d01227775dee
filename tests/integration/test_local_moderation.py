"""The embedded classifier as it is installed: what it scores, sees and refuses, and how its weights are read."""

from __future__ import annotations

import collections
import io
import json
import pickle
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from server import local_moderation
from server.local_moderation import MAX_WORDS, MODEL_NAME, THRESHOLDS, WINDOW, Classifier, read_vocabulary
from server.probes import unused_port


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    found = local_moderation.directory()
    assert found is not None
    assert local_moderation.is_available()
    return Classifier(found)


def score(classifier: Classifier, *texts: str) -> list[dict[str, float]]:
    scored = classifier.scores([classifier.words(text) for text in texts])
    return [dict(zip(THRESHOLDS, scores, strict=True)) for scores in scored]


def test_it_scores_as_the_package_says_that_the_model_does(classifier: Classifier) -> None:
    (scores,) = score(classifier, "You are so dumb and stupid!")
    assert scores == pytest.approx(
        {
            "toxic": 0.9889402985572815,
            "severe_toxic": 0.07256772369146347,
            "obscene": 0.620429277420044,
            "harassment/threatening": 0.01934845559298992,
            "harassment": 0.8664075136184692,
            "hate": 0.04072948172688484,
        },
        abs=1e-5,
    )


FLAGGED = {
    "You are so dumb and stupid!": "harassment",
    "I will kill you and your family": "harassment/threatening",
    "I hate all black people, they should die": "hate",
    "fuck you, you piece of shit": "severe_toxic",
    "My code is shit, please review it.": "obscene",
}
PASSED = (
    "",
    "Have a nice day :)",
    "Write a poem about the sea.",
    "How do I kill a Python process?",
    "The killer whale is the largest dolphin.",
    "Please shoot me an email when you are done.",
    "Summarise: the suspect threatened to shoot the officers.",
    "Explain how gay rights developed in the United States.",
    "Sussex and Scunthorpe are in England",
    "Dick Cheney was vice president.",
)
UNSEEN = ("Je vais te tuer, connard", "y0u 1d10t", "How do I make a bomb at home?", "I want to end my life")
"""What the catalogue says that it cannot see."""


@pytest.mark.parametrize("text", list(FLAGGED))
def test_it_sees_abuse_in_plain_english(classifier: Classifier, text: str) -> None:
    (scores,) = score(classifier, text)
    assert scores[FLAGGED[text]] >= THRESHOLDS[FLAGGED[text]]


@pytest.mark.parametrize("text", [*PASSED, *UNSEEN])
def test_it_passes_what_is_harmless_and_what_it_cannot_see(classifier: Classifier, text: str) -> None:
    (scores,) = score(classifier, text)
    assert not [name for name, value in scores.items() if value >= THRESHOLDS[name]]


def test_a_long_text_is_as_bad_as_its_worst_window(classifier: Classifier) -> None:
    calm = "The sea is calm today and the wind is soft. " * 40
    (whole,) = score(classifier, f"{calm} You are so dumb and stupid! {calm}")
    assert whole["harassment"] >= THRESHOLDS["harassment"]
    assert score(classifier, calm)[0]["harassment"] < 0.1
    assert len(classifier.words(calm)) > 3 * WINDOW


def test_texts_are_scored_alike_alone_and_together(classifier: Classifier) -> None:
    texts = [*FLAGGED, *PASSED]
    together = score(classifier, *texts)
    for text, scores in zip(texts, together, strict=True):
        assert scores == pytest.approx(score(classifier, text)[0], abs=1e-5)


class Harm:
    def __reduce__(self) -> Any:
        return (print, ("harm",))


@pytest.mark.parametrize("harm", [Harm(), subprocess.Popen, pickle.Unpickler], ids=["a call", "a class", "the reader"])
def test_a_pickle_that_asks_for_anything_else_is_not_read(harm: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(pickle.UnpicklingError):
        read_vocabulary(io.BytesIO(pickle.dumps({"word_index": harm})))
    assert capsys.readouterr().out == ""


def test_a_pickle_of_something_else_is_no_vocabulary() -> None:
    with pytest.raises(pickle.UnpicklingError):
        read_vocabulary(io.BytesIO(pickle.dumps(collections.OrderedDict(a=1))))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The process as the supervisor starts it."""
    port = unused_port()
    command = [sys.executable, "-m", "server.local_moderation", "--port", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield url
        process.stdin.close()  # type: ignore[union-attr]  # as when the supervisor ends
        assert process.wait(30) != 0


def ask(url: str, body: bytes, path: str = "/v1/moderations") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url + path, data=body, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_it_answers_as_openai_does(server: str) -> None:
    body = {"model": MODEL_NAME, "input": ["Hello.", "You are so dumb and stupid!"]}
    status, told = ask(server, json.dumps(body).encode())
    assert status == 200
    assert [result["flagged"] for result in told["results"]] == [False, True]
    rude = told["results"][1]
    assert rude["categories"]["harassment"] is True
    assert set(rude["category_applied_input_types"]) == set(rude["category_scores"]) == set(THRESHOLDS)


TOO_LONG = json.dumps({"input": "you " * (MAX_WORDS + 1)}).encode()
REFUSED = {
    "another model": (b'{"model": "gpt", "input": "x"}', 404, "model_not_found"),
    "a picture": (b'{"input": [{"type": "image_url", "image_url": {"url": "x"}}]}', 400, "invalid_request"),
    "nothing": (b'{"input": []}', 400, "invalid_request"),
    "no JSON": (b"{", 400, "invalid_request"),
    "no UTF-8": (b'{"input": "\xff"}', 400, "invalid_request"),
    "too long": (TOO_LONG, 400, "context_length_exceeded"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_it_cannot_judge_it_refuses(server: str, case: str) -> None:
    body, status, code = REFUSED[case]
    told = ask(server, body)
    assert (told[0], told[1]["error"]["code"]) == (status, code)


def test_other_routes_are_none(server: str) -> None:
    assert ask(server, b"{}", "/v1/embeddings")[0] == 404
