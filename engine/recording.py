"""Recording payments that are settled outside, and the moves of their status: one use case, one surface."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from engine.accepting import Accepted, Caller
from engine.changes import Change, Conflict
from engine.context import RequestContext
from engine.errors import (
    AlreadyProcessed,
    KeyReused,
    NotYourUser,
    Overloaded,
    PaymentNotFound,
    RoleRequired,
)
from engine.facts import Method
from engine.idempotency import Fingerprints, KeyRecord, first_difference
from engine.ids import Clock, PaymentId, PaymentIds, minted_ms, qualified
from engine.money import Money
from engine.payment import Payment
from engine.recorded import RAIL, Recorded, moved, recorded, status_of

_SURFACE: Final = "orders"
_METHOD: Final = Method("external")
_FIELDS: Final = ("route", "userId", "orderId", "amount", "currency")
_CONFLICTS_MAX: Final = 8
"""A payment makes two moves in its life, so more conflicts than that are no race but a fault."""
_NUMBERS_MAX: Final = 64
LIST_MAX: Final = 1000
"""How many payments of one user are shown."""


class RecordPayment(NamedTuple):
    """A payment to be recorded: decoded and checked for form, nothing more."""

    user_id: int
    order_id: int
    amount: Money
    ids: RequestContext

    @property
    def order_key(self) -> str:
        """The order's name among those of all surfaces."""
        return qualified(_SURFACE, str(self.order_id))


class RecordedStore(Protocol):
    """Where payments and idempotency keys live."""

    def shard_of(self, name: str) -> int: ...
    async def holder_of(self, order_key: str) -> PaymentId | None: ...
    async def record(self, change: Change) -> Payment | None: ...
    async def apply(self, change: Change) -> Conflict | None: ...
    async def get(self, payment_id: PaymentId) -> Payment | None: ...
    async def of_user(self, user_key: str, *, limit: int, before: PaymentId | None) -> list[Payment]: ...
    async def key(self, digest: str) -> KeyRecord | None: ...
    async def claim_key(self, digest: str, record: KeyRecord) -> KeyRecord: ...


class Numbers(Protocol):
    """The whole numbers that users know payments by."""

    async def take(self) -> int:
        """The next number. Only its claim makes sure that it is nobody else's."""
        ...

    async def claim(self, number: int, payment_id: PaymentId) -> bool:
        """Let the number stand for this payment, for ever. False when it stands for another one."""
        ...

    async def find(self, number: int) -> PaymentId | None:
        """What the number stands for."""
        ...


class Observer(Protocol):
    """Is told of every change of a status."""

    def recorded(self, payment: Payment) -> None: ...


Check = Callable[[RecordPayment], Awaitable[None]]
"""Raises a refusal when the user or the order does not exist."""


class RecordedPayments:
    """The payments of the orders surface. After a method has returned, what it says is kept, whatever dies.

    `begins` is the status of a new payment. `admit` raises a refusal while no payment may be taken.
    """

    def __init__(
        self,
        check: Check,
        store: RecordedStore,
        numbers: Numbers,
        fingerprints: Fingerprints,
        ids: PaymentIds,
        observer: Observer,
        clock: Clock,
        admit: Callable[[], None],
        *,
        begins: Recorded,
    ) -> None:
        self._check = check
        self._store = store
        self._numbers = numbers
        self._fingerprints = fingerprints
        self._ids = ids
        self._observer = observer
        self._clock = clock
        self._admit = admit
        self._begins = begins

    async def record(self, wanted: RecordPayment, caller: Caller, key: str | None) -> Accepted:
        """Record the payment, or find the one that the same key has made.

        Raises a refusal with nothing written, or `StoreUnavailable` when it is not known whether the payment was
        made: the same request with the same key then tells, and without a key the order is found taken.
        """
        self._admit()
        if not caller.may_act_for(str(wanted.user_id)):
            raise NotYourUser("this token may not pay for that user")
        if key is None:
            await self._may_be_made(wanted)
            return await self._create(wanted, await self._numbered(wanted))

        digest = self._fingerprints.key_digest(caller.subject, key)
        fingerprint = self._fingerprints.of(_values(wanted))
        record = await self._store.key(digest)
        if record is not None and (replay := await self._replay(record, fingerprint)):
            return replay
        try:
            await self._may_be_made(wanted)
        except AlreadyProcessed:
            # Perhaps by this very request, sent twice at once: then it has an answer.
            record = await self._store.key(digest)
            if record is not None and (replay := await self._replay(record, fingerprint)):
                return replay
            raise
        if record is None:
            number, payment_id = await self._numbered(wanted)
            ours = KeyRecord(payment_id, fingerprint, self._clock(), str(number))
            record = await self._store.claim_key(digest, ours)
            if record != ours and (replay := await self._replay(record, fingerprint)):
                return replay
        # From here on the key stands for this id and this number: the retry heals a crash before the next step.
        return await self._create(wanted, (int(record.subject), record.payment_id))

    async def find(self, number: int, caller: Caller) -> Payment:
        """The payment, if the caller may see it. Raises `PaymentNotFound` otherwise."""
        payment_id = await self._numbers.find(number)
        payment = await self._store.get(payment_id) if payment_id else None
        # A number that was taken by a process which then died leads to nothing.
        if payment is None or payment.public_number != number or not caller.may_act_for(payment.user_id):
            raise PaymentNotFound("Payment not found")
        return payment

    async def of_user(self, user_id: int, caller: Caller) -> list[Payment]:
        """The user's payments, newest first, up to `LIST_MAX`. Raises `PaymentNotFound` for somebody else's."""
        if not caller.may_act_for(str(user_id)):
            raise PaymentNotFound("Payment not found")
        found = await self._store.of_user(qualified(_SURFACE, str(user_id)), limit=LIST_MAX, before=None)
        return sorted(found, key=lambda payment: (payment.created_ms, payment.public_number), reverse=True)

    async def move(self, number: int, to: Recorded, caller: Caller) -> Payment:
        """Set the status; the same one again changes nothing.

        Raises `PaymentNotFound`, `IllegalMove`, and `RoleRequired` where the caller's word is not enough.
        """
        payment = await self.find(number, caller)
        self._admit()
        for _ in range(_CONFLICTS_MAX):
            if status_of(payment) is to:
                return payment
            change = moved(payment, to, now_ms=self._clock())
            if to is Recorded.SUCCESS and not caller.privileged:
                # Else whoever owes the money could say that it has been paid.
                raise RoleRequired("only a service may say that a payment has succeeded")
            conflict = await self._store.apply(change)
            if conflict is None:
                self._observer.recorded(change.payment)
                return change.payment
            if conflict.current is None:
                raise PaymentNotFound("Payment not found")
            payment = conflict.current
        raise Overloaded("changes of one payment")

    async def _may_be_made(self, wanted: RecordPayment) -> None:
        await self._check(wanted)
        # Asked before a number is taken, so that a request repeated all day burns none. The race is the claim's.
        if await self._store.holder_of(wanted.order_key) is not None:
            raise _taken(wanted)

    async def _numbered(self, wanted: RecordPayment) -> tuple[int, PaymentId]:
        """A number with the id that it stands for from now on. If we die here, it stands for nothing."""
        number = await self._numbers.take()
        payment_id = self._ids.mint(self._store.shard_of(wanted.order_key))
        tries = 1
        while not await self._numbers.claim(number, payment_id):
            # A Redis that has lost its latest writes counts again what it has counted before.
            if tries >= _NUMBERS_MAX:
                raise Overloaded("payment numbers")
            tries += 1
            number = await self._numbers.take()
        return number, payment_id

    async def _create(self, wanted: RecordPayment, numbered: tuple[int, PaymentId]) -> Accepted:
        number, payment_id = numbered
        payment = Payment(
            version=1,
            id=payment_id,
            surface=_SURFACE,
            public_number=number,
            rail=RAIL,
            order_id=str(wanted.order_id),
            user_id=str(wanted.user_id),
            amount=wanted.amount,
            method=_METHOD,
            created_ms=minted_ms(payment_id),
            request_id=wanted.ids.request_id,
            traceparent=wanted.ids.traceparent,
        )
        change = recorded(payment, self._begins)
        made = await self._store.record(change)
        if made is None:
            raise _taken(wanted)
        # Of requests with one key at the same moment, all may come this far: one of them makes the payment.
        replayed = made.request_id != payment.request_id
        if not replayed:
            self._observer.recorded(made)
        return Accepted(made, replayed)

    async def _replay(self, record: KeyRecord, fingerprint: str) -> Accepted | None:
        if field := first_difference(_FIELDS, fingerprint, record.fingerprint):
            raise KeyReused(field)
        payment = await self._store.get(record.payment_id)
        return Accepted(payment, replayed=True) if payment else None


def _taken(wanted: RecordPayment) -> AlreadyProcessed:
    return AlreadyProcessed("Payment for this order already exists", orderId=wanted.order_id)


def _values(wanted: RecordPayment) -> Sequence[str]:
    """The values behind `_FIELDS`, canonical."""
    return (_SURFACE, str(wanted.user_id), str(wanted.order_id), str(wanted.amount.minor), wanted.amount.currency)
