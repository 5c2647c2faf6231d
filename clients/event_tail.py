"""Listens to the event file, where there is no Kafka: the same promises as `KafkaListener` makes, for one process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from clients.kafka_consumer import Handle
from engine.messages import Message

_POLL_S: Final = 0.2
_AGAIN_S: Final = 1.0
_LINE_BYTES_MAX: Final = 4 * 1024 * 1024

log = structlog.get_logger()


class _Line(msgspec.Struct):
    topic: str
    headers: dict[str, str]
    value: msgspec.Raw


class _Position(msgspec.Struct):
    inode: int
    offset: int


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_position = msgspec.json.Decoder(_Position).decode
_encode = msgspec.json.Encoder().encode


class EventFileListener:
    """Reads the lines of some topics until `stop()`, at most `batch_max` at a time, from where its group had come to.

    The group's position stands beside the file and moves when the messages were handled, so after a crash the last
    batch comes again: `handle` must be safe to run twice. A file that was renamed or cut is begun anew.
    """

    def __init__(self, path: Path, topics: Sequence[str], handle: Handle, *, group: str, batch_max: int) -> None:
        self._path = path
        self._topics = frozenset(topics)
        self._handle = handle
        self._kept = path.with_name(f"{path.name}.{group}")
        self._batch_max = batch_max
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Finish what is being handled, and take no more."""
        self._stopping.set()

    async def run(self) -> None:
        """Listen until stopped or cancelled. Trouble with the file is waited out."""
        complaint = ""
        while not self._stopping.is_set():
            pause_s = _POLL_S
            try:
                if await self._batch():
                    continue
                complaint = ""
            except Exception as error:
                # The disk's troubles, and our own bugs: neither may end the listener.
                pause_s = _AGAIN_S
                if (said := repr(error)) != complaint:
                    complaint = said
                    log.warning("listener interrupted", file=str(self._path), reason=said)
            await self._pause(pause_s)

    async def _batch(self) -> bool:
        """Handle the next lines. False: there are none yet."""
        at, after, messages = await asyncio.to_thread(self._read)
        if after == at:
            return False
        if messages:
            await self._handle(messages)
        await asyncio.to_thread(self._keep, after)
        return True

    def _read(self) -> tuple[_Position, _Position, list[Message]]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            nowhere = _Position(0, 0)
            return nowhere, nowhere, []
        messages: list[Message] = []
        with file:
            stat = os.fstat(file.fileno())
            at = self._position(stat)
            offset = file.seek(at.offset)
            for _ in range(self._batch_max):
                line = file.readline(_LINE_BYTES_MAX)
                if not line.endswith(b"\n") and len(line) < _LINE_BYTES_MAX:
                    break  # the end, or a line that is being written
                if message := self._message(line, offset):
                    messages.append(message)
                offset += len(line)
        return at, _Position(at.inode, offset), messages

    def _position(self, stat: os.stat_result) -> _Position:
        try:
            kept = _decode_position(self._kept.read_bytes())
        except (FileNotFoundError, msgspec.MsgspecError):
            kept = _Position(stat.st_ino, 0)
        return kept if kept.inode == stat.st_ino and kept.offset <= stat.st_size else _Position(stat.st_ino, 0)

    def _message(self, line: bytes, offset: int) -> Message | None:
        try:
            told = _decode_line(line)
        except msgspec.MsgspecError:
            log.warning("no event in this line of the event file", file=str(self._path), offset=offset)
            return None
        if told.topic not in self._topics:
            return None
        headers = tuple((name, text.encode()) for name, text in told.headers.items())
        return Message(told.topic, 0, offset, bytes(told.value), headers)

    def _keep(self, position: _Position) -> None:
        fresh = self._kept.with_name(f"{self._kept.name}.new")
        fresh.write_bytes(_encode(position))
        fresh.replace(self._kept)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
