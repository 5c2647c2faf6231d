"""Users, orders and a store in memory, for accepting payments from them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import msgspec

from engine.accepting import Accepted, Accepting, AcceptPayment, Caller
from engine.cards import Instrument, SealedInstrument
from engine.checking import Order, OrderChecks, User
from engine.idempotency import Fingerprints, KeyRecord
from engine.ids import PaymentId, PaymentIds, shard_of
from engine.money import Money
from engine.payment import Payment
from tests.engine.making import FakeClock, a_card, a_sealer

USER = "550e8400-e29b-41d4-a716-446655440001"
ORDER = "order-123"
OWNER = Caller(USER, privileged=False)
SERVICE = Caller("billing", privileged=True)
SHARDS = 16
REDRIVE_AFTER_S = 120.0


class Died(BaseException):
    """The process dies here."""


class Upstream:
    """What a counterparty's client has in common here: it may fail, hang, and remembers who was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cancelled = 0
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        """If set, nobody is answered before the event."""
        self.reached = asyncio.Event()

    async def ask(self, name: str) -> None:
        self.asked.append(name)
        self.reached.set()
        try:
            await asyncio.sleep(0)
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error


class FakeUsers(Upstream):
    """A user service with a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.users = {USER: User(USER, active=True)}
        self.cache: dict[str, User] = {}

    def cached(self, user_id: str) -> User | None:
        return self.cache.get(user_id)

    async def get(self, user_id: str) -> User | None:
        await self.ask(user_id)
        return self.users.get(user_id)


class FakeOrders(Upstream):
    """An order service."""

    def __init__(self) -> None:
        super().__init__()
        self.orders = {ORDER: an_order()}

    async def get(self, order_id: str) -> Order | None:
        await self.ask(order_id)
        return self.orders.get(order_id)


class FakePayments:
    """A store that keeps its promises, and dies at a chosen await."""

    def __init__(self) -> None:
        self.payments: dict[PaymentId, Payment] = {}
        self.sealed: dict[PaymentId, SealedInstrument] = {}
        self.due: dict[PaymentId, int] = {}
        self.orders: dict[str, PaymentId] = {}
        self.keys: dict[str, KeyRecord] = {}
        self.created: list[Payment] = []
        self.dies_at = -1
        """The number of the await, from 0; there is one before and one behind everything that is done."""
        self.death: Callable[[], BaseException] = Died
        self.awaits = 0

    @property
    def empty(self) -> bool:
        return not (self.payments or self.sealed or self.due or self.orders or self.keys)

    def shard_of(self, order_id: str) -> int:
        return shard_of(order_id, SHARDS)

    async def create(self, payment: Payment, sealed: SealedInstrument, *, due_ms: int) -> Payment | None:
        await self._await()
        holder = self.orders.get(payment.order_id)
        if payment.id not in self.payments and holder is None:
            self.payments[payment.id] = payment
            self.sealed[payment.id] = sealed
            self.due[payment.id] = due_ms
            self.orders[payment.order_id] = holder = payment.id
            self.created.append(payment)
        await self._await()
        return self.payments.get(payment.id)

    async def get(self, payment_id: PaymentId) -> Payment | None:
        await self._await()
        payment = self.payments.get(payment_id)
        await self._await()
        return payment

    async def key(self, digest: str) -> KeyRecord | None:
        await self._await()
        record = self.keys.get(digest)
        await self._await()
        return record

    async def claim_key(self, digest: str, record: KeyRecord) -> KeyRecord:
        await self._await()
        kept = self.keys.setdefault(digest, record)
        await self._await()
        return kept

    async def _await(self) -> None:
        number, self.awaits = self.awaits, self.awaits + 1
        await asyncio.sleep(0)
        if number == self.dies_at:
            raise self.death()


class Desk:
    """Accepting, with everything around it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.users = FakeUsers()
        self.orders = FakeOrders()
        self.store = FakePayments()
        self.sealer = a_sealer()
        self.refusal: Exception | None = None
        """What the gate says; None lets everybody in."""
        chance = itertools.count()
        self.accepting = Accepting(
            OrderChecks(self.users, self.orders).check,
            self.store,
            self.sealer,
            Fingerprints(b"s" * 32),
            PaymentIds(self.clock, lambda size: next(chance).to_bytes(size, "big")),
            self.clock,
            self._admit,
            redrive_after_s=REDRIVE_AFTER_S,
        )

    async def accept(
        self, wanted: AcceptPayment | None = None, key: str | None = "key-1", caller: Caller = OWNER
    ) -> Accepted:
        return await self.accepting.accept(wanted or a_wish(), caller, key)

    def change_order(self, **changes: object) -> None:
        """What the order service says of the order from now on."""
        self.orders.orders[ORDER] = an_order(**changes)

    def _admit(self) -> None:
        if self.refusal is not None:
            raise self.refusal


def an_order(**changes: object) -> Order:
    """An order that can be paid."""
    order = Order(id=ORDER, user_id=USER, status="pending", total="75.48", currency="USD", payment_id=None)
    return msgspec.structs.replace(order, **changes)


def a_wish(instrument: Instrument | None = None, method_type: str = "credit_card", **changes: object) -> AcceptPayment:
    """A wish to pay that order."""
    wanted = AcceptPayment(
        surface="core",
        order_id=ORDER,
        user_id=USER,
        amount=Money(7548, "USD"),
        method_type=method_type,
        instrument=instrument or a_card(),
        manual=False,
        request_id="req-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    return wanted._replace(**changes)  # type: ignore[arg-type]
