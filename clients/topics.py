"""Reads back what was published: topics of Kafka, or the event file, from the beginning to the end as it is now."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from clients.kafka_settings import KafkaSettings
from engine.events import OutgoingEvent

_POLL_MS: Final = 500
_STALLED_S: Final = 30.0
_PAGE: Final = 1000


class TopicUnreadable(Exception):
    """A topic cannot be read to its end."""


class KafkaTopics:
    """Topics in Kafka. Reads without a group, so that it leaves no trace."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[str]) -> None:
        self._settings = settings
        self._topics = topics
        self.whole = True
        """Whether the topics still have their first records; known once reading has begun."""

    async def pages(self) -> AsyncIterator[list[OutgoingEvent]]:
        """Every record up to the ends as they are at the start. Raises `TopicUnreadable`."""
        try:
            async with self._consumer(*await self._there()) as consumer:
                async for page in self._read(consumer):
                    yield page
        except (KafkaError, OSError, TimeoutError) as error:
            raise TopicUnreadable(f"{self._named}: {type(error).__name__}") from error

    async def _there(self) -> list[str]:
        """Those that exist: a surface that was never used has none yet. Not one is a mistake of whoever asks."""
        # A consumer that is told the name of a topic may create it by asking.
        async with self._consumer() as consumer:
            known = await consumer.topics()
        there = [topic for topic in self._topics if topic in known]
        if not there:
            raise TopicUnreadable(f"{self._named}: there is none")
        return there

    @property
    def _named(self) -> str:
        return f"topic {' or '.join(self._topics)}"

    @contextlib.asynccontextmanager
    async def _consumer(self, *topics: str) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            *topics, **self._settings.connection(), group_id=None, enable_auto_commit=False,
            auto_offset_reset="earliest",
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                await consumer.start()
            yield consumer
        finally:
            await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> AsyncIterator[list[OutgoingEvent]]:
        places = sorted(consumer.assignment())
        ends = await consumer.end_offsets(places)
        self.whole = not any((await consumer.beginning_offsets(places)).values())
        left = {place for place in places if await consumer.position(place) < ends[place]}
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        while left:
            pages: dict[TopicPartition, list[ConsumerRecord[Any, Any]]] = await consumer.getmany(
                *left, timeout_ms=_POLL_MS, max_records=_PAGE
            )
            for place, records in pages.items():
                heard_at = loop.time()
                yield [_event(record) for record in records if record.offset < ends[place]]
            left = {place for place in left if await consumer.position(place) < ends[place]}
            if left and loop.time() - heard_at > _STALLED_S:
                raise TopicUnreadable(f"{self._named}: no record for {_STALLED_S:.0f} s before its end")


class EventLines:
    """The event file. A line that a crash has torn was never acknowledged, and is passed over."""

    def __init__(self, path: Path, topics: Sequence[str]) -> None:
        self._path = path
        self._topics = frozenset(topics)
        self.whole = True

    async def pages(self) -> AsyncIterator[list[OutgoingEvent]]:
        """Every event of the topics up to the end as it is at the start. Raises `TopicUnreadable`."""
        try:
            with self._path.open("rb") as file:
                left = self._path.stat().st_size
                page: list[OutgoingEvent] = []
                while left > 0 and (line := file.readline()).endswith(b"\n"):
                    left -= len(line)
                    page.append(_event_of_line(line))
                    if len(page) >= _PAGE:
                        yield self._ours(page)
                        page = []
                yield self._ours(page)
        except (OSError, msgspec.MsgspecError) as error:
            raise TopicUnreadable(f"{self._path}: {error}") from error

    def _ours(self, page: list[OutgoingEvent]) -> list[OutgoingEvent]:
        return [event for event in page if event.topic in self._topics]


class _Line(msgspec.Struct):
    topic: str
    key: str
    headers: dict[str, str]
    value: msgspec.Raw


_decode_line = msgspec.json.Decoder(_Line).decode


def _event_of_line(line: bytes) -> OutgoingEvent:
    told = _decode_line(line)
    return OutgoingEvent(told.topic, told.key, bytes(told.value), tuple(told.headers.items()))


def _event(record: Any) -> OutgoingEvent:
    # Anybody may have written it: what is no text must not end the reading.
    key = (record.key or b"").decode(errors="replace")
    headers = tuple((name, (text or b"").decode(errors="replace")) for name, text in record.headers)
    return OutgoingEvent(record.topic, key, record.value or b"", headers)
