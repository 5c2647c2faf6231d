"""Logs: JSON lines on stderr, buffered for a moment, because a flushed line costs as much as a request."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import sys
import threading
from collections import deque
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

from engine import context
from engine.ids import now_ms, rfc3339

_FLUSH_EVERY_S: Final = 0.2
_SAME_AGAIN_S: Final = 60.0
_SAID_MAX: Final = 1000
_BUFFER_BYTES: Final = 64 * 1024
_KEPT_BYTES_MAX: Final = 256 * 1024
"""How much waits for a file that cannot be written."""
_encode = msgspec.json.Encoder(enc_hook=repr).encode


class BufferedLog:
    """A text file that is written when enough has gathered, and by `flush_now`.

    A write that fails raises nothing: who logs stands in the middle of a payment. What is not out is tried again by the
    next flush. When that is too much, the oldest lines are dropped, and a line says how many once writing works again.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._failing = False
        self._begun = False
        """Of the first line only the rest is here, so it is never dropped: the next one would be glued to its start."""
        self._writing = threading.Lock()

    def write(self, text: str) -> None:
        """Keep the text, and write all that is kept when it is much."""
        line = text.encode(errors="backslashreplace")
        self._lines.append(line)
        self._size += len(line)
        # While writing fails it is tried by time only: a try at every line would cost as much as a request.
        if self._size > _BUFFER_BYTES and not self._failing:
            self.flush_now()
        if self._size > _KEPT_BYTES_MAX:
            self._drop_oldest()

    def flush(self) -> None:
        """Asked for after every line by the logger; done by time and size instead."""

    def flush_now(self) -> None:
        """Write what is kept. Raises nothing; what could not be written stays."""
        # Another thread may be writing, or this one, interrupted by a finalizer that logs. The next flush comes soon.
        if not self._writing.acquire(blocking=False):
            return
        try:
            lines, self._lines, self._size = self._lines, deque(), 0
            self._write_out(lines)
            if self._lost and not lines:
                self._tell_lost(lines)
            self._lines.extendleft(reversed(lines))
            self._size += sum(map(len, lines))
        finally:
            self._writing.release()

    def _tell_lost(self, lines: deque[bytes]) -> None:
        lost = self._lost
        lines.append(_lost_line(lost))
        self._write_out(lines)
        if lines and not self._begun:
            lines.clear()  # It is made anew when writing works, with the number of then.
        else:
            self._lost -= lost

    def _write_out(self, lines: deque[bytes]) -> None:
        """Write these, and take away what is out."""
        out = self._send(b"".join(lines)) if lines else 0
        while lines and out >= len(lines[0]):
            out -= len(lines.popleft())
            self._begun = False
        if out:
            lines[0] = lines[0][out:]
            self._begun = True
        self._failing = bool(lines)

    def _send(self, data: bytes) -> int:
        """Returns how many bytes are out. A full disk, or a pipe that nobody reads, may take a part."""
        out = 0
        with contextlib.suppress(Exception):
            self._file.flush()
            buffer = getattr(self._file, "buffer", None)
            # Python's buffers keep an unknown part of what they could not write; without them it is counted.
            raw = getattr(buffer, "raw", buffer)
            if not isinstance(raw, io.RawIOBase):
                self._file.write(data.decode())
                self._file.flush()
                return len(data)
            while out < len(data) and (taken := raw.write(memoryview(data)[out:])):
                out += taken
        return out

    def _drop_oldest(self) -> None:
        begun = self._lines.popleft() if self._begun and self._lines else None
        while self._lines and self._size > _KEPT_BYTES_MAX:
            self._size -= len(self._lines.popleft())
            self._lost += 1
        if begun is not None:
            self._lines.appendleft(begun)

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


def _lost_line(count: int) -> bytes:
    line = {"time": rfc3339(now_ms()), "level": "warning", "message": "log lines lost", "count": count}
    return _encode(line) + b"\n"


def _render(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    try:
        return _encode(event).decode()
    except ValueError:
        # Text that is no Unicode, from a file name or a peer; the standard library writes it as an escape.
        return json.dumps(event, default=repr)
