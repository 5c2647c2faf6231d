"""Publishes events to a JSON-lines file: for development, and where there is no Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from engine.events import OutgoingEvent

_LOCK_PAUSE_S = 0.01
_TAIL_BYTES = 65_536


class EventFile:
    """Appends one line per event, and says `True` once the batch is on the disk.

    The file is opened for each batch, so it may be renamed at any time, and locked while it is written, so several
    processes may share it. A torn last line, left by a crash, was never acknowledged and is cut off first.
    """

    def __init__(self, path: str | Path, *, lock_timeout_s: float = 2.0) -> None:
        self._path = Path(path)
        self._lock_timeout_s = lock_timeout_s
        self._one_batch = asyncio.Lock()
        self._encoder = msgspec.json.Encoder()
        self._connected = False
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether the last publish or `ready` could write."""
        return self._connected

    async def ready(self) -> bool:
        """Whether the file can be written now."""
        return await self._written(b"")

    async def publish(self, events: Sequence[OutgoingEvent]) -> list[bool]:
        """All `True` when the batch is on the disk, else all `False` and none of it in the file."""
        lines = b"".join(map(self._line, events))
        return [bool(lines) and await self._written(lines)] * len(events)

    async def close(self) -> None:
        """Waits for the batch under way and takes no more. Safe to call twice."""
        async with self._one_batch:
            self._closed = True
            self._connected = False

    def _line(self, event: OutgoingEvent) -> bytes:
        # Outside of strings a line break means nothing in JSON and inside it cannot stand raw, so a blank is the same.
        value = msgspec.Raw(event.value.replace(b"\n", b" "))
        line = {"topic": event.topic, "key": event.key, "headers": dict(event.headers), "value": value}
        return self._encoder.encode(line) + b"\n"

    async def _written(self, lines: bytes) -> bool:
        async with self._one_batch:
            if self._closed:
                return False
            try:
                await asyncio.to_thread(self._append, lines)
            except OSError as error:
                self._connected = False
                reason = error.strerror or type(error).__name__
                structlog.get_logger().error("event file not written", code="event_file_trouble", reason=reason)
            else:
                self._connected = True
            return self._connected

    def _append(self, lines: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Also against ourselves: a cancelled publish leaves its thread writing.
            _lock(file, self._lock_timeout_s)
            end = _cut_torn_line(file)
            if end == 0:
                _sync_directory(self._path.parent)
            try:
                _write_all(file, lines)
                os.fsync(file)
            except OSError:
                with contextlib.suppress(OSError):  # if that fails too, the next batch cuts the torn line
                    os.ftruncate(file, end)
                raise
        finally:
            os.close(file)


class DeadLetterFile(EventFile):
    """The same for messages that nobody understood: what is no JSON is kept as a text."""

    def _line(self, event: OutgoingEvent) -> bytes:
        try:
            msgspec.json.decode(event.value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            event = event._replace(value=self._encoder.encode(event.value.decode(errors="replace")))
        return super()._line(event)


def _lock(file: int, timeout_s: float) -> None:
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(_LOCK_PAUSE_S)
        else:
            return


def _cut_torn_line(file: int) -> int:
    """Truncates to the end of the last whole line and returns where that is."""
    size = end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - _TAIL_BYTES)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        structlog.get_logger().warning("torn last line cut off", code="event_file_torn", bytes_cut=size - end)
        os.ftruncate(file, end)
    return end


def _write_all(file: int, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync_directory(path: Path) -> None:
    """Without this a new file's name may be gone after a power cut, and all of its events with it."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
