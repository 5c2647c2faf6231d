"""Listening to the event file: everything once in order, and again only after a crash."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from clients.event_file import EventFile
from clients.event_tail import EventFileListener
from engine.messages import Message
from tests.faults.world import eventually
from tests.kafka_support import make_event


class Heard:
    """Remembers what it was told, and fails when it is told to."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.failures = 0

    async def handle(self, messages: Sequence[Message]) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("not now")
        self.ids += [message.id for message in messages]


@contextlib.asynccontextmanager
async def listening(path: Path, heard: Heard, *, batch_max: int = 2) -> AsyncIterator[EventFileListener]:
    listener = EventFileListener(path, ["t"], heard.handle, group="ours", batch_max=batch_max)
    task = asyncio.create_task(listener.run())
    try:
        yield listener
    finally:
        listener.stop()
        await task


async def publish(path: Path, *numbers: int, topic: str = "t") -> None:
    await EventFile(path).publish([make_event(topic, "pay-1", number) for number in numbers])


async def test_what_is_there_and_what_comes_is_heard_once_in_order(tmp_path: Path) -> None:
    path, heard = tmp_path / "events.jsonl", Heard()
    async with listening(path, heard):
        await publish(path, 1, 2, 3)
        await publish(path, 4, topic="another")
        await publish(path, 5)
        await eventually(lambda: len(heard.ids) >= 4)
    assert heard.ids == ["pay-1-1", "pay-1-2", "pay-1-3", "pay-1-5"]
    await publish(path, 6)
    async with listening(path, heard):
        await eventually(lambda: len(heard.ids) >= 5)
    assert heard.ids[4:] == ["pay-1-6"], "the group goes on where it was"


async def test_what_was_not_handled_comes_again(tmp_path: Path) -> None:
    path, heard = tmp_path / "events.jsonl", Heard()
    heard.failures = 1
    await publish(path, 1)
    async with listening(path, heard):
        await eventually(lambda: heard.ids == ["pay-1-1"])


async def test_a_half_written_line_is_waited_for_and_one_that_is_no_event_passed_over(tmp_path: Path) -> None:
    path, heard = tmp_path / "events.jsonl", Heard()
    await publish(path, 1, 2)
    whole = path.read_bytes()
    first = whole[: whole.index(b"\n") + 1]
    path.write_bytes(b"nonsense\n" + first + whole[len(first) : -5])
    async with listening(path, heard):
        await eventually(lambda: heard.ids == ["pay-1-1"])
        with path.open("ab") as file:
            file.write(whole[-5:])
        await eventually(lambda: heard.ids == ["pay-1-1", "pay-1-2"])


async def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path, heard = tmp_path / "events.jsonl", Heard()
    async with listening(path, heard):
        await publish(path, 1)
        await eventually(lambda: len(heard.ids) == 1)
        path.rename(tmp_path / "old")
        await publish(path, 2)
        await eventually(lambda: len(heard.ids) == 2)
    assert heard.ids == ["pay-1-1", "pay-1-2"]
