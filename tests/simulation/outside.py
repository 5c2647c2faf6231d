"""The counterparties: acquirers with books of their own, and a broker. What goes wrong is drawn from the seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Final

from engine.cards import Card
from engine.charging import AcquirerRequest, NeverSeen, NotSent, Outcome, Unknown
from engine.events import OutgoingEvent
from engine.facts import Kind
from engine.money import Money
from engine.settling import Approved, Declined
from tests.simulation.loop import VirtualLoop

_TIMEOUT_S: Final = 3.0
_LATE_S: Final = 25.0
_OPENING: Final = (Kind.CHARGE, Kind.AUTHORIZE)


@dataclass
class Holding:
    """What an acquirer keeps about one charge or authorization."""

    payment_id: str
    minor: int
    captured: int = 0
    refunded: int = 0
    voided: bool = False
    until_ms: int = 0


@dataclass
class Decision:
    """What it decided about one attempt, once and for all."""

    kind: Kind
    payment_id: str
    minor: int
    answer: Approved | Declined


@dataclass
class AcquirerWeather:
    """How likely a request meets which trouble, now."""

    refused: float = 0.0
    lying: float = 0.0
    """Says that nothing could be sent, and takes it later."""
    silent: float = 0.0
    answer_lost: float = 0.0
    late: float = 0.0
    slow: float = 0.0


@dataclass
class AcquirerBooks:
    """One acquirer. It dedupes by attempt id and decides by its own rules."""

    name: str
    loop: VirtualLoop
    now_ms: Callable[[], int]
    chance: random.Random
    fired: Counter[str]
    traced: Callable[[str], None]
    weather: AcquirerWeather = field(default_factory=AcquirerWeather)
    decisions: dict[str, Decision] = field(default_factory=dict)
    holdings: dict[str, Holding] = field(default_factory=dict)
    effects: list[tuple[str, Kind, str, int]] = field(default_factory=list)
    """Attempt, kind, payment, minor units: every movement of money, repeated ones too."""
    under_way: Counter[str] = field(default_factory=Counter)
    lied_about: set[str] = field(default_factory=set)
    """Attempts that were said not to have left, and did."""

    def arrive(self, request: AcquirerRequest) -> Approved | Declined:
        """A request has arrived, perhaps not for the first time."""
        known = self.decisions.get(request.attempt_id)
        if known is not None:
            self.fired["acquirer saw a request again"] += 1
            if (known.kind, known.minor) != (request.kind, request.amount.minor):
                return Declined("mismatch", "the attempt was about something else")
            return known.answer
        answer = self._decide(request)
        self.decisions[request.attempt_id] = Decision(request.kind, request.payment_id, request.amount.minor, answer)
        self.fired[f"{request.kind.value} {type(answer).__name__.lower()}"] += 1
        self.traced(f"{self.name} {request.kind.value} {request.attempt_id} {request.amount.minor} {answer[0]}")
        return answer

    def _decide(self, request: AcquirerRequest) -> Approved | Declined:
        minor = request.amount.minor
        if request.kind in _OPENING:
            assert isinstance(request.instrument, Card)
            roll = self.chance.random()
            if roll < 0.08:
                return Declined("insufficient_funds", "Insufficient funds")
            if roll < 0.16:
                return Declined("try_another", "Try another acquirer", retryable=True)
            transaction_id = f"{self.name}-{len(self.holdings) + 1}"
            holding = Holding(request.payment_id, minor)
            self.holdings[transaction_id] = holding
            if request.kind is Kind.CHARGE:
                holding.captured = minor
                self._move(request, minor)
                return Approved(transaction_id)
            holding.until_ms = self.now_ms() + int(self.chance.uniform(20_000, 120_000))
            return Approved(transaction_id, holding.until_ms)
        held = self.holdings.get(request.transaction_id)
        if held is None or held.payment_id != request.payment_id:
            return Declined("unknown_charge", "Unknown charge")
        if objection := self._objection(held, request.kind, minor):
            return Declined(objection, objection)
        if request.kind is Kind.VOID:
            held.voided = True
        else:
            self._move(request, minor)
            if request.kind is Kind.CAPTURE:
                held.captured = minor
            else:
                held.refunded += minor
        return Approved(f"{request.transaction_id}-{len(self.effects)}")

    def _objection(self, held: Holding, kind: Kind, minor: int) -> str | None:
        if kind is Kind.REFUND:
            if held.refunded + minor > held.captured:
                return "amount_too_large"
            return "refund_declined" if self.chance.random() < 0.1 else None
        if held.captured or held.voided:
            return "already_captured" if held.captured else "authorization_voided"
        if self.chance.random() < 0.06:
            return "not_now"
        if kind is Kind.VOID:
            return None if minor == held.minor else "amount_mismatch"
        if self.now_ms() >= held.until_ms:
            return "authorization_expired"
        return "amount_too_large" if minor > held.minor else None

    def _move(self, request: AcquirerRequest, minor: int) -> None:
        self.effects.append((request.attempt_id, request.kind, request.payment_id, minor))


class AcquirerLink:
    """The way of one process to an acquirer. What has left goes its way, whatever becomes of the process."""

    def __init__(self, books: AcquirerBooks) -> None:
        self._books = books
        self._world = Context()
        self.closed = False

    @property
    def name(self) -> str:
        return self._books.name

    async def send(self, request: AcquirerRequest) -> Outcome:
        """One try, within its own time limit."""
        books, weather, chance = self._books, self._books.weather, self._books.chance
        if self.closed:
            return NotSent("this process is dead", 1.0)
        fate = chance.random()
        if fate < weather.refused:
            books.fired["acquirer refused"] += 1
            await asyncio.sleep(0.002)
            return NotSent("connection refused", chance.choice((0.0, 1.0, 3.0)))
        fate -= weather.refused
        if fate < weather.lying:
            return await self._lie(request)
        fate -= weather.lying
        if fate < weather.silent:
            books.fired["acquirer silent"] += 1
            await asyncio.sleep(_TIMEOUT_S)
            return Unknown("no answer")
        fate -= weather.silent
        answer: asyncio.Future[Outcome] = books.loop.create_future()
        there_s, back_s = chance.uniform(0.01, 0.1), chance.uniform(0.01, 0.1)
        if fate < weather.answer_lost:
            books.fired["acquirer answer lost"] += 1
            back_s = 1e9
        elif fate < weather.answer_lost + weather.late:
            books.fired["acquirer request late"] += 1
            there_s = chance.uniform(_TIMEOUT_S, _LATE_S)
        elif fate < weather.answer_lost + weather.late + weather.slow:
            books.fired["acquirer slow"] += 1
            back_s = chance.uniform(0.5, 2 * _TIMEOUT_S)
        books.under_way[request.attempt_id] += 1

        def arrive() -> None:
            books.under_way[request.attempt_id] -= 1
            decided = books.arrive(request)
            if back_s < _TIMEOUT_S:
                self._later(back_s, lambda: None if answer.done() else answer.set_result(decided))

        self._later(there_s, arrive)
        try:
            async with asyncio.timeout(_TIMEOUT_S if chance.random() < 0.7 else there_s + min(back_s, 1.0)):
                return await answer
        except TimeoutError:
            return Unknown("no answer in time")

    async def _lie(self, request: AcquirerRequest) -> Outcome:
        """As a box in the network does that refuses a connection and has kept the request."""
        books = self._books
        books.fired["acquirer lied"] += 1
        books.lied_about.add(request.attempt_id)
        books.under_way[request.attempt_id] += 1

        def arrive() -> None:
            books.under_way[request.attempt_id] -= 1
            books.arrive(request)

        self._later(books.chance.uniform(0.01, _LATE_S), arrive)
        await asyncio.sleep(0.002)
        return NotSent("connection refused", 1.0)

    async def find(self, kind: Kind, attempt_id: str, amount: Money, transaction_id: str) -> Outcome | NeverSeen:
        """Ask what became of an attempt. Never seen is said only of what cannot arrive any more."""
        books, weather, chance = self._books, self._books.weather, self._books.chance
        if self.closed:
            return NotSent("this process is dead", 1.0)
        fate = chance.random()
        if fate < weather.refused:
            await asyncio.sleep(0.002)
            return NotSent("connection refused", 1.0)
        if fate < weather.refused + weather.silent:
            await asyncio.sleep(_TIMEOUT_S)
            return Unknown("no answer")
        await asyncio.sleep(chance.uniform(0.01, 0.1))
        known = books.decisions.get(attempt_id)
        if known is None and books.under_way[attempt_id]:
            books.fired["acquirer does not know yet"] += 1
        found: Outcome | NeverSeen
        if known is not None:
            found = known.answer if (known.kind, known.minor) == (kind, amount.minor) else Unknown("something else")
        else:
            found = Unknown("under way") if books.under_way[attempt_id] else NeverSeen()
        if isinstance(found, NeverSeen):
            books.fired["acquirer never saw it"] += 1
        if isinstance(found, Declined) and found.retryable:
            books.fired["acquirer told of a retryable decline"] += 1
        books.traced(f"{self.name} is asked for {attempt_id}: {type(found).__name__}")
        await asyncio.sleep(chance.uniform(0.01, 0.1))
        return found

    def _later(self, delay_s: float, callback: Callable[[], object]) -> None:
        self._books.loop.call_later(delay_s, callback, context=self._world)


@dataclass
class Topic:
    """The broker's log, and its troubles."""

    loop: VirtualLoop
    chance: random.Random
    fired: Counter[str]
    arrived: Callable[[OutgoingEvent], None]
    down: bool = False
    lost_acks: float = 0.0
    events: list[OutgoingEvent] = field(default_factory=list)

    def append(self, events: Sequence[OutgoingEvent]) -> None:
        """Take events in, in order."""
        for event in events:
            self.events.append(event)
            self.arrived(event)


class PublisherLink:
    """The way of one process to the broker."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._world = Context()
        self.closed = False

    async def publish(self, events: Sequence[OutgoingEvent]) -> list[bool]:
        """The broker takes a first part of them, and acknowledges some of those."""
        topic, chance = self._topic, self._topic.chance
        if self.closed or topic.down:
            topic.fired["broker down"] += not self.closed
            await asyncio.sleep(1.0)
            return [False] * len(events)
        taken = len(events)
        if chance.random() < topic.lost_acks:
            topic.fired["broker took a part"] += 1
            taken = chance.randint(0, len(events))
        acknowledged = [place < taken for place in range(len(events))]
        if chance.random() < topic.lost_acks:
            topic.fired["broker acknowledgement lost"] += 1
            acknowledged = [ok and chance.random() < 0.5 for ok in acknowledged]
        batch = list(events[:taken])
        there_s = chance.uniform(0.005, 0.05)
        topic.loop.call_later(there_s, lambda: topic.append(batch), context=self._world)
        await asyncio.sleep(there_s + chance.uniform(0.001, 0.05))
        return acknowledged
