"""What the user and order services tell the world: the contract's JSON, with CloudEvents headers as the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from engine.events import Answer, OutgoingEvent, event_hash

encode = msgspec.json.Encoder(decimal_format="number").encode


class Event(msgspec.Struct, frozen=True):
    """One event of a record's history; `body` is what is published, byte for byte."""

    event_type: str
    created_at: str
    body: msgspec.Raw


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept under one id, with its events: a crash never leaves the one without the other."""

    id: str
    events: tuple[Event, ...] = ()
    published: int = 0
    """How many of them the broker has acknowledged."""


class Publisher(Protocol):
    """Where events go."""

    async def publish(self, events: Sequence[OutgoingEvent]) -> Sequence[Answer]:
        """What became of each, in their order; later ones of a key are `False` after one that was not taken."""
        ...


def event(event_type: str, created_at: str, body: object) -> Event:
    """An event that happened now. `body` is the contract's, without its type."""
    whole = {"event_type": event_type, **body} if isinstance(body, dict) else body
    return Event(event_type, created_at, msgspec.Raw(encode(whole)))


def event_id(record: Record, sequence: int) -> str:
    """What consumers dedupe by; the first has sequence 1."""
    return f"{record.id}-{sequence}"


def untold(record: Record, *, topic: str, source: str) -> list[OutgoingEvent]:
    """The events that nobody has acknowledged yet, as the broker gets them, however often."""
    return [_outgoing(record, number, topic, source) for number in range(record.published + 1, len(record.events) + 1)]


def _outgoing(record: Record, sequence: int, topic: str, source: str) -> OutgoingEvent:
    told = record.events[sequence - 1]
    previous = event_hash(bytes(record.events[sequence - 2].body)) if sequence > 1 else ""
    headers = (
        ("ce_specversion", "1.0"),
        ("ce_id", event_id(record, sequence)),
        ("ce_type", told.event_type),
        ("ce_source", source),
        ("ce_time", told.created_at),
        ("ce_subject", record.id),
        ("ce_sequence", str(sequence)),
        ("ce_prevhash", previous),
        ("content-type", "application/json"),
    )
    return OutgoingEvent(topic, record.id, bytes(told.body), headers)
