"""The relay: takes committed events to the broker, and forgets them only when the broker has them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from engine.errors import Overloaded, StoreUnavailable
from engine.events import Answer, OutgoingEvent, Refused
from metrics.instruments import Instruments

_START = "0-0"


class OutboxEntry(NamedTuple):
    """An event with its place in the outbox."""

    shard: int
    entry_id: str
    event: OutgoingEvent
    unsendable: str = ""
    """Why it cannot even be tried: `no_topic`, `unreadable`."""


class Parking(NamedTuple):
    """An entry that would be in the way for ever, and why."""

    entry: OutboxEntry
    reason: str


class Outbox(Protocol):
    """Where committed events wait."""

    async def read(self, after: Mapping[int, str], *, count: int) -> list[OutboxEntry]:
        """Entries of these shards behind these ids, oldest first."""
        ...

    async def delete(self, entries: Sequence[OutboxEntry]) -> None:
        """Forget acknowledged entries."""
        ...

    async def park(self, parking: Sequence[Parking]) -> int:
        """Put entries aside, each in one step, for an operator to put back. Returns how many there was room for."""
        ...


class EventPublisher(Protocol):
    """Takes events to the world."""

    async def publish(self, events: Sequence[OutgoingEvent]) -> Sequence[Answer]:
        """True exactly where the broker has acknowledged. Never raises for broker trouble, never hangs."""
        ...


class Leases(Protocol):
    """Which shards are ours."""

    def held(self) -> list[int]: ...
    async def renew(self) -> None: ...
    async def release(self) -> None: ...


class Relay:
    """Publishes the outbox of the shards it holds, each from its oldest entry, until cancelled.

    At least once: a crash after the acknowledgement and before the deletion sends the event again. In order per
    payment: nothing of a shard is read past an entry that the broker has not acknowledged. What the broker will never
    take is parked, so that it does not hold up the rest; consumers see the gap in `ce_sequence`.
    """

    def __init__(
        self,
        outbox: Outbox,
        publisher: EventPublisher,
        leases: Leases,
        instruments: Instruments,
        *,
        batch_max: int = 256,
        idle_s: float = 0.02,
        failure_pause_s: float = 0.5,
        renew_every_s: float = 1.5,
    ) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._leases = leases
        self._instruments = instruments
        self._batch_max = batch_max
        self._idle_s = idle_s
        self._failure_pause_s = failure_pause_s
        self._renew_every_s = renew_every_s

    async def run(self) -> None:
        """Relay until cancelled, then give the leases back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_leases())
                tasks.create_task(self._publish_for_ever())
        finally:
            await self._leases.release()

    async def pass_once(self) -> int:
        """Publish one batch of what waits. Returns how many events left the outbox; raises when any were just left."""
        after = dict.fromkeys(self._leases.held(), _START)
        per_shard = max(1, self._batch_max // max(1, len(after)))
        entries = await self._outbox.read(after, count=per_shard)
        if not entries:
            return 0
        parking = [Parking(entry, entry.unsendable) for entry in entries if entry.unsendable]
        sendable = [entry for entry in entries if not entry.unsendable]
        answers = await self._publisher.publish([entry.event for entry in sendable])
        done: list[OutboxEntry] = []
        for entry, answer in zip(sendable, answers, strict=True):
            if isinstance(answer, Refused):
                parking.append(Parking(entry, answer.reason))
            elif answer:
                done.append(entry)
        await self._outbox.delete(done)
        for entry in done:
            self._instruments.events_published.labels(entry.event.event_type).inc()
        parked = await self._park(parking)
        left = len(entries) - len(done) - parked
        if left:
            self._instruments.publish_failures.inc(left)
        # Whatever waited only behind a parked one leaves with the next pass: no reason to pause.
        if left and not parked:
            raise NotAcknowledged(left)
        return len(done) + parked

    async def waiting(self) -> bool:
        """Whether the outbox of the shards that are ours holds anything."""
        try:
            return bool(await self._outbox.read(dict.fromkeys(self._leases.held(), _START), count=1))
        except (StoreUnavailable, Overloaded):
            return False

    async def _park(self, parking: Sequence[Parking]) -> int:
        if not parking:
            return 0
        parked = await self._outbox.park(parking)
        for entry, reason in parking[:parked]:
            self._instruments.events_parked.labels(reason).inc()
            event_id, event_type = entry.event.event_id, entry.event.event_type
            structlog.get_logger().error("event parked", event_id=event_id, event_type=event_type, reason=reason)
        return parked

    async def _keep_leases(self) -> None:
        while True:
            await self._leases.renew()
            await asyncio.sleep(self._renew_every_s)

    async def _publish_for_ever(self) -> None:
        failing = False
        while True:
            pause_s = self._idle_s
            try:
                published = await self.pass_once()
                if published >= self._batch_max // 2:
                    pause_s = 0.0
                if published and failing:
                    failing = False
                    structlog.get_logger().info("events are published again")
            except (NotAcknowledged, StoreUnavailable, Overloaded) as error:
                pause_s = self._failure_pause_s
                if not failing:
                    failing = True
                    structlog.get_logger().warning("events wait in the outbox", reason=str(error))
            await asyncio.sleep(pause_s)


class NotAcknowledged(Exception):
    """The broker did not take some events; they stay in the outbox and are sent again."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} events not acknowledged")
