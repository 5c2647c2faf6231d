"""Customers: they ask with idempotency keys, race themselves, and repeat until they have an answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from engine.accepting import Accepted, AcceptPayment, Caller
from engine.cards import Card, Cvv, Pan
from engine.changing import Asked, Refunded
from engine.errors import EngineError, KeyReused, TryLater
from engine.facts import Status
from engine.ids import PaymentId
from engine.money import Money
from engine.payment import Payment
from tests.simulation.process import Process

PAN: Final = "4242424242424242"
_PATIENCE_S: Final = 4.0
_TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Asking:
    """One thing that a customer wanted, with the answer that it got in the end."""

    what: str
    payment_id: str
    minor: int | None = None
    answer: str = "unknown"
    """`ok`, `refused`, or `unknown`: nobody answered, or not every try with the key was answered."""
    unanswered: int = 0
    """Earlier tries with the same key may still be done after a later one was refused."""
    refund_id: str = ""


@dataclass
class Diary:
    """What all customers know at the end."""

    accepted: dict[PaymentId, AcceptPayment] = field(default_factory=dict)
    by_key: dict[str, set[PaymentId]] = field(default_factory=dict)
    askings: list[Asking] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Town(Protocol):
    """Where customers find processes."""

    chance: random.Random
    fired: Counter[str]
    diary: Diary

    def pick(self) -> Process | None: ...
    def trace(self, text: str) -> None: ...


class Customer:
    """One order, paid for and then changed in some way that the seed decides."""

    def __init__(self, town: Town, number: int) -> None:
        self._town = town
        self._chance = town.chance
        self._number = number
        self._caller = Caller(f"u{number}", privileged=False)
        self._keys = 0

    async def live(self, after_s: float) -> None:
        """Everything that this customer ever does."""
        await asyncio.sleep(after_s)
        payment_id = await self._pay()
        if payment_id is None:
            return
        if self._chance.random() < 0.8:
            await self._wait(payment_id, 20.0)
        await asyncio.sleep(self._chance.choice((0.0, 0.0, 3.0, 20.0)))
        changes: list[Coroutine[Any, Any, None]] = []
        if self._manual and self._chance.random() < 0.85:
            for _ in range(self._chance.choice((1, 1, 2))):
                change = self._capture if self._chance.random() < 0.7 else self._cancel
                changes.append(change(payment_id))
            await asyncio.gather(*changes)
            await self._wait(payment_id, 20.0, until=(Status.COMPLETED, Status.CANCELLED))
        if self._chance.random() < 0.7:
            await asyncio.gather(*(self._refund(payment_id) for _ in range(self._chance.randint(1, 4))))

    # Paying.

    async def _pay(self) -> PaymentId | None:
        chance, number = self._chance, self._number
        self._manual = chance.random() < 0.45
        self._minor = chance.randint(100, 9_999)
        key = self._key()
        wanted = self._wanted(self._minor)
        ways = [self._accept(wanted, key)]
        if chance.random() < 0.25:
            self._town.fired["same key at once"] += 1
            ways.append(self._accept(wanted, key, after_s=chance.random() * 0.05))
        if chance.random() < 0.15:
            self._town.fired["two keys for one order"] += 1
            ways.append(self._accept(wanted, self._key(), after_s=chance.random() * 0.05))
        answers = [answer for answer in await asyncio.gather(*ways) if isinstance(answer, Accepted)]
        if not answers:
            return None
        if chance.random() < 0.2:
            await self._accept_other(self._wanted(self._minor + 1), key)
        if chance.random() < 0.2:
            await self._accept(wanted, key)
        self._town.trace(f"customer {number} has {answers[0].payment.id}")
        return answers[0].payment.id

    async def _accept(self, wanted: AcceptPayment, key: str, *, after_s: float = 0.0) -> Any:
        await asyncio.sleep(after_s)
        answer = await self._ask("pay", lambda process: process.accepting.accept(wanted, self._caller, key))
        if isinstance(answer, Accepted):
            self._town.diary.accepted[answer.payment.id] = wanted
            self._town.diary.by_key.setdefault(key, set()).add(answer.payment.id)
        return answer

    async def _accept_other(self, wanted: AcceptPayment, key: str) -> None:
        self._town.fired["same key, other body"] += 1
        answer = await self._ask("pay", lambda process: process.accepting.accept(wanted, self._caller, key))
        # Its first use may have been refused, and another key's payment taken: the key then is still free.
        if not isinstance(answer, KeyReused) and key in self._town.diary.by_key:
            self._complain(f"6: the same key with another body got {answer!r}")

    def _wanted(self, minor: int) -> AcceptPayment:
        number = self._number
        return AcceptPayment(
            surface="core",
            order_id=f"o{number}_u{number}_{self._minor}",
            user_id=f"u{number}",
            amount=Money(minor, "USD"),
            method_type="credit_card",
            instrument=Card(Pan(PAN), 12, 2030, Cvv("737")),
            manual=self._manual,
            request_id=f"r{number}",
            traceparent=_TRACEPARENT,
        )

    # Changing.

    async def _capture(self, payment_id: PaymentId) -> None:
        minor = self._chance.choice((None, self._chance.randint(1, self._minor), self._minor + 1))
        amount, key = _text(minor), self._key()
        asking = Asking("capture", payment_id, self._minor if minor is None else minor)
        await self._change(
            asking,
            lambda process: process.changing.capture(payment_id, self._caller, amount=amount, key=key),
        )

    async def _cancel(self, payment_id: PaymentId) -> None:
        key = self._key()
        await self._change(
            Asking("cancel", payment_id),
            lambda process: process.changing.cancel(payment_id, self._caller, reason=None, key=key),
        )

    async def _refund(self, payment_id: PaymentId) -> None:
        await asyncio.sleep(self._chance.choice((0.0, 0.0, 0.5, 5.0)))
        minor = self._chance.choice((None, self._minor + 1, *(self._chance.randint(1, self._minor) for _ in range(3))))
        key = self._key() if self._chance.random() < 0.9 else None
        amount = _text(minor)

        def refund(process: Process) -> Coroutine[Any, Any, Refunded]:
            return process.changing.refund(payment_id, self._caller, amount=amount, reason=None, key=key)

        asking = Asking("refund", payment_id, minor)
        times = 2 if key and self._chance.random() < 0.2 else 1
        again = [Asking("refund", payment_id, minor) for _ in range(times - 1)]
        await asyncio.gather(*(self._change(one, refund, keyed=key is not None) for one in (asking, *again)))
        for other in again:
            if asking.answer == other.answer == "ok" and asking.refund_id != other.refund_id:
                self._complain(f"6: one key got two refunds of {payment_id}: {asking.refund_id}, {other.refund_id}")

    async def _change(
        self, asking: Asking, ask: Callable[[Process], Coroutine[Any, Any, Any]], *, keyed: bool = True
    ) -> None:
        self._town.diary.askings.append(asking)
        answer = await self._ask(asking.what, ask, keyed=keyed, asking=asking)
        if isinstance(answer, EngineError):
            asking.answer = "unknown" if asking.unanswered else "refused"
        elif answer is not None:
            asking.answer = "ok"
            assert isinstance(answer, (Asked, Refunded))
            asking.refund_id = answer.refund.id if isinstance(answer, Refunded) else ""
        self._town.fired[f"{asking.what} {asking.answer}"] += 1
        self._town.trace(f"{asking.what} of {asking.payment_id} {asking.minor}: {asking.answer}")

    async def _wait(
        self, payment_id: PaymentId, patience_s: float, until: tuple[Status, ...] = tuple(Status)[1:]
    ) -> None:
        for _ in range(int(patience_s)):
            await asyncio.sleep(1.0)
            answer = await self._ask(
                "look", lambda process: process.accepting.find(payment_id, self._caller), keyed=False
            )
            if isinstance(answer, Payment) and answer.status in until:
                return

    async def _ask(
        self,
        what: str,
        ask: Callable[[Process], Coroutine[Any, Any, Any]],
        *,
        keyed: bool = True,
        asking: Asking | None = None,
    ) -> Any:
        """Ask some process, and with a key again until somebody answers. None when nobody did."""
        while True:
            process = self._town.pick()
            if process is not None:
                try:
                    async with asyncio.timeout(_PATIENCE_S):
                        return await process.call(ask(process))
                except (TryLater, TimeoutError, ConnectionError):
                    self._town.fired[f"{what} unanswered"] += 1
                    if asking is not None:
                        asking.unanswered += 1
                except EngineError as refusal:
                    return refusal
                except Exception as error:
                    self._complain(f"a request to {what} broke: {error!r}")
                    return None
                if not keyed:
                    return None
            await asyncio.sleep(self._chance.uniform(0.1, 1.5))

    def _key(self) -> str:
        self._keys += 1
        return f"k{self._number}-{self._keys}"

    def _complain(self, complaint: str) -> None:
        self._town.diary.complaints.append(complaint)


def _text(minor: int | None) -> str | None:
    return None if minor is None else f"{minor // 100}.{minor % 100:02}"
