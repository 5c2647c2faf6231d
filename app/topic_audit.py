"""`python -m app audit --topic`: what the histories say was told, against what the topic holds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from app.offline import Dataset
from app.settings import ConfigError, Settings, topics
from clients.topics import EventLines, KafkaTopics, TopicUnreadable
from engine.auditing import UNREADABLE, Finding
from engine.comparing import Comparison, Missing, Unknown, Unlike, differences, digest, id_of
from engine.events import OutgoingEvent, history, outgoing
from engine.ids import PaymentId, is_payment_id
from engine.payment import Payment
from engine.purchase import EVENT_TYPES
from engine.store.outbox import entries_of, event_of

_PAGE: Final = 500
_LOOKUPS: Final = 100


class TopicAudit:
    """First `told` for every payment, then `findings`: in this order, a dataset may be audited while it works.

    What a history had and the topic has not must by then wait in the outbox or be parked; what the topic has and no
    history had is looked up again.
    """

    def __init__(self, settings: Settings, *, since_ms: int = 0) -> None:
        self._topics = topics(settings)
        self._since_ms = since_ms
        self._source = source_of(settings)
        self._folder = tempfile.TemporaryDirectory(prefix="payments-audit-")
        self._comparison = Comparison(Path(self._folder.name)).__enter__()
        self._unreadable: list[Finding] = []
        self._waiting: set[str] = set()
        self._parked: set[str] = set()
        self.counts: dict[str, int | bool] = {}
        """What was compared; complete after the findings."""

    def close(self) -> None:
        """Remove what was written meanwhile. Safe to call twice."""
        self._comparison.__exit__(None, None, None)
        self._folder.cleanup()

    def told(self, payment: Payment, bodies: Sequence[bytes]) -> None:
        """A payment with its history."""
        events = self._events(payment, bodies)
        if events is None:
            self._unreadable.append(Finding(4, payment.id, "its history cannot be told again"))
            return
        for time_ms, event in events:
            if time_ms >= self._since_ms:
                self._comparison.expect(event)

    async def findings(self, data: Dataset) -> AsyncIterator[Finding]:
        """Everything that is wrong between the histories and the topic. Raises `ConfigError`."""
        for finding in self._unreadable:
            yield finding
        await self._see_what_waits(data)
        try:
            async for page in self._source.pages():
                for record in page:
                    self._comparison.read(record)
        except TopicUnreadable as error:
            raise ConfigError(str(error)) from None
        self.counts = {"waiting": 0, "parked": 0, "missing": 0}
        unknown: list[Unknown] = []
        for result in self._comparison.results():
            match result:
                case Missing(event_id):
                    if not self._counted(event_id):
                        yield Finding(4, event_id, "is in the payment's history, but not in the topic")
                case Unlike(event_id, parts):
                    yield Finding(4, event_id, f"differs in the topic from the history: {', '.join(parts)}")
                case Unknown():
                    unknown.append(result)
            if len(unknown) >= _LOOKUPS:
                for finding in await self._looked_up(data, unknown):
                    yield finding
                unknown = []
        for finding in await self._looked_up(data, unknown):
            yield finding
        compared = self._comparison
        self.counts |= {
            "events": compared.events, "records": compared.records, "distinct": compared.distinct,
            "duplicates": compared.duplicates, "from_its_beginning": self._source.whole,
        }  # fmt: skip

    def _counted(self, event_id: str) -> bool:
        kind = "waiting" if event_id in self._waiting else "parked" if event_id in self._parked else "missing"
        self.counts[kind] += 1
        return kind != "missing"

    def _events(self, payment: Payment, bodies: Sequence[bytes]) -> list[tuple[int, OutgoingEvent]] | None:
        """The events of a history with their times, as the topic should have them; None when it cannot be read."""
        try:
            events = history(payment, bodies)
        except (*UNREADABLE, StopIteration):
            return None
        surface = payment.surface
        topic = self._topics.get(surface, "")
        return [
            (event.time_ms, outgoing(event, topic=topic, surface=surface, payment_id=payment.id)) for event in events
        ]

    async def _looked_up(self, data: Dataset, unknown: Sequence[Unknown]) -> list[Finding]:
        found = await asyncio.gather(*(self._look_up(data, each) for each in unknown))
        return [finding for finding in found if finding is not None]

    async def _look_up(self, data: Dataset, unknown: Unknown) -> Finding | None:
        """A record that was no event when the histories were read may be one by now, or be older than asked for."""
        payment_id = PaymentId(unknown.event_id.rpartition("-")[0])
        payment = await data.payments.get(payment_id) if is_payment_id(payment_id) else None
        if payment is not None:
            for _, event in self._events(payment, await data.scan.events_of(payment.id)) or ():
                if id_of(event) == unknown.event_id:
                    parts = differences(digest(event), unknown.digest)
                    problem = f"differs in the topic from the history: {', '.join(parts)}"
                    return Finding(4, unknown.event_id, problem) if parts else None
        return Finding(4, unknown.event_id or "(no ce_id)", "is in the topic, but in no payment's history")

    async def _see_what_waits(self, data: Dataset) -> None:
        """The outbox twice: an event that an operator puts back meanwhile is then in one of the looks."""
        for shard in data.keys.shards:
            self._waiting |= await _ids(data, shard.outbox)
            self._parked |= await _ids(data, shard.parked)
            self._waiting |= await _ids(data, shard.outbox)


def source_of(settings: Settings) -> KafkaTopics | EventLines:
    """Where events go by these settings. Raises `ConfigError`."""
    if settings.kafka.brokers:
        return KafkaTopics(settings.kafka, topic_names(settings))
    if not settings.events.file:
        raise ConfigError("kafka.brokers (KAFKA_BROKER) is not set, nor events.file")
    return EventLines(Path(settings.events.file), topic_names(settings))


def topic_names(settings: Settings) -> list[str]:
    """The topics of all surfaces. One without a topic has one for each type of event, named by it."""
    own = [topic for topic in topics(settings).values() if topic]
    return sorted({*own, *(EVENT_TYPES if "" in topics(settings).values() else ())})


async def _ids(data: Dataset, stream: str) -> set[str]:
    found: set[str] = set()
    after = "-"
    while page := entries_of(await data.batcher.command("XRANGE", stream, after, "+", "COUNT", _PAGE)):
        for _, fields in page:
            try:
                found.add(event_of(fields)[0].id)
            except (KeyError, ValueError):
                continue  # not ours: the relay parks it as unreadable
        after = f"({page[-1][0]}"
    return found
