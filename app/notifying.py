"""The notification worker, put together: what listens, what tells, and how both stop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from app.mailing import mail
from app.settings import NOTIFY, ConfigError, Settings
from app.surface_settings import OpsSettings
from app.topic_audit import topic_names
from app.webhooks import WebhookParts, webhooks
from app.wiring import Parts
from clients.event_file import DeadLetterFile
from clients.event_tail import EventFileListener
from clients.kafka import KafkaPublisher
from clients.kafka_consumer import Handle, KafkaListener
from clients.notification_log import NotificationLog
from engine.errors import Overloaded, StoreUnavailable
from engine.ids import now_ms
from engine.notifying import Sink
from handlers.dead_letters import DeadLetters
from handlers.notify_listener import Channel, NotifyListener

_SAMPLE_EVERY_S: Final = 2.0


class Runs(Protocol):
    """Works until it is stopped, as a task."""

    async def run(self) -> None: ...
    def stop(self) -> None: ...


class Notifier:
    """Listens and tells, from `start` to `stop`. What fails in it fails the process."""

    def __init__(self, parts: Parts) -> None:
        settings = parts.settings.notify
        self._instruments = parts.instruments
        self._dead = _dead_letters(parts.settings)
        store = parts.notifications
        self._mail = mail(parts, store) if "mail" in settings.channels else None
        channels: list[Channel] = [NotificationLog(_write, now_ms)] if "log" in settings.channels else []
        if self._mail:
            channels.append(self._mail.channel)
        hooks = _webhooks(parts) if parts.settings.webhooks.enabled else None
        sinks: list[Sink] = [hooks.sink] if hooks else []
        self._handler = NotifyListener(
            store, parts.payments, channels, sinks, DeadLetters(self._dead), parts.instruments, now_ms
        )
        self._listener = _listener(parts.settings, parts.traced(self._handler.handle))
        self._senders: list[Runs] = [each.sender for each in (self._mail, hooks) if each]
        self._running: list[asyncio.Task[None]] = []

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin, as tasks of this group."""
        self._running = [tasks.create_task(each.run()) for each in (self._listener, *self._senders)]
        self._sampling = tasks.create_task(self._sample())

    async def stop(self, *, within_s: float) -> None:
        """Finish what is in hand. What is not finished in time comes again to whoever starts next."""
        for each in (self._listener, *self._senders):
            each.stop()
        await asyncio.wait(self._running, timeout=within_s)
        for task in (*self._running, self._sampling):
            task.cancel()
        await asyncio.wait([*self._running, self._sampling])
        await self._dead.close()

    async def _sample(self) -> None:
        while True:
            self._instruments.notifications_lag.set(self._handler.lag_s())
            if self._mail:
                # Depths stay as they were while the store does not answer.
                with contextlib.suppress(StoreUnavailable, Overloaded):
                    depth = await self._mail.mails.depth()
                    self._instruments.mails_waiting.set(depth.waiting)
                    age_s = max(0.0, (now_ms() - depth.oldest_ms) / 1000) if depth.waiting else 0.0
                    self._instruments.mails_oldest.set(age_s)
            await asyncio.sleep(_SAMPLE_EVERY_S)


def settings_of(settings: Settings) -> Settings:
    """The settings of a process that does nothing else. Raises `ConfigError` when something it needs is missing."""
    wrong = []
    if not settings.redis.url:
        wrong.append("redis.url (PAYMENTS__REDIS__URL) is not set")
    if not settings.kafka.brokers and not settings.events.file:
        wrong.append("kafka.brokers (KAFKA_BROKER) is not set, nor events.file")
    if "mail" in settings.notify.channels and "{id}" not in settings.users.url:
        wrong.append(
            "users.url (PAYMENTS__USERS__URL) is not set: a template with {id}; it knows who has which address"
        )
    if settings.webhooks.enabled and not settings.cards.keys:
        wrong.append("cards.keys (PAYMENTS__CARDS__KEYS) is not set: the secrets of webhooks are sealed with them")
    if wrong:
        raise ConfigError("cannot notify:\n  " + "\n  ".join(wrong))
    # It opens no card, so without webhooks it need not be trusted with the keys; what is never used opens nothing.
    nothing = base64.b64encode(os.urandom(32)).decode()
    cards = msgspec.structs.replace(
        settings.cards,
        keys=settings.cards.keys or f"none:{nothing}",
        fingerprint_secret=settings.cards.fingerprint_secret or nothing,
    )
    return msgspec.structs.replace(settings, cards=cards, ops=OpsSettings(settings.notify.port))


def notifier(parts: Parts, roles: Sequence[str]) -> Notifier | None:
    """The worker of a process with its role."""
    return Notifier(parts) if NOTIFY in roles else None


def _webhooks(parts: Parts) -> WebhookParts:
    return webhooks(parts.settings, parts.batcher, parts.keys, parts.instruments)


def _listener(settings: Settings, handle: Handle) -> KafkaListener | EventFileListener:
    notify = settings.notify
    topics = sorted({*topic_names(settings), *notify.topics})
    if settings.kafka.brokers:
        return KafkaListener(settings.kafka, topics, handle, group=notify.group, batch_max=notify.batch_max)
    path = Path(settings.events.file)
    return EventFileListener(path, topics, handle, group=notify.group, batch_max=notify.batch_max)


def _dead_letters(settings: Settings) -> KafkaPublisher | DeadLetterFile:
    if settings.kafka.brokers:
        return KafkaPublisher(settings.kafka)
    path = Path(settings.events.file)
    return DeadLetterFile(path.with_name(f"{path.stem}.dead.jsonl"))


def _write(lines: str) -> None:
    sys.stderr.write(lines)
    sys.stderr.flush()
