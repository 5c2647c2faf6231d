"""One aiokafka producer, from its start to its first trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from enum import Enum
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError

from clients.kafka_abort import abort, never_linger
from clients.kafka_refusals import TOO_LARGE, know_all_refusals, refusal
from clients.kafka_settings import KafkaSettings
from engine.events import OutgoingEvent, Refused

_TOPIC_TIMEOUT_S = 5.0
_TOPIC_ASK_AGAIN_S = 10.0


class Fate(Enum):
    """What became of one event that was not `Refused` for ever."""

    ACKNOWLEDGED = "acknowledged"
    HELD_BACK = "held back"  # not sent: its topic is not there, or an earlier event of its key did not make it
    BATCH_REFUSED = "batch refused"  # refused together with others, so nobody knows which one it was
    UNKNOWN = "unknown"  # sent, or on its way, and not acknowledged: it may be in the topic


class Session:
    """A started producer. After the first trouble it is `broken`, and then only good for `abandon`.

    It is given up after any failed batch, not only after fatal errors: aiokafka has counted that batch's sequence
    numbers, so a real broker refuses every later batch of the partition as out of order.
    """

    def __init__(self, producer: AIOKafkaProducer, *, batch_bytes: int) -> None:
        self.broken: str | None = None
        self._producer = producer
        self.batch_bytes = batch_bytes
        self._pending: set[asyncio.Future[Any]] = set()
        self._topics: set[str] = set()
        self._absent: dict[str, float] = {}

    @classmethod
    async def start(cls, settings: KafkaSettings, *, batch_bytes: int) -> Session:
        """Connects within `start_timeout_s`. Raises `KafkaError` or `OSError`, and then leaves nothing behind."""
        know_all_refusals()
        connection = await asyncio.to_thread(settings.connection)
        producer = AIOKafkaProducer(
            **connection,
            acks="all",
            enable_idempotence=True,
            compression_type=settings.compression,
            linger_ms=settings.linger_ms,
            max_batch_size=batch_bytes,
            max_request_size=settings.event_bytes_max,
            # Half, so that one lost request can be repeated under the same sequence number within one publish.
            request_timeout_ms=max(1, int(settings.publish_timeout_s * 500)),
        )
        never_linger(producer)
        try:
            async with asyncio.timeout(settings.start_timeout_s):
                await producer.start()
        except BaseException as broken:
            await abort(producer, broken)
            raise
        return cls(producer, batch_bytes=batch_bytes)

    async def send(
        self,
        events: Sequence[OutgoingEvent],
        *,
        held_keys: Collection[str],
        deadline: float,
    ) -> list[Fate | Refused]:
        """Sends in order and waits for the broker, at most until the loop time `deadline`.

        Not sent are events whose key is in `held_keys`, and those behind one of their key that could not be sent.
        """
        fates: list[Fate | Refused] = [Fate.HELD_BACK] * len(events)
        pending: dict[asyncio.Future[Any], int] = {}
        try:
            async with asyncio.timeout_at(deadline):
                await self._find_topics({event.topic for event in events})
                await self._hand_over(events, set(held_keys), fates, pending)
                if pending:
                    await asyncio.wait(pending)
        except TimeoutError:
            self.broken = "the broker did not acknowledge in time"
        except KafkaError as error:
            self.broken = repr(error)
        finally:
            self._pending.difference_update(pending)
            self._read_fates(events, fates, pending)
        return fates

    async def _hand_over(
        self,
        events: Sequence[OutgoingEvent],
        held_keys: set[str],
        fates: list[Fate | Refused],
        pending: dict[asyncio.Future[Any], int],
    ) -> None:
        """Gives the events to the producer; a future per event, because a coroutine per event would cost the double."""
        send, topics = self._producer.send, self._topics
        for index, event in enumerate(events):
            if event.key in held_keys:
                continue
            if event.topic not in topics:
                held_keys.add(event.key)
                continue
            headers = [(name, text.encode()) for name, text in event.headers]
            try:
                future = await send(event.topic, event.value, event.key.encode(), headers=headers)
            except MessageSizeTooLargeError:
                fates[index] = Refused(TOO_LARGE)
                held_keys.add(event.key)
            else:
                pending[future] = index
                self._pending.add(future)

    def _read_fates(
        self, events: Sequence[OutgoingEvent], fates: list[Fate | Refused], pending: dict[asyncio.Future[Any], int]
    ) -> None:
        for future, index in pending.items():
            if not future.done() or future.cancelled():
                future.cancel()
                fates[index] = Fate.UNKNOWN
            elif (error := future.exception()) is None:
                fates[index] = Fate.ACKNOWLEDGED
            else:
                fates[index] = self._fate_after(error, events[index])
                self.broken = self.broken or repr(error)

    def _fate_after(self, error: BaseException, event: OutgoingEvent) -> Fate | Refused:
        if (reason := refusal(error)) is None:
            return Fate.UNKNOWN
        # A record of a batch's size travels alone, so then it is the one that is meant.
        size = len(event.value) + len(event.key) + sum(len(name) + len(text) for name, text in event.headers)
        return Refused(reason) if size >= self.batch_bytes else Fate.BATCH_REFUSED

    async def _find_topics(self, wanted: set[str]) -> None:
        """Fetches the partitions of topics not seen before, so that `send` never waits for metadata.

        A topic that is not there must not hold up the others, so it is asked for again only after a while.
        """
        now = asyncio.get_running_loop().time()
        missing = [t for t in wanted if t not in self._topics and self._absent.get(t, 0.0) <= now]
        if not missing:
            return
        async with asyncio.TaskGroup() as asking:
            for topic in missing:
                asking.create_task(self._find_topic(topic))
        if not self._topics.issuperset(missing) and not await self.answers():
            raise KafkaConnectionError("no broker answers")

    async def _find_topic(self, topic: str) -> None:
        try:
            async with asyncio.timeout(_TOPIC_TIMEOUT_S):
                await self._producer.partitions_for(topic)
        except (KafkaError, TimeoutError) as error:
            self._absent[topic] = asyncio.get_running_loop().time() + _TOPIC_ASK_AGAIN_S
            log = structlog.get_logger()
            log.warning("topic not available", code="topic_unavailable", topic=topic, error=type(error).__name__)
        else:
            self._topics.add(topic)

    async def answers(self) -> bool:
        """Whether a broker answers a metadata request now. The caller bounds the time."""
        return bool(await self._producer.client.force_metadata_update())

    async def abandon(self) -> None:
        """Lets go of the producer at once; who still waits in `send` learns that the fate is unknown."""
        self.broken = self.broken or "abandoned"
        for future in tuple(self._pending):
            future.cancel()
        await abort(self._producer)
