"""Dead letters: messages that can never be done lie in `<topic>.dead`, with the reason, and stop nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import structlog

from engine.cards import without_numbers
from engine.events import Answer, OutgoingEvent, Refused
from engine.messages import Message

_PAUSE_MAX_S: Final = 5.0
_HEADERS_BYTES_MAX: Final = 16_384
_ID_MAX: Final = 256

log = structlog.get_logger()


class Publisher(Protocol):
    """Where messages go that can never be done."""

    async def publish(self, events: Sequence[OutgoingEvent]) -> Sequence[Answer]: ...


class DeadLetters:
    """Puts messages aside. `put` returns when they are there, so their offsets may be committed then."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        pause_s: float = 0.2,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._publisher = publisher
        self._pause_s = pause_s
        self._sleep = sleep

    async def put(self, poisoned: Sequence[tuple[Message, str]]) -> None:
        """Put each message aside with its reason, however long the broker is away."""
        left = [_dead_letter(message, reason) for message, reason in poisoned]
        pause_s = self._pause_s
        while left:
            taken = await self._publisher.publish(left)
            for letter, answer in zip(left, taken, strict=True):
                if isinstance(answer, Refused):
                    # Kept where it came from, and named here: waiting for what will never be would stop the others.
                    log.error("message cannot be put aside", topic=letter.topic, place=letter.key, reason=answer.reason)
            left = [letter for letter, answer in zip(left, taken, strict=True) if answer is False]
            if left:
                await self._sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)
        for message, reason in poisoned:
            log.warning("message put aside", topic=message.topic, place=message.place, reason=reason)


def _dead_letter(message: Message, reason: str) -> OutgoingEvent:
    """The message as it was, but for card numbers, with why it is here."""
    others = [(name, value) for name, value in message.headers if name != "ce_id"]
    kept = [(name, without_numbers(value).decode(errors="replace")) for name, value in others]
    if sum(len(name) + len(value) for name, value in kept) > _HEADERS_BYTES_MAX:
        kept = []
    name = without_numbers(message.id[:_ID_MAX].encode()).decode()
    own = (("ce_id", name), ("reason", reason), ("source", message.place))
    return OutgoingEvent(f"{message.topic}.dead", message.place, without_numbers(message.value), (*kept, *own))
