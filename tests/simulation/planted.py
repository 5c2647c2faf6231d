"""Bugs, planted one by one: a simulation that finds none of them would prove nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from engine.accepting import Caller
from engine.cards import SealedInstrument
from engine.changes import Change, Conflict, Job
from engine.changing import Changing, Refunded
from engine.charging import AcquirerRequest, Charging, NotSent, Outcome, Unknown
from engine.facts import Operation, Refund, RefundState
from engine.money import parse_amount
from engine.payment import Payment
from engine.relay import OutboxEntry, Relay
from engine.settling import Declined
from engine.store.outbox import RedisOutbox
from engine.store.payments import RedisPayments
from tests.simulation.memory import MemoryBatcher
from tests.simulation.process import Parts


class WithoutCompareAndSet(MemoryBatcher):
    """Records are written whatever version stands there."""

    ignored = ("version",)


class LateAnswerApplied(RedisPayments):
    """An answer is applied to whatever the payment has become since."""

    async def apply(self, change: Change, job: Job | None = None) -> Conflict | None:
        current = await self.get(change.payment.id)
        if current is not None and current.version >= change.payment.version:
            change = change._replace(payment=msgspec.structs.replace(change.payment, version=current.version + 1))
        return await super().apply(change, job)


class CardLeftBehind(RedisPayments):
    """The sealed card stays after the charge."""

    async def apply(self, change: Change, job: Job | None = None) -> Conflict | None:
        return await super().apply(change._replace(forget_instrument=False), job)


class OrderNotReleased(RedisPayments):
    """A failed payment keeps its order."""

    async def apply(self, change: Change, job: Job | None = None) -> Conflict | None:
        return await super().apply(change._replace(release_order=False), job)


class NeverDue(RedisPayments):
    """The schedule is not written: whoever dies with a job takes the payment along."""

    async def apply(self, change: Change, job: Job | None = None) -> Conflict | None:
        return await super().apply(change._replace(due_ms=None), job)


class LedgerForgotten(RedisPayments):
    """Refunds have no rows."""

    async def apply(self, change: Change, job: Job | None = None) -> Conflict | None:
        rows = () if change.payment.refunds else change.transactions
        return await super().apply(change._replace(transactions=rows), job)


class NoReservation(Changing):
    """A refund asks only what has gone back already, not what is on its way."""

    async def refund(
        self, payment_id: str, caller: Caller, *, amount: str | None, reason: str | None, key: str | None
    ) -> Refunded:
        payment = await self._mine(payment_id, caller)
        minor = payment.captured_minor if amount is None else parse_amount(amount, payment.amount.currency).minor
        if minor > payment.captured_minor - payment.refunded_minor:
            return await super().refund(payment_id, caller, amount=amount, reason=reason, key=key)
        refund = Refund(self._new_refund_id(), minor, "", RefundState.PENDING, self._clock())

        def ask(current: Payment) -> Payment:
            return msgspec.structs.replace(current, version=current.version + 1, refunds=(*current.refunds, refund))

        return Refunded(await self._ask(payment, ask), refund, replayed=False)


class FreshRefundIds(Changing):
    """A repeated request is not recognised."""

    async def refund(
        self, payment_id: str, caller: Caller, *, amount: str | None, reason: str | None, key: str | None
    ) -> Refunded:
        return await super().refund(payment_id, caller, amount=amount, reason=reason, key=None)


class ForgetsWhoAsked(Changing):
    """A capture or cancel whose own answer was lost is refused as one too many, though it will be done."""

    async def _ask(self, payment: Payment, ask: Callable[[Payment], Payment | None]) -> Payment:
        return await super()._ask(
            payment, lambda current: ask(msgspec.structs.replace(current, asked_by="", asked_before=()))
        )


class FreshAttemptIds(Charging):
    """An attempt that is tried again has another idempotency key at the acquirer."""

    def _request(self, sending: Payment, operation: Operation, sealed: SealedInstrument) -> AcquirerRequest:
        request = super()._request(sending, operation, sealed)
        attempt = sending.attempts[-1]
        return request._replace(attempt_id=f"{request.attempt_id}-{attempt.asked}") if attempt.asked else request


class SilenceIsNo(Charging):
    """Who does not answer has declined."""

    async def _settle(self, payment: Payment, outcome: Outcome, job: Job) -> Conflict | None:
        if isinstance(outcome, Unknown):
            outcome = Declined("timeout", "No answer")
        return await super()._settle(payment, outcome, job)


class SilenceIsNothing(Charging):
    """Who does not answer is asked again as if nothing had left, and then another acquirer is."""

    async def _send_to(self, name: str, request: AcquirerRequest, *, began_ms: int) -> Outcome:
        outcome = await super()._send_to(name, request, began_ms=began_ms)
        return NotSent(outcome.why, 0.0) if isinstance(outcome, Unknown) else outcome


class LooksAway(Charging):
    """Who was passed over is never asked again."""

    async def _look_again(self, payment: Payment, job: Job) -> Conflict | None:
        looked = payment.look_again(0)
        return await self._store.apply(Change(looked, due_ms=looked.rests_until_ms or None), job)


class ReversesAtTheWrongOne(Charging):
    """What one acquirer took too late is asked back from the one that took the money in time."""

    def _candidates(self, payment: Payment, operation: Operation) -> Sequence[str]:
        found = super()._candidates(payment, operation)
        return [payment.charged_by or found[0]] if operation.reverses else found


class NewReversals(Charging):
    """A reversal that is tried again has another idempotency key."""

    def _request(self, sending: Payment, operation: Operation, sealed: SealedInstrument) -> AcquirerRequest:
        request = super()._request(sending, operation, sealed)
        return request._replace(attempt_id=f"{request.attempt_id}-{self._clock()}") if operation.reverses else request


class DeletesFirst(Relay):
    """An event is forgotten before the broker has it."""

    async def pass_once(self) -> int:
        entries = await self._outbox.read(dict.fromkeys(self._leases.held(), "0-0"), count=16)
        await self._outbox.delete(entries)
        await self._publisher.publish([entry.event for entry in entries])
        return 0


class TakesAllForSent(Relay):
    """Acknowledgements are not read."""

    async def pass_once(self) -> int:
        entries = await self._outbox.read(dict.fromkeys(self._leases.held(), "0-0"), count=16)
        if entries:
            await self._publisher.publish([entry.event for entry in entries])
            await self._outbox.delete(entries)
        return 0


class Backwards(RedisOutbox):
    """Events leave newest first."""

    async def read(self, after: Mapping[int, str], *, count: int) -> list[OutboxEntry]:
        entries: Sequence[Any] = await super().read(after, count=count)
        return list(reversed(entries))


PLANTED: Final[Mapping[str, Parts]] = {
    "compare-and-set ignored": Parts(batcher=WithoutCompareAndSet),
    "late answer applied": Parts(payments=LateAnswerApplied),
    "sealed card left behind": Parts(payments=CardLeftBehind),
    "order not released": Parts(payments=OrderNotReleased),
    "never due": Parts(payments=NeverDue),
    "refund without ledger rows": Parts(payments=LedgerForgotten),
    "refund without reservation": Parts(changing=NoReservation),
    "refund key not remembered": Parts(changing=FreshRefundIds),
    "capture refused after a lost answer": Parts(changing=ForgetsWhoAsked),
    "attempt id changed on retry": Parts(charging=FreshAttemptIds),
    "silence taken for a decline": Parts(charging=SilenceIsNo),
    "silence taken for not sent": Parts(charging=SilenceIsNothing),
    "passed over and never asked again": Parts(charging=LooksAway),
    "reversed at the wrong acquirer": Parts(charging=ReversesAtTheWrongOne),
    "reversal id changed on retry": Parts(charging=NewReversals),
    "outbox deleted before publish": Parts(relay=DeletesFirst),
    "acknowledgements ignored": Parts(relay=TakesAllForSent),
    "events out of order": Parts(outbox=Backwards),
}

ONLY: Final[Mapping[str, Sequence[str]]] = {"capture refused after a lost answer": ("store loses answers",)}
"""What a rare bug needs, so that few seeds suffice."""
