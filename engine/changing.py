"""Changing a payment that was accepted: refund, capture, cancel.

A request is a compare-and-set of the payment's record, so of two racing ones the second decides anew on what the
first has made. What is asked for is then done by the workers, like a charge.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol

from engine.accepting import Caller
from engine.changes import Change, Conflict
from engine.errors import AmountRefused, KeyReused, Overloaded, PaymentNotFound, RefundNotFound
from engine.facts import Refund, Status
from engine.idempotency import Fingerprints, KeyRecord, first_difference
from engine.ids import Clock, PaymentId
from engine.money import parse_amount
from engine.payment import Payment

_CONFLICTS_MAX: Final = 64
"""Fifty racing refunds of one payment conflict at most fifty times."""

_REASON_DEFAULT: Final = "requested_by_customer"
_FIELDS: Final = ("route", "paymentId", "amount", "reason")


class ChangeStore(Protocol):
    """Where payments and idempotency keys live."""

    async def get(self, payment_id: PaymentId) -> Payment | None: ...
    async def apply_and_enqueue(self, change: Change) -> Conflict | None: ...
    async def key(self, digest: str) -> KeyRecord | None: ...
    async def claim_key(self, digest: str, record: KeyRecord) -> KeyRecord: ...


class Asked(NamedTuple):
    """The payment as it stands now, and whether this is the answer to a repeated request."""

    payment: Payment
    replayed: bool


class Refunded(NamedTuple):
    """A refund of a payment, and whether this is the answer to a repeated request."""

    payment: Payment
    refund: Refund
    replayed: bool


class Changing:
    """Takes requests to change the payments of one surface. After one has returned, it is done or refused, whatever
    dies.
    """

    def __init__(
        self,
        store: ChangeStore,
        fingerprints: Fingerprints,
        new_refund_id: Callable[[], str],
        clock: Clock,
        admit: Callable[[], None],
        *,
        surface: str = "core",
    ) -> None:
        self._store = store
        self._fingerprints = fingerprints
        self._new_refund_id = new_refund_id
        self._clock = clock
        self._admit = admit
        self._surface = surface

    async def refund(
        self, payment_id: str, caller: Caller, *, amount: str | None, reason: str | None, key: str | None
    ) -> Refunded:
        """Give back `amount` (a JSON number's text), or all that is left.

        Raises `PaymentNotFound`, `AmountRefused`, `RefundRefused`, `KeyReused`.
        """
        payment = await self._mine(payment_id, caller)
        minor = None if amount is None else parse_amount(amount, payment.amount.currency).minor

        def ask(current: Payment, refund_id: str) -> Payment | None:
            if current.refund(refund_id) is not None:
                return None  # an earlier try has asked already
            wanted = current.refundable_minor if minor is None else minor
            return current.ask_refund(refund_id, wanted, reason or _REASON_DEFAULT, now_ms=self._clock())

        values = ("refund", payment.id, "" if minor is None else str(minor), reason or "")
        refund_id, replayed = await self._claim(caller, key, payment, values, ask)
        payment = await self._ask(payment, partial(ask, refund_id=refund_id))
        refund = payment.refund(refund_id)
        assert refund is not None, "it was written, or had been"
        return Refunded(payment, refund, replayed)

    async def capture(self, payment_id: str, caller: Caller, *, amount: str | None, key: str | None) -> Asked:
        """Take `amount` (a JSON number's text) of an authorized payment, or all of it; the rest is released.

        Raises `PaymentNotFound`, `AmountRefused`, `IllegalMove`, `KeyReused`.
        """
        payment = await self._mine(payment_id, caller)
        minor = payment.amount.minor if amount is None else parse_amount(amount, payment.amount.currency).minor
        if minor > payment.amount.minor:
            raise AmountRefused("more than is authorized")

        def ask(current: Payment, asked_by: str) -> Payment | None:
            # Asked already by this very request, whatever the acquirer has made of it since.
            return None if current.was_asked_by(asked_by) else current.ask_capture(minor, asked_by)

        asked_by, replayed = await self._claim(caller, key, payment, ("capture", payment.id, str(minor), ""), ask)
        return Asked(await self._ask(payment, partial(ask, asked_by=asked_by)), replayed)

    async def cancel(self, payment_id: str, caller: Caller, *, reason: str | None, key: str | None) -> Asked:
        """Release an authorized payment. Raises `PaymentNotFound`, `IllegalMove`, `KeyReused`."""
        payment = await self._mine(payment_id, caller)
        reason = reason or _REASON_DEFAULT

        def ask(current: Payment, asked_by: str) -> Payment | None:
            return None if current.was_asked_by(asked_by) else current.ask_cancel(reason, asked_by)

        asked_by, replayed = await self._claim(caller, key, payment, ("cancel", payment.id, "", reason), ask)
        return Asked(await self._ask(payment, partial(ask, asked_by=asked_by)), replayed)

    async def charge(self, payment_id: str, caller: Caller) -> Asked:
        """Charge a payment that was held until now; one that was asked for before is the same request repeated.

        Raises `PaymentNotFound`, and `IllegalMove` for one that was let go.
        """
        payment = await self._mine(payment_id, caller)
        replayed = payment.status not in (Status.PENDING, Status.CANCELLED)

        def ask(current: Payment) -> Payment | None:
            return None if current.status not in (Status.PENDING, Status.CANCELLED) else current.ask_charge()

        return Asked(await self._ask(payment, ask), replayed)

    async def find(self, payment_id: str, caller: Caller) -> Payment:
        """The caller's payment. Raises `PaymentNotFound`."""
        return await self._mine(payment_id, caller)

    async def find_refund(self, payment_id: str, refund_id: str, caller: Caller) -> Refunded:
        """A refund of the caller's payment. Raises `PaymentNotFound` or `RefundNotFound`."""
        payment = await self._mine(payment_id, caller)
        refund = payment.refund(refund_id)
        if refund is None:
            raise RefundNotFound("refund not found")
        return Refunded(payment, refund, replayed=False)

    async def _mine(self, payment_id: str, caller: Caller) -> Payment:
        payment = await self._store.get(PaymentId(payment_id))
        if payment is None or payment.surface != self._surface or not caller.may_act_for(payment.user_id):
            raise PaymentNotFound("payment not found")
        return payment

    async def _claim(
        self,
        caller: Caller,
        key: str | None,
        payment: Payment,
        values: tuple[str, ...],
        ask: Callable[[Payment, str], Payment | None],
    ) -> tuple[str, bool]:
        """What the request is called for ever, and whether it was here before. Raises `KeyReused`, and what `ask` does.

        Asking comes before the claim: a refusal leaves nothing behind, and the key may be used for what is possible.
        """
        name = self._new_refund_id()
        if key is None:
            return name, False
        digest = self._fingerprints.key_digest(caller.subject, key)
        ours = KeyRecord(payment.id, self._fingerprints.of(values), self._clock(), name)
        record = await self._store.key(digest)
        if record is None:
            ask(payment, name)
            record = await self._store.claim_key(digest, ours)
        if field := first_difference(_FIELDS, ours.fingerprint, record.fingerprint):
            raise KeyReused(field)
        return record.subject, record != ours

    async def _ask(self, payment: Payment, ask: Callable[[Payment], Payment | None]) -> Payment:
        self._admit()
        for _ in range(_CONFLICTS_MAX):
            asked = ask(payment)
            if asked is None:
                return payment
            conflict = await self._store.apply_and_enqueue(Change(asked, due_ms=self._clock() + 120_000))
            if conflict is None:
                return asked
            if conflict.current is None:
                raise PaymentNotFound("payment not found")
            payment = conflict.current
        raise Overloaded("changes of one payment")
