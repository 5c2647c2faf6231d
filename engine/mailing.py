"""Mail: a notification is put on a durable schedule when it is taken, and sent from there until it has ended.

Sent at least once: when the answer to a mail was lost, it is sent again with the same Message-ID, which is made of the
notification's id.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from engine.errors import BadUpstreamAnswer, Overloaded, StoreUnavailable, UserServiceUnavailable
from engine.ids import Clock
from engine.notifications import TYPES, Notification
from metrics.instruments import Instruments

CHANNEL: Final = "mail"
WAITING: Final = "waiting"
_FULL: Final = "full"
_ENDS: Final = frozenset({"sent", "refused", "no_address", "expired"})
_IDLE_S: Final = 0.5
_TROUBLE_S: Final = 2.0
_JITTER: Final = 0.1

log = structlog.get_logger()


class Letter(NamedTuple):
    """One mail. What stands in it may be anything; whoever sends it must see that it breaks out of nothing."""

    id: str
    """The same for the same notification: letters and digits."""
    to: str
    title: str
    text: str
    time: str
    """RFC 3339."""


class Sent(NamedTuple):
    """The server has it."""


class Refused(NamedTuple):
    """The server will never take it."""

    reason: str


class Failed(NamedTuple):
    """It may be tried again; the server may have it already."""

    reason: str


class MailServer(Protocol):
    """Sends mails, one at a time."""

    async def send(self, letter: Letter) -> Sent | Refused | Failed: ...


class Addresses(Protocol):
    """Knows users' addresses. Raises `UserServiceUnavailable`, `BadUpstreamAnswer`."""

    async def of(self, user_id: str) -> str | None: ...


class WaitingMail(NamedTuple):
    """A mail that is ours to try until its lease ends."""

    notification_id: str
    user_id: str
    tries: int
    """Those that failed."""
    till_ms: int
    lease: object


class Mails(Protocol):
    """The durable schedule. Raises `StoreUnavailable`, `Overloaded`."""

    async def add(self, mails: Sequence[tuple[str, str]], *, now_ms: int) -> list[bool]:
        """Keep notification ids with their users. Which of them are kept: one that was kept before is, too."""
        ...

    async def due(self, now_ms: int, limit: int) -> list[WaitingMail]: ...
    async def done(self, mail: WaitingMail, *, now_ms: int) -> None: ...
    async def again(self, mail: WaitingMail, *, due_ms: int) -> None: ...
    async def give_back(self, mail: WaitingMail, *, now_ms: int) -> None: ...


class Kept(Protocol):
    """Knows notifications and what their channels have noted."""

    async def get(self, event_id: str) -> tuple[Notification, dict[str, str]] | None: ...
    async def note(self, event_id: str, channel: str, state: str) -> None: ...


class MailChannel:
    """Puts notifications on the schedule."""

    name = CHANNEL

    def __init__(self, mails: Mails, clock: Clock, *, types: Collection[str]) -> None:
        self._mails = mails
        self._clock = clock
        self._types = types

    def wants(self, event_type: str) -> bool:
        """Whether events of this type are mailed; without a choice, all are."""
        return not self._types or event_type in self._types

    async def take(self, notifications: Sequence[Notification]) -> list[str]:
        """Schedule them. Raises `StoreUnavailable`, `Overloaded`."""
        kept = await self._mails.add([(each.id, each.user_id) for each in notifications], now_ms=self._clock())
        return [WAITING if there else _FULL for there in kept]


class Mailing(NamedTuple):
    """How mails are sent. `retry_s`: the pauses after each failure; after the last one a mail is given up."""

    retry_s: Sequence[float]
    concurrency: int
    longest_ms: int
    """What one try may take; none is begun with less left of its lease, for it might end as another's."""
    strangers: Collection[str]
    """Sources whose users are not the user service's: it must not be asked about them, for it may know a namesake."""


class MailSender:
    """Sends what is due until `stop()`. Several may run, in one process or in many."""

    def __init__(
        self,
        mails: Mails,
        kept: Kept,
        addresses: Addresses,
        server: MailServer,
        instruments: Instruments,
        clock: Clock,
        mailing: Mailing,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._mails = mails
        self._kept = kept
        self._addresses = addresses
        self._server = server
        self._counter = instruments.notifications
        self._clock = clock
        self._mailing = mailing
        self._chance = chance
        self._stopping = asyncio.Event()
        self._asking = asyncio.Lock()
        self._found: deque[WaitingMail] = deque()
        for event_type in TYPES:
            # Shown at zero: an alert that none goes out would take the first of each type for none.
            self._counter.labels(event_type, CHANNEL, "sent")

    def stop(self) -> None:
        """Finish what is being sent, and take no more."""
        self._stopping.set()

    async def run(self) -> None:
        """Send until stopped or cancelled. Trouble with the store is waited out; what was leased comes back."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._mailing.concurrency):
                tasks.create_task(self._work())
        # Nobody has begun with these: whoever starts next need not wait for the end of their lease.
        with contextlib.suppress(StoreUnavailable, Overloaded):
            for mail in self._found:
                await self._mails.give_back(mail, now_ms=self._clock())

    async def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                mail = await self._next()
                if mail is not None and mail.till_ms - self._clock() > self._mailing.longest_ms:
                    await self.deliver(mail)
            except (StoreUnavailable, Overloaded) as error:
                log.warning("mail waits", reason=str(error))
                await self._pause(_TROUBLE_S)
            except Exception:
                # One mail that nobody expected must not end the sending of all others.
                log.exception("mail broke")
                await self._pause(_TROUBLE_S)

    async def _next(self) -> WaitingMail | None:
        """A mail that is due. None: nothing was for a while. Who asks, asks for all."""
        async with self._asking:
            if not self._found:
                self._found.extend(await self._mails.due(self._clock(), self._mailing.concurrency))
            if self._found:
                return self._found.popleft()
            await self._pause(_IDLE_S)
            return None

    async def deliver(self, mail: WaitingMail) -> None:
        """Try one mail. Raises `StoreUnavailable` and `Overloaded`; then it comes again."""
        found = await self._kept.get(mail.notification_id)
        if found is None or found[1].get(CHANNEL) in _ENDS:
            # Gone, or somebody died between noting how it ended and taking it off.
            await self._mails.done(mail, now_ms=self._clock())
            return
        notification = found[0]
        match await self._safely_tried(notification):
            case Sent():
                await self._end(mail, notification, "sent")
            case Refused(reason):
                log.warning("mail refused", notification_id=notification.id, reason=reason)
                await self._end(mail, notification, "refused")
            case None:
                await self._end(mail, notification, "no_address")
            case Failed(reason):
                await self._again(mail, notification, reason)

    async def _safely_tried(self, notification: Notification) -> Sent | Refused | Failed | None:
        try:
            return await self._tried(notification)
        except Exception:
            # A bug of ours: the schedule ends it one day, and the others go on.
            log.exception("mail broke", notification_id=notification.id)
            return Failed("broke")

    async def _tried(self, notification: Notification) -> Sent | Refused | Failed | None:
        if notification.source in self._mailing.strangers:
            return None
        try:
            address = await self._addresses.of(notification.user_id)
        except (UserServiceUnavailable, BadUpstreamAnswer) as error:
            return Failed(error.code)
        return await self._server.send(_letter(notification, address)) if address else None

    async def _again(self, mail: WaitingMail, notification: Notification, reason: str) -> None:
        retry_s = self._mailing.retry_s
        if mail.tries >= len(retry_s):
            log.error("mail given up", notification_id=notification.id, tries=mail.tries + 1, reason=reason)
            await self._end(mail, notification, "expired")
            return
        # Spread a little: what failed together would come again together.
        pause_s = retry_s[mail.tries] * (1 + _JITTER * self._chance())
        log.info("mail failed", notification_id=notification.id, tries=mail.tries + 1, again_s=pause_s, reason=reason)
        self._counter.labels(notification.type, CHANNEL, "failed").inc()
        due_ms = self._clock() + round(pause_s * 1000)
        await self._mails.again(mail._replace(tries=mail.tries + 1), due_ms=due_ms)

    async def _end(self, mail: WaitingMail, notification: Notification, state: str) -> None:
        # Noted first: who dies here finds it noted, and sends nothing.
        await self._kept.note(notification.id, CHANNEL, state)
        await self._mails.done(mail, now_ms=self._clock())
        self._counter.labels(notification.type, CHANNEL, state).inc()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _letter(notification: Notification, address: str) -> Letter:
    name = hashlib.blake2b(notification.id.encode(), digest_size=16, person=b"mail").hexdigest()
    return Letter(name, address, notification.title, notification.text, notification.time)
