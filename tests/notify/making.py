"""Events as they come, and the parts of a worker on a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clients.event_file import DeadLetterFile, EventFile
from clients.notification_log import NotificationLog
from engine.events import OutgoingEvent
from engine.ids import Clock, now_ms
from engine.messages import Message
from engine.notifying import Notice, Sink
from engine.store.notifications import RedisNotifications
from handlers.dead_letters import DeadLetters, Publisher
from handlers.notify_listener import Channel, NotifyListener
from tests.store.datasets import Dataset

TRACE = "0af7651916cd43dd8448eb211c80319c"
WEEK_S = 7 * 86_400


def body_of(event_type: str, **more: Any) -> dict[str, Any]:
    """The contract's body of a core event, for user-1 and pay-1."""
    data: dict[str, Any] = {"amount": 75.48, "currency": "USD", "transaction_id": "txn-1"}
    if event_type == "payment_failed":
        data = {"reason": "Insufficient funds", "error_code": "INSUFFICIENT_FUNDS"}
    body = {"event_type": event_type, "payment_id": "pay-1", "order_id": "order-1", "user_id": "user-1", "data": data}
    if event_type == "payment_failed":
        del body["user_id"]
    return body | more


def message(event_id: str, body: Any = None, *, topic: str = "t", offset: int = 0, **headers: str) -> Message:
    """A message as a consumer gets it; a `payment_completed` unless a body is given."""
    body = body_of("payment_completed") if body is None else body
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"ce_id": event_id, "ce_source": "/payments/core", "ce_time": "2026-01-01T00:00:00.000Z"}
    if isinstance(body, dict) and isinstance(body.get("event_type"), str):
        given["ce_type"] = body["event_type"]
    kept = {name: text for name, text in (given | headers).items() if text}
    return Message(topic, 0, offset, value, tuple((name, text.encode()) for name, text in kept.items()))


def event(event_id: str, body: dict[str, Any] | None = None, *, topic: str) -> OutgoingEvent:
    """The same as a publisher sends it."""
    made = message(event_id, body)
    headers = tuple((name, value.decode()) for name, value in made.headers)
    return OutgoingEvent(topic, event_id.rpartition("-")[0], made.value, headers)


async def publish(path: Path, *events: OutgoingEvent) -> None:
    """Append them to the event file."""
    assert all(await EventFile(path).publish(events))


class Lines:
    """Keeps the lines of the channel `log`; dies when it is told to."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.broken = False

    def write(self, text: str) -> None:
        """What the channel writes to."""
        if self.broken:
            raise BrokenPipeError
        self.lines += [json.loads(line) for line in text.splitlines()]

    @property
    def ids(self) -> list[str]:
        """Of which notifications."""
        return [line["notification_id"] for line in self.lines]


class Kept:
    """A sink that keeps what it takes."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    async def take(self, notices: Sequence[Notice]) -> None:
        """Keep them."""
        self.notices += notices


class Worker:
    """A worker's listener on a dataset, with the channel `log` and what else is given."""

    def __init__(
        self,
        dataset: Dataset,
        folder: Path,
        *,
        channels: Sequence[Channel] | None = None,
        sinks: Sequence[Sink] = (),
        publisher: Publisher | None = None,
        store: RedisNotifications | None = None,
        clock: Clock = now_ms,
    ) -> None:
        self.said = Lines()
        self.store = store or RedisNotifications(dataset.batcher, dataset.keys, kept_s=WEEK_S)
        self.dead = folder / "events.dead.jsonl"
        channels = [NotificationLog(self.said.write, now_ms)] if channels is None else channels
        dead = DeadLetters(publisher or DeadLetterFile(self.dead))
        parts = (self.store, dataset.payments(), channels, sinks, dead, dataset.instruments, clock)
        self.listener = NotifyListener(*parts)

    async def lags(self, until: Callable[[], bool]) -> list[float]:
        """What the lag was from the first event to be told of until this holds, looked at again and again."""
        seen: list[float] = []
        while not until():
            if self.said.ids:
                seen.append(self.listener.lag_s())
            await asyncio.sleep(0)
        return seen

    async def hears(self, *messages: Message) -> None:
        """Handle these together."""
        await self.listener.handle(messages)

    def letters(self) -> list[dict[str, Any]]:
        """What was put aside."""
        return [json.loads(line) for line in self.dead.read_text().splitlines()] if self.dead.exists() else []


def counted(dataset: Dataset, **labels: str) -> float:
    """`notifications_total`, summed over all series that have these labels."""
    families = dataset.instruments.registry.collect()
    samples = [sample for family in families for sample in family.samples if sample.name == "notifications_total"]
    return sum(each.value for each in samples if labels.items() <= each.labels.items())
