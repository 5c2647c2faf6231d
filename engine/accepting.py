"""Accepting a payment: who asks, what for, whether it may be, and then one step that makes it last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from engine.cards import Card, Instrument, SealedInstrument, Sealer, VaultCard, expired
from engine.errors import (
    AlreadyProcessed,
    KeyNotFound,
    KeyReused,
    NotYourUser,
    PaymentMethodRefused,
    PaymentNotFound,
)
from engine.facts import Method
from engine.idempotency import Fingerprints, KeyRecord, first_difference
from engine.ids import Clock, PaymentId, PaymentIds, is_refund_id, minted_ms, qualified
from engine.money import Money
from engine.payment import Payment
from engine.phones import PhonePrompt


class Caller(NamedTuple):
    """Who asks. A privileged caller (role `service` or `admin`) acts for any user."""

    subject: str
    privileged: bool

    def may_act_for(self, user_id: str) -> bool:
        """Whether this caller sees and makes payments of this user."""
        return self.privileged or self.subject == user_id


class PaymentStore(Protocol):
    """Where payments and idempotency keys live."""

    def shard_of(self, name: str) -> int: ...
    async def create(self, payment: Payment, sealed: SealedInstrument, *, due_ms: int) -> Payment | None: ...
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
    hold_ms: int = 0
    """How long it waits to be charged by a request of its own; 0: charged at once."""


Check = Callable[[AcceptPayment], Awaitable[None]]
"""Raises a refusal when the payment may not be made; asks whoever knows."""


class StoredCards(Protocol):
    """Where stored cards are told of payments that will be charged to them."""

    async def check(self, wanted: AcceptPayment) -> None:
        """Raises `PaymentMethodRefused`; writes nothing."""
        ...

    async def hold(self, wanted: AcceptPayment, payment_id: PaymentId) -> Method:
        """Raises `PaymentMethodRefused`. Safe to repeat."""
        ...

    async def release(self, wanted: AcceptPayment, payment_id: PaymentId) -> None: ...


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
    "phone_number",
    "description",
    "package_id",
)


class Accepting:
    """Accepts the payments of one surface. After `accept` returns, the payment ends, whatever dies.

    `admit` raises a refusal while no payment may be taken, for example from a store that would not keep it.
    """

    def __init__(
        self,
        check: Check,
        store: PaymentStore,
        sealer: Sealer,
        fingerprints: Fingerprints,
        ids: PaymentIds,
        clock: Clock,
        admit: Callable[[], None],
        *,
        redrive_after_s: float,
        surface: str = "core",
        stored_cards: StoredCards | None = None,
    ) -> None:
        self._stored_cards = stored_cards
        self._check = check
        self._store = store
        self._sealer = sealer
        self._fingerprints = fingerprints
        self._ids = ids
        self._clock = clock
        self._admit = admit
        self._redrive_after_ms = int(redrive_after_s * 1000)
        self._surface = surface

    async def accept(self, wanted: AcceptPayment, caller: Caller, key: str | None) -> Accepted:
        """Make the payment, or find the one that the same key has made.

        Raises a refusal with nothing written, or `StoreUnavailable` when it is not known whether the payment was
        made: the same request with the same key then tells.
        """
        self._admit()
        if not caller.may_act_for(wanted.user_id):
            raise NotYourUser("this token may not pay for that user")
        if key is None:
            await self._may_be_made(wanted)
            return await self._create(wanted, self._mint(wanted))

        digest = self._fingerprints.key_digest(caller.subject, key)
        fingerprint = self._fingerprints.of(_values(wanted))
        record = await self._store.key(digest)
        if record is not None and (replay := await self._replay(record, fingerprint, wanted)):
            return replay
        await self._may_be_made(wanted)
        if record is None:
            ours = KeyRecord(self._mint(wanted), fingerprint, self._clock())
            record = await self._store.claim_key(digest, ours)
            if record != ours and (replay := await self._replay(record, fingerprint, wanted)):
                return replay
        # From here on the key stands for this id: a crash before the next step is healed by the retry.
        return await self._create(wanted, record.payment_id)

    async def key_state(self, caller: Caller, key: str) -> KeyState:
        """What became of the caller's key. Raises `KeyNotFound`."""
        record = await self._store.key(self._fingerprints.key_digest(caller.subject, key))
        if record is None:
            raise KeyNotFound("this key has not been used")
        payment = await self._store.get(record.payment_id)
        # A key of a refund, a capture or a cancellation names a payment that was there before it.
        asked = payment and (not is_refund_id(record.subject) or payment.was_asked_by(record.subject))
        return KeyState(record.payment_id, record.created_ms, payment if asked else None)

    async def find(self, payment_id: str, caller: Caller) -> Payment:
        """The payment, if the caller may see it. Raises `PaymentNotFound` otherwise."""
        payment = await self._store.get(PaymentId(payment_id))
        if payment is None or payment.surface != self._surface or not caller.may_act_for(payment.user_id):
            raise PaymentNotFound("payment not found")
        return payment

    async def _replay(self, record: KeyRecord, fingerprint: str, wanted: AcceptPayment) -> Accepted | None:
        if field := first_difference(FIELDS, fingerprint, record.fingerprint):
            raise KeyReused(_as_sent(field, wanted))
        payment = await self._store.get(record.payment_id)
        return Accepted(payment, replayed=True) if payment else None

    async def _create(self, wanted: AcceptPayment, payment_id: PaymentId) -> Accepted:
        now = self._clock()
        payment = Payment(
            version=1,
            id=payment_id,
            surface=wanted.surface,
            order_id=wanted.order_id,
            user_id=wanted.user_id,
            amount=wanted.amount,
            method=await self._method(wanted, payment_id),
            # The id's own time: lists sort by the id, and what they show must not contradict it.
            created_ms=minted_ms(payment_id),
            held_until_ms=now + wanted.hold_ms if wanted.hold_ms else 0,
            manual=wanted.manual,
            request_id=wanted.request_id,
            traceparent=wanted.traceparent,
            payer=_payer(wanted),
            subject=wanted.instrument.package_id if isinstance(wanted.instrument, PhonePrompt) else "",
        )
        sealed = self._sealer.seal(payment_id, wanted.instrument)
        made = await self._store.create(payment, sealed, due_ms=now + (wanted.hold_ms or self._redrive_after_ms))
        if made is None:
            if self._stored_cards and isinstance(wanted.instrument, VaultCard):
                await self._stored_cards.release(wanted, payment_id)
            raise AlreadyProcessed("the order has a payment that is live or completed", orderId=wanted.order_id)
        # Of requests with one key at the same moment, all may come this far: one of them makes the payment.
        return Accepted(made, replayed=made.request_id != payment.request_id)

    async def _may_be_made(self, wanted: AcceptPayment) -> None:
        card = wanted.instrument
        # Not where the request is read: a repeated one is answered, also when its card has expired since.
        if isinstance(card, Card) and expired(card.expiry_month, card.expiry_year, now_ms=self._clock()):
            raise PaymentMethodRefused("the card has expired", field="paymentMethod.expiryYear")
        await self._check(wanted)
        if isinstance(wanted.instrument, VaultCard):
            # Before the key is claimed: a refusal leaves nothing behind, and another card may be tried with the key.
            if self._stored_cards is None:
                raise PaymentMethodRefused("there are no stored cards here", field="paymentMethod.type")
            await self._stored_cards.check(wanted)

    async def _method(self, wanted: AcceptPayment, payment_id: PaymentId) -> Method:
        if self._stored_cards is None or not isinstance(wanted.instrument, VaultCard):
            return _shown(wanted)
        return await self._stored_cards.hold(wanted, payment_id)

    def _mint(self, wanted: AcceptPayment) -> PaymentId:
        # Without an order anywhere: all payments of one busy user in one shard would have a part of the queues only.
        name = wanted.order_id or f"{wanted.user_id}|{wanted.request_id}"
        return self._ids.mint(self._store.shard_of(qualified(wanted.surface, name)))


def _values(wanted: AcceptPayment) -> Sequence[str]:
    """The values behind `FIELDS`, canonical: 75.48 and 75.480 are the same amount."""
    head = (wanted.surface, wanted.order_id, wanted.user_id, str(wanted.amount.minor), wanted.amount.currency)
    match wanted.instrument:
        case Card() as card:
            tail = (card.pan.reveal(), str(card.expiry_month), str(card.expiry_year), "")
        case PhonePrompt() as prompt:
            phone = (prompt.phone.reveal(), prompt.description, prompt.package_id)
            return (*head, wanted.method_type, "", "", "", "", "manual" if wanted.manual else "", *phone)
        case token:
            tail = ("", "", "", token.reveal())
    # Nothing for the automatic way: 0.1.0 knew no other, and its keys are still repeated.
    return (*head, wanted.method_type, *tail, *(("manual",) if wanted.manual else ()))


def _as_sent(field: str, wanted: AcceptPayment) -> str:
    """What the field is called in the request: several instruments share a place in the fingerprint."""
    match field, wanted.instrument:
        case "paymentMethod.token", VaultCard():
            return "paymentMethod.cardId"
        case "phone_number", PhonePrompt(package_id=""):
            return "paymentMethod.phoneNumber"
        case _:
            return field


def _payer(wanted: AcceptPayment) -> str:
    return wanted.instrument.phone.reveal() if isinstance(wanted.instrument, PhonePrompt) else ""


def _shown(wanted: AcceptPayment) -> Method:
    match wanted.instrument:
        case Card() as card:
            return Method(wanted.method_type, card.pan.brand, card.pan.last4)
        case PhonePrompt() as prompt:
            return Method(wanted.method_type, last4=prompt.phone.reveal()[-4:])
        case _:
            return Method(wanted.method_type)
