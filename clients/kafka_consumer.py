"""A Kafka consumer group: hands messages over, and commits their offsets when their effect is there, never before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from clients.kafka_settings import KafkaSettings
from engine.messages import Message

_POLL_S: Final = 0.2
_REOPEN_PAUSE_S: Final = 1.0
_STOP_S: Final = 5.0
_COMMIT_S: Final = 10.0
_METADATA_MS: Final = 10_000
"""How soon a topic that somebody makes later is found."""

Handle = Callable[[Sequence[Message]], Awaitable[None]]
log = structlog.get_logger()


class KafkaListener:
    """Reads topics as one member of a group until `stop()`, at most `batch_max` messages at a time.

    What was handled and not committed comes again: after a crash, or when a partition went to another member. So
    `handle` must be safe to run twice. It is expected to raise for bugs only; then its messages come again, too.
    """

    def __init__(
        self, settings: KafkaSettings, topics: Sequence[str], handle: Handle, *, group: str, batch_max: int
    ) -> None:
        self._settings = settings
        self._topics = tuple(topics)
        self._handle = handle
        self._group = group
        self._batch_max = batch_max
        self._stopping = asyncio.Event()
        self._busy = asyncio.Lock()
        self._complaint = ""

    def stop(self) -> None:
        """Finish what is being handled, commit it, and take no more."""
        self._stopping.set()

    async def run(self) -> None:
        """Listen until stopped or cancelled. Trouble with the broker is waited out."""
        while not self._stopping.is_set():
            try:
                await self._listen()
            except Exception as error:
                # Kafka's troubles, and our own bugs: both end this membership, and neither may end the listener.
                if (said := repr(error).partition("(")[0]) != self._complaint:
                    self._complaint = said
                    log.warning("listener interrupted", topics=self._topics, reason=repr(error))
                await self._pause(_REOPEN_PAUSE_S)

    async def _listen(self) -> None:
        consumer = await self._open()
        try:
            while not self._stopping.is_set():
                found = await consumer.getmany(timeout_ms=int(_POLL_S * 1000), max_records=self._batch_max)
                if not found:
                    continue
                async with self._busy:
                    await self._handle([_message(record) for records in found.values() for record in records])
                    await self._commit(consumer, {each: records[-1].offset + 1 for each, records in found.items()})
                # It works again, so the next trouble is another one, even if it has the same name.
                self._complaint = ""
        finally:
            await _close(consumer)

    async def _open(self) -> AIOKafkaConsumer:
        connection = await asyncio.to_thread(self._settings.connection)
        consumer = AIOKafkaConsumer(
            **connection,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=_METADATA_MS,
        )
        consumer.subscribe(self._topics, listener=_FinishFirst(self._busy))
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                await consumer.start()
        except BaseException:
            await _close(consumer)
            raise
        log.info("listening", topics=self._topics, group=self._group)
        return consumer

    async def _commit(self, consumer: AIOKafkaConsumer, offsets: dict[TopicPartition, int]) -> None:
        try:
            async with asyncio.timeout(_COMMIT_S):
                await consumer.commit(offsets)
        except (KafkaError, IllegalStateError, TimeoutError) as error:
            # Mostly a partition that is another member's by now: it does the same once more, to no effect.
            log.warning("offsets not committed", topics=self._topics, reason=repr(error))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


class _FinishFirst(ConsumerRebalanceListener):  # type: ignore[misc]
    """Lets partitions go only when what was read from them is done: fewer messages come twice."""

    def __init__(self, busy: asyncio.Lock) -> None:
        self._busy = busy

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Wait, but not for ever: the others wait for us meanwhile."""
        try:
            async with asyncio.timeout(_STOP_S), self._busy:
                pass
        except TimeoutError:
            log.warning("partitions given up while busy", count=len(revoked))

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Nothing: reading goes on from what is committed."""


async def _close(consumer: AIOKafkaConsumer) -> None:
    """Leave the group. aiokafka may wait for ever for a broker that is away, so not longer than this."""
    try:
        async with asyncio.timeout(_STOP_S):
            await consumer.stop()
    except (KafkaError, OSError, TimeoutError) as error:
        log.warning("consumer not closed in order", reason=repr(error))


def _message(record: Any) -> Message:
    headers = tuple((name, value or b"") for name, value in record.headers)
    return Message(record.topic, record.partition, record.offset, record.value or b"", headers)
