"""The events of the histories against the records of the topic, in flat memory whatever their number.

Both sides are spilled into files by a hash of the event's id, as digests of what is to be compared; then the files are
held against each other one by one. Memory: one file's share, 1/128 of the events (about 10,000 of a million payments,
some 8 MiB). Disk: about 100 bytes for each event and each record.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple
from zlib import crc32

import msgspec

from engine.events import OutgoingEvent

FILES: Final = 128
_HISTORY: Final = 0
_TOPIC: Final = 1
_PARTS: Final = ("key", "body", "ce_sequence", "ce_prevhash", "other headers")

_Line = tuple[int, str, list[str]]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


class Missing(NamedTuple):
    """An event of a history that is not in the topic."""

    event_id: str


class Unknown(NamedTuple):
    """A record that is no event of the histories as they were read."""

    event_id: str
    digest: list[str]


class Unlike(NamedTuple):
    """A record whose id is an event's, and which is another event."""

    event_id: str
    parts: list[str]


class Comparison:
    """Give it every event of every history, and every record of the topic, in any order; then ask for the `results`.

    A context manager: it keeps files open in a folder that the caller makes and removes.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"{number:03}.jsonl" for number in range(FILES)]
        self._opened = contextlib.ExitStack()
        self._files: list[IO[bytes]] = []
        self.events = 0
        """Told by the histories."""
        self.records = 0
        self.distinct = 0
        """Events of the histories that the topic has. Read this and `duplicates` after the results."""
        self.duplicates = 0
        """Records that say again what one before has said."""

    def __enter__(self) -> Comparison:
        self._files = [self._opened.enter_context(path.open("wb")) for path in self._paths]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()

    def expect(self, event: OutgoingEvent) -> None:
        """An event of a history. Once more is the same."""
        self._spill(_HISTORY, event)

    def read(self, record: OutgoingEvent) -> None:
        """A record of the topic."""
        self.records += 1
        self._spill(_TOPIC, record)

    def results(self) -> Iterator[Missing | Unknown | Unlike]:
        """What differs. Ends the giving."""
        self._opened.close()
        for path in self._paths:
            yield from self._join(path)
            path.unlink()

    def _spill(self, side: int, event: OutgoingEvent) -> None:
        event_id = id_of(event)
        line: _Line = (side, event_id, digest(event))
        self._files[crc32(event_id.encode()) % FILES].write(_encode(line) + b"\n")

    def _join(self, path: Path) -> Iterator[Missing | Unknown | Unlike]:
        expected = {event_id: wanted for side, event_id, wanted in _lines(path) if side == _HISTORY}
        seen: set[str] = set()
        for side, event_id, found in _lines(path):
            if side != _TOPIC:
                continue
            wanted = expected.get(event_id)
            if wanted is None:
                yield Unknown(event_id, found)
            elif found != wanted:
                yield Unlike(event_id, differences(wanted, found))
            elif event_id in seen:
                self.duplicates += 1
            seen.add(event_id)
        self.events += len(expected)
        missing = expected.keys() - seen
        self.distinct += len(expected) - len(missing)
        yield from map(Missing, sorted(missing))


def id_of(event: OutgoingEvent) -> str:
    """The record's `ce_id`, empty when it has none."""
    return dict(event.headers).get("ce_id", "")


def digest(event: OutgoingEvent) -> list[str]:
    """What is compared of an event, part by part, in a few bytes each."""
    headers = dict(event.headers)
    rest = sorted((name, text) for name, text in event.headers if name not in ("ce_sequence", "ce_prevhash"))
    parts = (
        event.key.encode(), event.value, headers.get("ce_sequence", "").encode(),
        headers.get("ce_prevhash", "").encode(), repr(rest).encode(),
    )  # fmt: skip
    return [hashlib.blake2b(part, digest_size=6).hexdigest() for part in parts]


def differences(wanted: list[str], found: list[str]) -> list[str]:
    """The parts that differ, by name."""
    return [name for name, one, other in zip(_PARTS, wanted, found, strict=True) if one != other]


def _lines(path: Path) -> Iterator[_Line]:
    with path.open("rb") as file:
        for line in file:
            yield _decode(line)
