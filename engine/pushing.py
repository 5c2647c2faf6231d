"""Charging phones: a push is sent once, remembered by the name that it can be asked about, and asked about.

What a callback claims is a hint: it is recorded, and makes the payment be asked about now. Only an answer to a question
of ours moves money.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import structlog

from engine.charging import AcquirerRequest, NeverSeen, NotSent, Outcome, Unknown, Waiting
from engine.facts import Kind
from engine.ids import Clock, PaymentId
from engine.money import Money
from engine.payment import Payment
from engine.phones import PhonePrompt
from engine.pushes import (
    CannotTell,
    NotPaid,
    Paid,
    PushAnswer,
    PushRefused,
    PushReport,
    PushRequest,
    PushStatus,
    PushTaken,
    StillWaiting,
)
from engine.settling import Approved, Declined

_ASK_AFTER_S: Final = (30, 60, 120, 300)
"""When a push without an answer is asked about, in seconds since it was taken; then every hour."""
_ASK_EVERY_S: Final = 3600
_NOT_OURS: Final = Declined("not_supported", "M-Pesa payments are given back outside of this engine")


class Push(msgspec.Struct, frozen=True):
    """What is remembered of a push that was taken."""

    checkout_id: str
    merchant_request_id: str
    taken_ms: int


class Phones(Protocol):
    """Whoever asks phones for money. Neither method raises for trouble with them."""

    @property
    def name(self) -> str: ...
    async def push(self, request: PushRequest) -> PushAnswer: ...
    async def query(self, checkout_id: str) -> PushStatus: ...


class Pushes(Protocol):
    """Pushes by attempt, and payments by what their push is called at the other end."""

    async def taken(self, attempt_id: str, payment_id: PaymentId, push: Push) -> bool:
        """Remember it. False when that name is another payment's already, or the attempt has another push."""
        ...

    async def of_attempt(self, attempt_id: str) -> Push | None: ...
    async def payment_of(self, checkout_id: str) -> PaymentId | None: ...
    async def note(self, payment_id: PaymentId, hint: bytes) -> None: ...


class PushAcquirer:
    """An acquirer of phones."""

    def __init__(self, phones: Phones, pushes: Pushes, callback_url: Callable[[str], str], clock: Clock) -> None:
        self._phones = phones
        self._pushes = pushes
        self._callback_url = callback_url
        self._clock = clock

    @property
    def name(self) -> str:
        """The configured name, as in metrics and records."""
        return self._phones.name

    async def send(self, request: AcquirerRequest) -> Outcome:
        """Ask the phone, once for ever: a push whose answer is lost is never sent again."""
        if request.kind is not Kind.CHARGE or not isinstance(request.instrument, PhonePrompt):
            return _NOT_OURS
        prompt = request.instrument
        push = PushRequest(
            amount=request.amount,
            phone=prompt.phone,
            reference=request.payment_id[-12:],
            description=prompt.description or "Payment",
            callback_url=self._callback_url(request.attempt_id),
        )
        match await self._phones.push(push):
            case PushTaken() as taken:
                # Dying before this line leaves a push that only its callback can name: its URL carries the attempt.
                mark = Push(taken.checkout_id, taken.merchant_request_id, self._clock())
                await self._pushes.taken(request.attempt_id, request.payment_id, mark)
                return Waiting(_ASK_AFTER_S[0])
            case PushRefused(code=code, reason=reason):
                return Declined(f"mpesa_{code}", reason)
            case NotSent(why=why):
                # The payer stands at the counter: a prompt minutes later would come as a surprise.
                return Declined("push_not_sent", why)
            case unknown:
                return unknown

    async def find(self, kind: Kind, attempt_id: str, amount: Money, transaction_id: str) -> Outcome | NeverSeen:
        """What became of a push. Without its name at the other end nobody can be asked."""
        if kind is not Kind.CHARGE:
            return _NOT_OURS
        push = await self._pushes.of_attempt(attempt_id)
        if push is None:
            return Unknown("the push has no checkout id: only a callback can tell it")
        match await self._phones.query(push.checkout_id):
            case Paid():
                return Approved(push.checkout_id)
            case NotPaid(code=code, reason=reason):
                return Declined(f"mpesa_{code}", reason)
            case StillWaiting():
                return Waiting(self._ask_again_s(push))
            case CannotTell(why=why):
                return Unknown(why)

    def _ask_again_s(self, push: Push) -> float:
        waited_s = (self._clock() - push.taken_ms) / 1000
        return next((after - waited_s for after in _ASK_AFTER_S if after > waited_s), _ASK_EVERY_S)


class HintStore(Protocol):
    """Payments, and when they are looked at."""

    async def get(self, payment_id: PaymentId) -> Payment | None: ...
    async def put_off(self, payment_id: PaymentId, job: None, *, due_ms: int) -> None: ...


class PushHints:
    """Takes what callbacks claim. Safe to run twice for one callback, at any time, for anything."""

    def __init__(self, store: HintStore, pushes: Pushes, clock: Clock, heard: Callable[[str], None]) -> None:
        self._store = store
        self._pushes = pushes
        self._clock = clock
        self._heard = heard

    async def take(self, report: PushReport, attempt_id: str) -> str:
        """Record the report and, if it may be true and is news, have its payment asked about now.

        `attempt_id` is what the callback's URL named; empty if nothing. Returns what was made of it:
        `unknown`, `forged`, `late` or `asked`.
        """
        verdict = await self._judge(report, attempt_id)
        self._heard(verdict)
        # Not the checkout's id: some of Safaricom's end with the payer's number.
        structlog.get_logger().info(
            "push callback", verdict=verdict, attempt_id=attempt_id, result_code=report.result_code
        )
        return verdict

    async def _judge(self, report: PushReport, attempt_id: str) -> str:
        payment = await self._payment(report, attempt_id)
        if payment is None:
            return "unknown"
        verdict = await self._verdict(payment, report)
        hint = {"at": self._clock(), "verdict": verdict, "code": report.result_code, "receipt": report.receipt or ""}
        await self._pushes.note(payment.id, msgspec.json.encode(hint))
        if verdict == "asked":
            await self._store.put_off(payment.id, None, due_ms=self._clock())
        return verdict

    async def _payment(self, report: PushReport, attempt_id: str) -> Payment | None:
        payment_id = await self._pushes.payment_of(report.checkout_id)
        if payment_id is None and attempt_id:
            payment_id = await self._adopt(report, attempt_id)
        return await self._store.get(payment_id) if payment_id else None

    async def _adopt(self, report: PushReport, attempt_id: str) -> PaymentId | None:
        """The push's own answer was lost, or is still on its way: the callback brings the name to ask about."""
        payment_id = PaymentId(attempt_id.rpartition("-a")[0])
        payment = await self._store.get(payment_id)
        if payment is None or payment.unsettled is None:
            return None
        push = Push(report.checkout_id, report.merchant_request_id, self._clock())
        return payment_id if await self._pushes.taken(attempt_id, payment_id, push) else None

    async def _verdict(self, payment: Payment, report: PushReport) -> str:
        if report.amount is not None and report.amount != payment.amount:
            return "forged"
        if report.phone is not None and report.phone.reveal() != payment.payer:
            return "forged"
        return "late" if payment.ended else "asked"
