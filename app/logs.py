"""Logs: JSON lines on stderr, buffered for a moment, because a flushed line costs as much as a request."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

from engine.ids import now_ms, rfc3339

_FLUSH_EVERY_S: Final = 0.2
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
        """Write what is kept."""
        lines, self._lines, self._size = self._lines, [], 0
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
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(logging.WARNING)
    # The publisher tells of a broker's trouble once; aiokafka would, several times a second while it lasts.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    return buffer


class _ToStructlog(logging.Handler):
    """Lines of libraries, in our form. Only their text: their objects may hold requests."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        log.log(record.levelno, record.getMessage(), logger=record.name, **({"error": error} if error else {}))


def _stamp(_: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {"time": rfc3339(now_ms()), "level": method, "message": event.pop("event"), **event}


def _render(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    return _encode(event).decode()
