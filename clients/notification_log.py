"""The channel `log`: one JSON line for each notification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from engine.ids import Clock, rfc3339
from engine.notifications import Notification

_TOLD: Final = "told"
_encode = msgspec.json.Encoder().encode


class NotificationLog:
    """Writes the lines of a batch at once, past the buffer of the other logs: a line that is noted was written.

    Whoever dies in between writes the batch again, so a line's `notification_id` may come twice.
    """

    name = "log"

    def __init__(self, write: Callable[[str], None], clock: Clock) -> None:
        self._write = write
        self._clock = clock

    def wants(self, _: str) -> bool:
        """Every type."""
        return True

    async def take(self, notifications: Sequence[Notification]) -> list[str]:
        """Write them. `write` returns when the lines have left the process; what it raises is raised."""
        now = rfc3339(self._clock())
        self._write("".join(_line(now, each) for each in notifications))
        return [_TOLD] * len(notifications)


def _line(now: str, notification: Notification) -> str:
    line = {
        "time": now,
        "level": "info",
        "message": "notification",
        "notification_id": notification.id,
        "user_id": notification.user_id,
        "type": notification.type,
        "subject": notification.subject,
        "title": notification.title,
        "text": notification.text,
        "happened_at": notification.time,
    }
    if notification.trace_id:
        line["trace_id"] = notification.trace_id
    return _encode(line).decode() + "\n"
