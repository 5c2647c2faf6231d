"""Durable state without a database: an append-only file of JSON lines, replayed at start."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

R = TypeVar("R", bound=msgspec.Struct)


class JournalDamaged(Exception):
    """A line of the journal cannot be read, and it is not the torn last one."""

    def __init__(self, path: Path, line: int) -> None:
        super().__init__(f"{path}, line {line}: not a record")
        self.path, self.line = path, line


class Journal(Generic[R]):
    """Records of one type, each appended with one `write`; no path means memory only.

    What was appended survives a kill of the process (it is in the page cache), not the loss of the machine.
    It grows with traffic and is never compacted: a judge must not forget.
    """

    def __init__(self, path: Path | None, record_type: type[R]) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(record_type)
        self._encoder = msgspec.json.Encoder(decimal_format="number")
        self._fd: int | None = None
        self._size_bytes = 0

    def open(self) -> list[R] | None:
        """Open the file and return what it holds; None without a path.

        Raises JournalDamaged, or BlockingIOError when another process has the same file open.
        """
        if self._path is None:
            return None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # Two simulators on one file would each know half of the truth.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            records = self._load(self._path, self._fd)
        except BaseException:
            self.close()
            raise
        return records

    def append(self, record: R) -> None:
        """Write one record; when this returns it is kept, when it raises it is not."""
        if self._path is None:
            return
        if self._fd is None:
            raise RuntimeError(f"{self._path} is not open")
        line = self._encoder.encode(record) + b"\n"
        written = os.write(self._fd, line)
        if written != len(line):
            # The disk filled up half-way: half a line would spoil the next one.
            os.ftruncate(self._fd, self._size_bytes)
            raise OSError(errno.ENOSPC, "short write", str(self._path))
        self._size_bytes += written

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _load(self, path: Path, fd: int) -> list[R]:
        lines = path.read_bytes().split(b"\n")
        # The newline is the last byte of the one write, so a line without it was never answered: drop it.
        torn = lines.pop()
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                records.append(self._decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise JournalDamaged(path, number) from error
        if torn:
            os.ftruncate(fd, os.fstat(fd).st_size - len(torn))
        self._size_bytes = os.fstat(fd).st_size
        return records
