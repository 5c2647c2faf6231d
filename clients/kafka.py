"""The Kafka publisher: tells for each event whether the broker has acknowledged it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from aiokafka.errors import KafkaError

from clients.kafka_session import Fate, Session
from clients.kafka_settings import KafkaSettings
from engine.events import Answer, OutgoingEvent, Refused

__all__ = ["KafkaPublisher", "KafkaSettings"]

_REOPEN_PAUSE_S = 0.25
_BATCH_SHRINKS_BY = 8


class KafkaPublisher:
    """Publishes events in batches over one idempotent producer, which is made anew after any trouble.

    Nothing here waits without a limit, and trouble with the broker is never raised: an event that was not
    acknowledged is `False`, may nevertheless be in the topic, and is to be sent again. Consumers dedupe by `ce_id`.
    What the broker will never take is `Refused`, and to be sent again only when somebody has changed something.
    Several publishes may run at once, as long as no two carry the same key. Belongs to one event loop.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        if not settings.brokers:
            raise ValueError("brokers must name at least one host:port")
        self._settings = settings
        self._room = _Room(settings.in_flight_max)
        self._session: Session | None = None
        self._opening: asyncio.Task[None] | None = None
        self._reopen_at = 0.0
        self._batch_bytes = settings.batch_bytes_max
        self._connected = False
        self._complaint: str | None = None
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether the last publish or `ready` found the broker answering."""
        return self._connected

    async def ready(self) -> bool:
        """Whether a broker answers now, found out within `ready_timeout_s`. Connects if nothing has yet."""
        deadline = asyncio.get_running_loop().time() + self._settings.ready_timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                session = await self._session_by(deadline)
                self._connected = session is not None and await session.answers()
        except TimeoutError:
            self._connected = False
        return self._connected

    async def publish(self, events: Sequence[OutgoingEvent]) -> list[Answer]:
        """`True` exactly where the broker has acknowledged; takes at most `publish_timeout_s`.

        After an event that was not acknowledged, or was refused, the later ones of the same key are `False` as well, so
        sending the `False` ones again keeps the order within a key.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.publish_timeout_s
        acknowledged: list[Answer] = []
        held_keys: set[str] = set()
        while len(acknowledged) < len(events):
            granted = await self._room.take(len(events) - len(acknowledged), deadline)
            if not granted:
                break
            try:
                part = events[len(acknowledged) : len(acknowledged) + granted]
                acknowledged += await self._publish_part(part, held_keys, deadline)
            finally:
                self._room.give_back(granted)
        return acknowledged + [False] * (len(events) - len(acknowledged))

    async def close(self) -> None:
        """Lets go of the producer; what is still being published is not acknowledged. Safe to call twice."""
        self._closed = True
        self._connected = False
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._session is not None:
            await self._discard(self._session)

    async def _publish_part(
        self, events: Sequence[OutgoingEvent], held_keys: set[str], deadline: float
    ) -> list[Answer]:
        session = await self._session_by(deadline)
        if session is None:
            self._connected = False
            return [False] * len(events)
        fates = await session.send(events, held_keys=held_keys, deadline=deadline)
        self._connected = session.broken is None
        acknowledged: list[Answer] = []
        for event, fate in zip(events, fates, strict=True):
            good = fate is Fate.ACKNOWLEDGED and event.key not in held_keys
            acknowledged.append(fate if isinstance(fate, Refused) else good)
            if not good:
                held_keys.add(event.key)
        self._size_batches(fates)
        if session.broken is not None:
            waiting = sum(answer is False for answer in acknowledged)
            self._complain("events not acknowledged", session.broken, unacknowledged=waiting)
        if session.broken is not None or session.batch_bytes < self._batch_bytes:
            await self._discard(session)
        return acknowledged

    def _size_batches(self, fates: Sequence[Fate | Refused]) -> None:
        """Smaller batches after a refused one, until the event that is meant travels alone and can be told from the
        rest; full ones again as soon as everything is taken.
        """
        if Fate.BATCH_REFUSED in fates:
            self._batch_bytes = max(1, self._batch_bytes // _BATCH_SHRINKS_BY)
            structlog.get_logger().warning("batch refused", code="batch_refused", batch_bytes=self._batch_bytes)
        elif all(fate is Fate.ACKNOWLEDGED for fate in fates):
            self._batch_bytes = self._settings.batch_bytes_max

    async def _session_by(self, deadline: float) -> Session | None:
        """The open session; if there is none, one opening is shared by all who wait, and outlives their patience."""
        if self._session is not None and self._session.broken is not None:
            await self._discard(self._session)
        if self._session is None and not self._closed:
            opening = self._opening = self._opening or asyncio.create_task(self._open())
            await asyncio.wait([opening], timeout=deadline - asyncio.get_running_loop().time())
            if opening.done() and not opening.cancelled():
                opening.result()  # a bug in there is not to pass for a broker that is away
        return self._session

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._reopen_at - loop.time())
            self._session = await Session.start(self._settings, batch_bytes=self._batch_bytes)
        except (KafkaError, OSError) as error:
            self._reopen_at = loop.time() + _REOPEN_PAUSE_S
            self._complain("kafka not reachable", repr(error))
        else:
            self._complaint = None
            structlog.get_logger().info("kafka connected", brokers=self._settings.brokers)
        finally:
            self._opening = None

    async def _discard(self, session: Session) -> None:
        if self._session is session:
            self._session = None
            self._reopen_at = asyncio.get_running_loop().time() + _REOPEN_PAUSE_S
        await session.abandon()

    def _complain(self, what: str, reason: str, **facts: int) -> None:
        """Logs a trouble once, not with every try while it lasts. What follows a `(` may differ from try to try."""
        if (complaint := what + reason.partition("(")[0]) != self._complaint:
            self._complaint = complaint
            structlog.get_logger().warning(what, code="kafka_trouble", reason=reason, **facts)


class _Room:
    """At most `most` events under way; who finds it full waits in line."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._line = asyncio.Lock()
        self._freed = asyncio.Event()

    async def take(self, wanted: int, deadline: float) -> int:
        """How many of `wanted` may go now: at least one, or 0 when there was no room until `deadline`."""
        try:
            async with asyncio.timeout_at(deadline), self._line:
                while not self._left:
                    self._freed.clear()
                    await self._freed.wait()
                granted = min(wanted, self._left)
                self._left -= granted
                return granted
        except TimeoutError:
            return 0

    def give_back(self, granted: int) -> None:
        """Makes room for others."""
        self._left += granted
        self._freed.set()
