"""Accepting a payment: who asks, what for, whether it may be, and then one step that makes it last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from engine.cards import Card, Instrument, SealedInstrument, Sealer
from engine.errors import (
    AlreadyProcessed,
    AmountRefused,
    KeyNotFound,
    KeyReused,
    NotYourUser,
    OrderMismatch,
    OrderNotFound,
    PaymentNotFound,
    UserInactive,
    UserNotFound,
)
from engine.facts import Method
from engine.idempotency import Fingerprints, KeyRecord, first_difference
from engine.ids import Clock, PaymentId, PaymentIds, minted_ms
from engine.money import Money, parse_amount
from engine.payment import Payment


class Caller(NamedTuple):
    """Who asks. A privileged caller (role `service` or `admin`) acts for any user."""

    subject: str
    privileged: bool

    def may_act_for(self, user_id: str) -> bool:
        """Whether this caller sees and makes payments of this user."""
        return self.privileged or self.subject == user_id


class User(msgspec.Struct, frozen=True):
    """What the engine needs to know of a user."""

    id: str
    active: bool


class Order(msgspec.Struct, frozen=True):
    """What the engine needs to know of an order. `total` is a JSON number's text; `currency` may be left open."""

    id: str
    user_id: str
    status: str
    total: str
    currency: str | None
    payment_id: str | None


class Users(Protocol):
    """The user service."""

    def cached(self, user_id: str) -> User | None:
        """A user that was asked for a moment ago."""
        ...

    async def get(self, user_id: str) -> User | None:
        """The user, or None if unknown. Raises `UserServiceUnavailable` or `BadUpstreamAnswer`."""
        ...


class Orders(Protocol):
    """The order service."""

    async def get(self, order_id: str) -> Order | None:
        """The order, or None if unknown. Raises `OrderServiceUnavailable` or `BadUpstreamAnswer`."""
        ...


class PaymentStore(Protocol):
    """Where payments and idempotency keys live."""

    def shard_of_order(self, order_id: str) -> int: ...
    async def create(self, payment: Payment, sealed: SealedInstrument, *, due_ms: int) -> PaymentId: ...
    async def get(self, payment_id: PaymentId) -> Payment | None: ...
    async def key(self, digest: str) -> KeyRecord | None: ...
    async def claim_key(self, digest: str, record: KeyRecord) -> KeyRecord: ...


class AcceptPayment(NamedTuple):
    """A wish to pay: decoded and checked for form, nothing more."""

    surface: str
    order_id: str
    user_id: str
    amount: Money
    method_type: str
    instrument: Instrument
    manual: bool
    request_id: str
    traceparent: str


class Accepted(NamedTuple):
    """The payment, and whether it is the answer to a repeated request."""

    payment: Payment
    replayed: bool


class KeyState(NamedTuple):
    """What became of an idempotency key. No payment: a request with it was cut short; repeating it is safe."""

    payment_id: PaymentId
    created_ms: int
    payment: Payment | None


FIELDS: Final = (
    "route",
    "orderId",
    "userId",
    "amount",
    "currency",
    "paymentMethod.type",
    "paymentMethod.cardNumber",
    "paymentMethod.expiryMonth",
    "paymentMethod.expiryYear",
    "paymentMethod.token",
    "capture",
)
_PAYABLE: Final = "pending"


class Accepting:
    """Accepts payments. After `accept` returns, the payment ends, whatever dies.

    `admit` raises a refusal while no payment may be taken, for example from a store that would not keep it.
    """

    def __init__(
        self,
        users: Users,
        orders: Orders,
        store: PaymentStore,
        sealer: Sealer,
        fingerprints: Fingerprints,
        ids: PaymentIds,
        clock: Clock,
        admit: Callable[[], None],
        *,
        redrive_after_s: float,
    ) -> None:
        self._users = users
        self._orders = orders
        self._store = store
        self._sealer = sealer
        self._fingerprints = fingerprints
        self._ids = ids
        self._clock = clock
        self._admit = admit
        self._redrive_after_ms = int(redrive_after_s * 1000)

    async def accept(self, wanted: AcceptPayment, caller: Caller, key: str | None) -> Accepted:
        """Make the payment, or find the one that the same key has made.

        Raises a refusal with nothing written, or `StoreUnavailable` when it is not known whether the payment was
        made: the same request with the same key then tells.
        """
        self._admit()
        if not caller.may_act_for(wanted.user_id):
            raise NotYourUser("this token may not pay for that user")
        if key is None:
            await self._check(wanted)
            return await self._create(wanted, self._mint(wanted))

        digest = self._fingerprints.key_digest(caller.subject, key)
        fingerprint = self._fingerprints.of(_values(wanted))
        record = await self._store.key(digest)
        if record is not None and (replay := await self._replay(record, fingerprint)):
            return replay
        await self._check(wanted)
        if record is None:
            ours = KeyRecord(self._mint(wanted), fingerprint, self._clock())
            record = await self._store.claim_key(digest, ours)
            if record != ours and (replay := await self._replay(record, fingerprint)):
                return replay
        # From here on the key stands for this id: a crash before the next step is healed by the retry.
        return await self._create(wanted, record.payment_id)

    async def key_state(self, caller: Caller, key: str) -> KeyState:
        """What became of the caller's key. Raises `KeyNotFound`."""
        record = await self._store.key(self._fingerprints.key_digest(caller.subject, key))
        if record is None:
            raise KeyNotFound("this key has not been used")
        return KeyState(record.payment_id, record.created_ms, await self._store.get(record.payment_id))

    async def find(self, payment_id: str, caller: Caller) -> Payment:
        """The payment, if the caller may see it. Raises `PaymentNotFound` otherwise."""
        payment = await self._store.get(PaymentId(payment_id))
        if payment is None or not caller.may_act_for(payment.user_id):
            raise PaymentNotFound("payment not found")
        return payment

    async def _replay(self, record: KeyRecord, fingerprint: str) -> Accepted | None:
        if field := first_difference(FIELDS, fingerprint, record.fingerprint):
            raise KeyReused(field)
        payment = await self._store.get(record.payment_id)
        return Accepted(payment, replayed=True) if payment else None

    async def _check(self, wanted: AcceptPayment) -> None:
        user = self._users.cached(wanted.user_id)
        if user is None:
            user, order = await self._ask_both(wanted)
        else:
            order = await self._orders.get(wanted.order_id)
        if user is None:
            raise UserNotFound("user not found", userId=wanted.user_id)
        if not user.active:
            raise UserInactive("the user is not active", userId=wanted.user_id)
        _check_order(order, wanted)

    async def _ask_both(self, wanted: AcceptPayment) -> tuple[User | None, Order | None]:
        try:
            async with asyncio.TaskGroup() as both:
                user = both.create_task(self._users.get(wanted.user_id))
                order = both.create_task(self._orders.get(wanted.order_id))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return user.result(), order.result()

    async def _create(self, wanted: AcceptPayment, payment_id: PaymentId) -> Accepted:
        now = self._clock()
        payment = Payment(
            version=1,
            id=payment_id,
            surface=wanted.surface,
            order_id=wanted.order_id,
            user_id=wanted.user_id,
            amount=wanted.amount,
            method=_shown(wanted),
            # The id's own time: lists sort by the id, and what they show must not contradict it.
            created_ms=minted_ms(payment_id),
            manual=wanted.manual,
            request_id=wanted.request_id,
            traceparent=wanted.traceparent,
        )
        sealed = self._sealer.seal(payment_id, wanted.instrument)
        holder = await self._store.create(payment, sealed, due_ms=now + self._redrive_after_ms)
        if holder != payment_id:
            raise AlreadyProcessed("the order has a payment that is live or completed", orderId=wanted.order_id)
        return Accepted(payment, replayed=False)

    def _mint(self, wanted: AcceptPayment) -> PaymentId:
        return self._ids.mint(self._store.shard_of_order(wanted.order_id))


def _check_order(order: Order | None, wanted: AcceptPayment) -> None:
    if order is None or order.user_id != wanted.user_id:
        raise OrderNotFound("order not found", orderId=wanted.order_id)
    if order.status != _PAYABLE or order.payment_id:
        raise AlreadyProcessed("the order cannot be paid", orderId=order.id, orderStatus=order.status)
    if order.currency is not None and order.currency != wanted.amount.currency:
        raise OrderMismatch("currency is not the order's", field="currency")
    try:
        total = parse_amount(order.total, wanted.amount.currency)
    except AmountRefused:
        total = None
    if total != wanted.amount:
        raise OrderMismatch("amount is not the order's", field="amount")


def _values(wanted: AcceptPayment) -> Sequence[str]:
    """The values behind `FIELDS`, canonical: 75.48 and 75.480 are the same amount."""
    head = (wanted.surface, wanted.order_id, wanted.user_id, str(wanted.amount.minor), wanted.amount.currency)
    match wanted.instrument:
        case Card() as card:
            tail = (card.pan.reveal(), str(card.expiry_month), str(card.expiry_year), "")
        case token:
            tail = ("", "", "", token.reveal())
    # Nothing for the automatic way: 0.1.0 knew no other, and its keys are still repeated.
    return (*head, wanted.method_type, *tail, *(("manual",) if wanted.manual else ()))


def _shown(wanted: AcceptPayment) -> Method:
    match wanted.instrument:
        case Card() as card:
            return Method(wanted.method_type, card.pan.brand, card.pan.last4)
        case _:
            return Method(wanted.method_type)
