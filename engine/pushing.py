"""Charging phones: a push is sent once, remembered by the name that it can be asked about, and asked about.

What a callback claims is a hint: it is recorded, and makes the payment be asked about now. Only an answer to a question
of ours moves money.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec
import structlog

from engine.changes import Change, Conflict
from engine.charging import AcquirerRequest, NeverSeen, NotSent, Outcome, Unknown, Waiting
from engine.facts import AttemptState, Kind
from engine.ids import Clock, PaymentId, minted_ms
from engine.money import Money
from engine.payment import Payment, attempt_id
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
_ENDS: Final = frozenset({"1", "1001", "1019", "1025", "1032", "1037", "2001", "9999"})
"""Results after which a payer cannot pay any more. What else Safaricom answers may be a trouble of its own."""
_PROMPT_MAX_S: Final = 600
"""No prompt is on a phone that long: what is not paid by then will not be."""
_WAITING_MAX_S: Final = 3600
"""After that, a payer who has not decided is an outcome that nobody knows, and operators see it."""
_SENDING_PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, *(1.0 for _ in range(30)))
"""How long a callback waits for the answer to its own push, before it makes the payment due all the same."""
_NOT_OURS: Final = Declined("not_supported", "M-Pesa payments are given back outside of this engine")


log = structlog.get_logger()


class Push(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of a push that was taken."""

    checkout_id: str
    merchant_request_id: str
    taken_ms: int
    adopted: bool = False
    """Its name was brought by a callback, which may lie; the answer to the push itself takes its place."""


class Phones(Protocol):
    """Whoever asks phones for money. Neither method raises for trouble with them."""

    @property
    def name(self) -> str: ...
    async def push(self, request: PushRequest) -> PushAnswer: ...
    async def query(self, checkout_id: str) -> PushStatus: ...


class Pushes(Protocol):
    """Pushes by attempt, and payments by what their push is called at the other end."""

    async def taken(self, attempt_id: str, payment_id: PaymentId, push: Push) -> bool:
        """Remember what the push itself was answered. False when that name is another payment's already."""
        ...

    async def adopt(self, attempt_id: str, payment_id: PaymentId, push: Push) -> bool:
        """Remember what a callback says. False when the name is another payment's, or the attempt's own is known."""
        ...

    async def of_attempt(self, attempt_id: str) -> Push | None: ...
    async def payment_of(self, checkout_id: str) -> PaymentId | None: ...
    async def note(self, payment_id: PaymentId, hint: bytes) -> None: ...


class PushAcquirer:
    """An acquirer of phones."""

    def __init__(
        self, phones: Phones, pushes: Pushes, callback_url: Callable[[str], str], clock: Clock, *, send_within_s: float
    ) -> None:
        """`send_within_s`: how old a payment may be whose phone is asked."""
        self._phones = phones
        self._pushes = pushes
        self._callback_url = callback_url
        self._clock = clock
        self._send_within_s = send_within_s

    @property
    def name(self) -> str:
        """The configured name, as in metrics and records."""
        return self._phones.name

    async def send(self, request: AcquirerRequest) -> Outcome:
        """Ask the phone, once for ever: a push whose answer is lost is never sent again."""
        if request.kind is not Kind.CHARGE or not isinstance(request.instrument, PhonePrompt):
            return _NOT_OURS
        if self._clock() - minted_ms(request.payment_id) > self._send_within_s * 1000:
            # No worker was there in time. Nobody stands at the counter any more, and nothing has been sent.
            return Declined("push_too_late", f"the phone could not be asked within {self._send_within_s:g} s")
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
                if not await self._pushes.taken(request.attempt_id, request.payment_id, mark):
                    # Asking about it would hear of somebody else's money. It waits for people.
                    log.error("checkout id of another payment", attempt_id=request.attempt_id)
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
                if code not in _ENDS and self._waited_s(push) < _PROMPT_MAX_S:
                    log.warning("an answer that need not be the last", attempt_id=attempt_id, code=code)
                    return Waiting(self._ask_again_s(push))
                return Declined(f"mpesa_{code}", reason)
            case StillWaiting():
                if self._waited_s(push) >= _WAITING_MAX_S:
                    return Unknown("Safaricom says that the payer has not decided", _ASK_EVERY_S)
                return Waiting(self._ask_again_s(push))
            case CannotTell(why=why):
                return Unknown(why)

    def _waited_s(self, push: Push) -> float:
        return (self._clock() - push.taken_ms) / 1000

    def _ask_again_s(self, push: Push) -> float:
        waited_s = self._waited_s(push)
        return next((after - waited_s for after in _ASK_AFTER_S if after > waited_s), _ASK_EVERY_S)


class HintStore(Protocol):
    """Payments, and when they are looked at."""

    async def get(self, payment_id: PaymentId) -> Payment | None: ...
    async def put_off(self, payment_id: PaymentId, job: None, *, due_ms: int) -> None: ...
    async def apply(self, change: Change) -> Conflict | None: ...


class PushHints:
    """Takes what callbacks claim. Safe to run twice for one callback, at any time, for anything."""

    def __init__(
        self,
        store: HintStore,
        pushes: Pushes,
        clock: Clock,
        heard: Callable[[str], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._pushes = pushes
        self._clock = clock
        self._heard = heard
        self._pause = pause

    async def take(self, report: PushReport, attempt_id: str) -> str:
        """Record the report and, if it may be true and is news, have its payment asked about now.

        `attempt_id` is what the callback's URL named; empty if nothing. Returns what was made of it:
        `unknown`, `forged`, `late` or `asked`.
        """
        payment, verdict = await self._judge(report, attempt_id)
        self._heard(verdict)
        # Not the checkout's id: some of Safaricom's end with the payer's number.
        log.info("push callback", verdict=verdict, attempt_id=attempt_id, result_code=report.result_code)
        if payment is not None:
            hint = {
                "at": self._clock(), "verdict": verdict, "code": report.result_code, "receipt": report.receipt or "",
            }  # fmt: skip
            await self._pushes.note(payment.id, msgspec.json.encode(hint))
            if verdict == "asked":
                await self._ask_now(payment)
            elif verdict == "late" and report.result_code == 0 and payment.failure is not None:
                # Paid, it says, and we said failed. If Safaricom agrees, the money is known from then on, and not lost.
                await self._store.apply(Change(payment.look_again(self._clock()), due_ms=self._clock()))
        return verdict

    async def _judge(self, report: PushReport, named: str) -> tuple[Payment | None, str]:
        """The payment that the report is about, if any, and what to make of it."""
        payment_id = await self._pushes.payment_of(report.checkout_id)
        payment = await self._store.get(payment_id) if payment_id else None
        if payment is not None:
            return payment, _verdict(payment, report)
        payment = await self._named(named)
        if payment is None or (verdict := _verdict(payment, report)) != "asked":
            return payment, "unknown" if payment is None else verdict
        # The push's own answer was lost, or is still on its way: the callback brings the name to ask about.
        push = Push(report.checkout_id, report.merchant_request_id, self._clock(), adopted=True)
        return payment, "asked" if await self._pushes.adopt(named, payment.id, push) else "unknown"

    async def _named(self, named: str) -> Payment | None:
        """The payment whose attempt the callback's URL names, if that attempt is a push."""
        payment = await self._store.get(PaymentId(named.rpartition("-a")[0]))
        last = payment.attempt if payment is not None and payment.payer else None
        if payment is None or last is None or last.kind is not Kind.CHARGE:
            return None
        return payment if attempt_id(payment, last) == named else None

    async def _ask_now(self, payment: Payment) -> None:
        """Make it due. Not while its push is being sent: who sends it writes a time of its own over ours."""
        last = payment.unsettled
        for pause_s in _SENDING_PAUSES_S:
            if last is None or last.state is not AttemptState.SENDING:
                break
            await self._pause(pause_s)
            current = await self._store.get(payment.id)
            last = current.unsettled if current is not None else None
        await self._store.put_off(payment.id, None, due_ms=self._clock())


def _verdict(payment: Payment, report: PushReport) -> str:
    if report.amount is not None and report.amount != payment.amount:
        return "forged"
    if report.phone is not None and report.phone.reveal() != payment.payer:
        return "forged"
    return "late" if payment.ended else "asked"
