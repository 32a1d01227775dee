"""Logging: structlog to stderr, an event a line, as JSON or for a console; the standard library's loggers too."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_TALKATIVE: Final = ("aiosqlite", "alembic", "asyncio", "sqlalchemy.engine", "grpc")
"""Loggers of libraries whose `info` is of no use to an operator, and whose `debug` shows what statements hold."""

_in_every_line: Final[ContextVar[Mapping[str, Any]]] = ContextVar("_in_every_line", default=MappingProxyType({}))
"""One variable for all fields: structlog's own functions set one for each, and look at every variable there is."""


def log_always(**fields: Any) -> None:
    """Have these fields in every line that this task logs from now on, and in those of tasks that it starts."""
    _in_every_line.set({**_in_every_line.get(), **fields})


def with_what_is_always_logged(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A processor. A line's own fields stand first, and count where both have one."""
    return {**event, **_in_every_line.get(), **event}


def configure_logging(
    log_format: Literal["console", "json"],
    log_level: Literal["debug", "info", "warning", "error"] = "info",
    *,
    stream: TextIO | None = None,
) -> None:
    """Set up logging for this process, once, before the first event; `stream` is stderr where not given."""
    out = stream or sys.stderr
    level = LEVELS[log_level]
    shared: list[Processor] = [
        with_what_is_always_logged,
        structlog.stdlib.add_log_level,
        _stamped if log_format == "json" else structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render = _json_renderers() if log_format == "json" else _console_renderers(colors=out.isatty())
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    handler.addFilter(_tells_no_header)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _tells_no_header(record: logging.LogRecord) -> bool:
    """False for what grpc says, with a traceback, of a header that is not UTF-8: it may be a key and one byte more."""
    return not (record.name.startswith("grpc.") and str(record.msg).startswith("Invalid encoding"))


def _stamped(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """For JSON, whose encoder writes a time ten times as fast as `TimeStamper` does."""
    event["timestamp"] = datetime.now(UTC)  # noqa: TID251 - of the log itself
    return event


def _json_renderers() -> list[Processor]:
    return [structlog.processors.format_exc_info, _to_json_line]


def _console_renderers(*, colors: bool) -> list[Processor]:
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, pad_event_to=0)]


def _to_json_line(_: WrappedLogger, __: str, event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=_describe).decode()


def _describe(value: Any) -> str:
    """What JSON has no word for is logged as its text: a log line must not fail."""
    return str(value)
