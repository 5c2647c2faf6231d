"""Logs: JSON lines on stderr, buffered for a moment, because a flushed line costs as much as a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

from engine import context
from engine.ids import now_ms, rfc3339

_FLUSH_EVERY_S: Final = 0.2
_SAME_AGAIN_S: Final = 60.0
_SAID_MAX: Final = 1000
_BUFFER_CHARACTERS: Final = 64 * 1024
_encode = msgspec.json.Encoder(enc_hook=repr).encode


class BufferedLog:
    """A text file that is written when enough has gathered, and by `flush_now`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: list[str] = []
        self._size = 0

    def write(self, text: str) -> None:
        """Keep the text, and write all that is kept when it is much."""
        self._lines.append(text)
        self._size += len(text)
        if self._size > _BUFFER_CHARACTERS:
            self.flush_now()

    def flush(self) -> None:
        """Asked for after every line by the logger; done by time and size instead."""

    def flush_now(self) -> None:
        """Write what is kept. What the file does not take is lost."""
        lines, self._lines, self._size = self._lines, [], 0
        # A terminal that was closed, a full disk: whoever logs in the middle of a payment, or of a stop, must go on.
        with contextlib.suppress(OSError):
            if lines:
                self._file.write("".join(lines))
                self._file.flush()

    async def run(self) -> None:
        """Flush several times a second, until cancelled."""
        try:
            while True:
                await asyncio.sleep(_FLUSH_EVERY_S)
                self.flush_now()
        finally:
            self.flush_now()


def configure(level: str, file: TextIO = sys.stderr) -> BufferedLog:
    """Send structlog and the libraries' logging to one buffered stream of JSON lines."""
    buffer = BufferedLog(file)
    structlog.configure(
        processors=[_stamp, structlog.processors.format_exc_info, _render],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=buffer),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    handler = _ToStructlog()
    handler.addFilter(_Sparse())
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    return buffer


class _Sparse(logging.Filter):
    """Lets aiokafka say the same thing once a minute; while a broker is away it does so several times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, object], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        about = (record.name, record.msg)
        if record.created - self._said.get(about, 0.0) < _SAME_AGAIN_S:
            return False
        if len(self._said) >= _SAID_MAX:
            self._said.clear()
        self._said[about] = record.created
        return True


class _ToStructlog(logging.Handler):
    """Lines of libraries, in our form. Only their text: their objects may hold requests."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        # structlog knows no levels of libraries' own, such as 25 or 60.
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        log.log(level, _text(record), logger=record.name, **({"error": error} if error else {}))


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        # Wrong arguments are a library's bug; whoever calls it in the middle of a payment must not pay for it.
        return str(record.msg)


def _stamp(_: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    line = {"time": rfc3339(now_ms()), "level": method, "message": event.pop("event"), **event}
    if trace_id := context.current().trace_id:
        line["trace_id"] = trace_id
    return line


def _render(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    try:
        return _encode(event).decode()
    except ValueError:
        # Text that is no Unicode, from a file name or a peer; the standard library writes it as an escape.
        return json.dumps(event, default=repr)
