"""The listener of the notification worker: events of all topics become notifications, and channels tell of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog

from engine.cards import without_numbers
from engine.context import trace_id_of
from engine.errors import Overloaded, StoreUnavailable
from engine.ids import Clock, PaymentId, from_rfc3339, rfc3339
from engine.messages import Message
from engine.notifications import TYPES, Malformed, Notification, Told, told_by
from engine.notifying import Notice, Sink
from engine.payment import Payment
from handlers.dead_letters import DeadLetters
from metrics.instruments import Instruments

_PAUSE_S: Final = 0.2
_PAUSE_MAX_S: Final = 5.0
_LAST_MS: Final = 10_000
"""For how long the age of the last batch is told: longer than a listener commonly needs to come with the next one."""
_HEADER_MAX: Final = 256
_ID: Final = re.compile(r"[\x21-\x7e]{1,200}\Z")
_RECORD: Final = "record"
_UNKNOWN: Final = "unknown"
_LATEST_MS: Final = 253_402_300_799_999
"""The last moment of the year 9999."""
_OURS: Final = "/payments/"

log = structlog.get_logger()


class Payments(Protocol):
    """Knows whose a payment is."""

    async def get(self, payment_id: PaymentId) -> Payment | None: ...


class Taken(Protocol):
    """A notification that was taken in."""

    @property
    def new(self) -> bool: ...
    @property
    def notification(self) -> Notification: ...
    @property
    def left(self) -> tuple[str, ...]: ...


class Notifications(Protocol):
    """Keeps notifications, each once."""

    async def take(self, notifications: Sequence[Notification]) -> Sequence[Taken]: ...
    async def note_first(self, channel: str, states: Mapping[str, str]) -> None: ...


class Channel(Protocol):
    """A way to tell people. `take` returns when the telling is done, or will be done whatever happens.

    What was taken may come again after a crash. It returns the states to be noted: what became of each.
    """

    @property
    def name(self) -> str: ...
    def wants(self, event_type: str) -> bool: ...
    async def take(self, notifications: Sequence[Notification]) -> Sequence[str]: ...


class Event(NamedTuple):
    """An event that somebody is told of."""

    notice: Notice
    told: Told


class Poison(NamedTuple):
    """A message that can never be understood, and why, in one of a few words."""

    reason: str


class _Body(msgspec.Struct):
    """What is read of any body. Nothing is promised by others, so nothing of it must be there."""

    event_type: Any = ""
    recorded_type: Any = msgspec.field(default="", name="eventType")
    timestamp: Any = ""


_decode = msgspec.json.Decoder(_Body).decode


class NotifyListener:
    """`handle` returns when every event is kept, told or scheduled by each channel, and every poison put aside.

    An event of a type that nobody is told of is ignored: others may add types. While the store is away everything
    waits. Safe to run twice: a record is written once, and a channel that has noted its state is not asked again.
    """

    def __init__(
        self,
        notifications: Notifications,
        payments: Payments,
        channels: Sequence[Channel],
        sinks: Sequence[Sink],
        dead: DeadLetters,
        instruments: Instruments,
        clock: Clock,
        *,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._notifications = notifications
        self._payments = payments
        self._channels = {channel.name: channel for channel in channels}
        self._sinks = sinks
        self._dead = dead
        self._clock = clock
        self._sleep = sleep
        self._counter = instruments.notifications
        self._parked = instruments.notifications_parked
        self._oldest_ms = 0
        self._done_ms: int | None = 0

    def lag_s(self) -> float:
        """The age of the oldest event that is being worked on, or was in the last seconds; 0 when none was.

        Between two batches nobody has caught up, and whoever looks then must not see that.
        """
        now_ms = self._clock()
        if self._done_ms is not None and now_ms - self._done_ms >= _LAST_MS:
            return 0.0
        at_ms = now_ms if self._done_ms is None else self._done_ms
        return max(0.0, (at_ms - self._oldest_ms) / 1000)

    async def handle(self, messages: Sequence[Message]) -> None:
        """Tell of the messages, and put aside what nobody understands."""
        events: list[tuple[Message, Event]] = []
        poisoned: list[tuple[Message, str]] = []
        for message in messages:
            match self._read(message):
                case Event() as event:
                    events.append((message, event))
                case Poison(reason):
                    poisoned.append((message, reason))
        if events:
            self._oldest_ms = min(from_rfc3339(event.notice.time) for _, event in events)
            self._done_ms = None
        try:
            if events:
                poisoned += await self._told(events)
            if poisoned:
                await self._dead.put(poisoned)
        finally:
            if events:
                self._done_ms = self._clock()
        for _, reason in poisoned:
            self._parked.labels(reason.partition(":")[0]).inc()

    def _read(self, message: Message) -> Event | Poison | None:
        try:
            return self._event(message)
        except Exception as error:
            # A bug of ours must not stop the others for ever; the message is kept, to be sent again.
            log.exception("event broke", place=message.place)
            return Poison(f"broke: {type(error).__name__}")

    def _event(self, message: Message) -> Event | Poison | None:
        headers = {name: value[:_HEADER_MAX].decode(errors="replace") for name, value in message.headers}
        try:
            message.value.decode()
            body = _decode(message.value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Poison("not_json")
        source = _shown(headers.get("ce_source", ""))
        event_id = _name_of(message.given_id, source)
        if not _ID.match(event_id):
            # Nobody could tell it from the same event when it comes again.
            return Poison("no_id")
        event_type = headers.get("ce_type") or body.event_type or body.recorded_type
        if not event_type or not isinstance(event_type, str):
            return Poison("no_type")
        if event_type not in TYPES:
            self._counter.labels(_UNKNOWN, _RECORD, "ignored").inc()
            return None
        try:
            told = told_by(event_type, message.value)
        except Malformed:
            return Poison("malformed")
        notice = Notice(
            id=event_id,
            type=event_type,
            source=source,
            subject=_shown(headers.get("ce_subject", "")) or told.about or told.payment_id,
            user_id=told.user_id,
            time=self._time(headers.get("ce_time") or body.timestamp),
            body=message.value,
            traceparent=headers.get("traceparent", ""),
        )
        return Event(notice, told)

    def _time(self, said: Any) -> str:
        try:
            ms = from_rfc3339(said)
        except (TypeError, ValueError, OverflowError):
            ms = -1
        return rfc3339(ms if 0 <= ms <= _LATEST_MS else self._clock())

    async def _told(self, events: Sequence[tuple[Message, Event]]) -> list[tuple[Message, str]]:
        """Tell of the events. Returns those that cannot be told, each alone, and why."""
        try:
            await self._insist([event for _, event in events])
        except OSError:
            # Nobody reads our lines any more: no event is to blame for that.
            raise
        except Exception as error:
            if len(events) > 1:
                return [broken for each in events for broken in await self._told([each])]
            [(message, _)] = events
            log.exception("event broke", place=message.place)
            return [(message, f"broke: {type(error).__name__}")]
        return []

    async def _insist(self, events: Sequence[Event]) -> None:
        pause_s, complained = _PAUSE_S, False
        states: dict[str, dict[str, str]] = {name: {} for name in self._channels}
        while True:
            try:
                return await self._tell(events, states)
            except (StoreUnavailable, Overloaded) as error:
                if not complained:
                    log.warning("notifications wait", events=len(events), reason=str(error))
                complained = True
                await self._sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    async def _tell(self, events: Sequence[Event], states: dict[str, dict[str, str]]) -> None:
        """`states`: what channels have done with these events already, though it may not be noted."""
        notices = await self._with_users(events)
        found = [
            _notification(notice, event.told, self._channels_for(notice.type))
            for notice, event in zip(notices, events, strict=True)
            if notice.user_id
        ]
        taken = await self._notifications.take(found)
        for name, channel in self._channels.items():
            left = _once(each.notification for each in taken if name in each.left)
            if waiting := [each for each in left if each.id not in states[name]]:
                for each, state in zip(waiting, await channel.take(waiting), strict=True):
                    states[name][each.id] = state
                    self._count(name, state, [each])
            if left:
                await self._notifications.note_first(name, {each.id: states[name][each.id] for each in left})
        for sink in self._sinks:
            await sink.take(notices)
        self._count(_RECORD, "written", [each.notification for each in taken if each.new])
        self._count(_RECORD, "repeated", [each.notification for each in taken if not each.new])
        self._count(_RECORD, "no_user", [notice for notice in notices if not notice.user_id])

    def _channels_for(self, event_type: str) -> tuple[str, ...]:
        return tuple(name for name, channel in self._channels.items() if channel.wants(event_type))

    async def _with_users(self, events: Sequence[Event]) -> list[Notice]:
        """The notices, with the user of its payment where the contract's body names none."""
        asked = {event.told.payment_id for event in events if not event.told.user_id and event.told.payment_id}
        found = await asyncio.gather(*(self._payments.get(PaymentId(each)) for each in asked))
        users: Mapping[str, str] = {each.id: each.user_id for each in found if each is not None}
        return [
            event.notice
            if event.notice.user_id
            else event.notice._replace(user_id=users.get(event.told.payment_id, ""))
            for event in events
        ]

    def _count(self, channel: str, outcome: str, which: Sequence[Notification | Notice]) -> None:
        for each in which:
            self._counter.labels(each.type, channel, outcome).inc()


def _once(notifications: Iterable[Notification]) -> list[Notification]:
    """Each one, though its event stands twice in one batch."""
    return list({each.id: each for each in notifications}.values())


def _notification(notice: Notice, told: Told, channels: tuple[str, ...]) -> Notification:
    return Notification(
        notice.id, notice.user_id, notice.type, notice.subject, notice.time, told.title, told.text, channels,
        notice.source, trace_id_of(notice.traceparent),
    )  # fmt: skip


def _name_of(given_id: str, source: str) -> str:
    """What the event is called here. Ids are their sources' own: user 1 and order 1 may both have an event `1-1`.

    The engine's begin with a payment's id, and stay as they are.
    """
    if not given_id or not source or source.startswith(_OURS):
        return given_id
    return f"{source.strip('/').replace('/', '.')}:{given_id}"


def _shown(text: str) -> str:
    printable = "".join(letter for letter in text if letter.isprintable())
    return without_numbers(printable.encode()).decode()
