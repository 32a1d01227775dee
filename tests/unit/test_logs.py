from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from server.logs import configure_logging


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structlog.reset_defaults()
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_json_is_one_object_a_line_whatever_is_logged() -> None:
    out = io.StringIO()
    configure_logging("json", stream=out)
    log = structlog.get_logger()
    log.info("two\nlines", path=Path("/x"), number=3)
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    logging.getLogger("library").warning("watch %s", "out")
    first, second, third = map(json.loads, out.getvalue().splitlines())
    assert (first["event"], first["path"], first["number"], first["level"]) == ("two\nlines", "/x", 3, "info")
    assert "ValueError: broken" in second["exception"]
    assert (third["event"], third["logger"], third["level"]) == ("watch out", "library", "warning")
    assert all(entry["timestamp"].endswith("Z") for entry in (first, second, third))


def test_console_is_readable_and_has_no_colours_where_nobody_looks() -> None:
    out = io.StringIO()
    configure_logging("console", stream=out)
    structlog.get_logger().warning("child ended", child="worker-0")
    logging.getLogger("library").error("bad")
    first, second = out.getvalue().splitlines()
    assert "child ended" in first
    assert "child=worker-0" in first
    assert "bad" in second
    assert "\x1b" not in out.getvalue()


def test_less_than_the_level_is_not_written() -> None:
    out = io.StringIO()
    configure_logging("json", "warning", stream=out)
    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    structlog.get_logger().warning("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


def test_what_statements_and_headers_hold_is_not_written_at_any_level() -> None:
    out = io.StringIO()
    configure_logging("json", "debug", stream=out)
    logging.getLogger("aiosqlite").debug("executing %s", "INSERT ... 'a prompt'")
    logging.getLogger("sqlalchemy.engine").info("[generated] ('a prompt',)")
    logging.getLogger("grpc._cython.cygrpc").error("Invalid encoding on %s", b"Bearer key\xff")
    logging.getLogger("grpc._cython.cygrpc").error("something else")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["something else"]
