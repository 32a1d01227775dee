"""One piece of work, as a process: `python -m server.local_media.work KIND`, what is asked a line of JSON on its input.

It answers with messages on its output. Its input stays open as long as whoever asked wants the answer; when it closes,
this process ends.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import traceback
from typing import Any, Final

import msgspec

from server.local_media.messages import tell
from server.local_media.refusal import Refused

MAX_MEMORY_BYTES: Final = 3 << 30
"""Of addresses; what it really uses is far less."""
MAX_CPU_S: Final = 300


def do(kind: str, task: dict[str, Any]) -> None:
    """Do it. Raises Refused where what was sent cannot be worked on."""
    match kind:
        case "image":
            from server.local_media.pictures import draw

            draw(task)
        case "speech":
            from server.local_media.sound import speak

            speak(task)
        case "transcription":
            from server.local_media.listening import transcribe

            transcribe(task)
        case "video":
            from server.local_media.film import render

            render(task)
        case _:
            raise SystemExit(f"there is no work of the kind {kind}")


def _end_when_input_does() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    """Read what is asked, and do it."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=dict[str, Any])
    threading.Thread(target=_end_when_input_does, daemon=True).start()
    try:
        do(sys.argv[1], task)
    except Refused as refused:
        tell("refused", code=refused.code, message=str(refused), param=refused.param)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        tell("failed", what=f"{type(error).__name__} in {place.name}, line {place.lineno}")


if __name__ == "__main__":
    main()
