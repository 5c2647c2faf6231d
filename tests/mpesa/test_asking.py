"""When a push without an answer is asked about, with a clock that only this test moves."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from engine.asking import TogetherAsking
from engine.changes import Change, Job
from engine.charging import Acquirers, Charging, Waiting
from engine.facts import AttemptState, Kind, Method, Status
from engine.ids import PaymentId, minted_ms
from engine.money import Money
from engine.payment import Payment
from engine.phones import Phone, PhonePrompt
from engine.pushes import NotPaid, PushAnswer, PushReport, PushRequest, PushStatus, PushTaken, StillWaiting
from engine.pushing import Push, PushAcquirer, PushHints
from engine.settling import Declined, settled
from tests.engine.charging_world import MemoryStore
from tests.engine.making import PAYMENT_ID, FakeClock, a_payment, a_sealer, begun


class Safaricom:
    """Takes every push, and says what it was told to say."""

    name = "mpesa"

    def __init__(self) -> None:
        self.pushed: list[PushRequest] = []
        self.asked: list[str] = []
        self.says: PushStatus = StillWaiting()

    async def push(self, request: PushRequest) -> PushAnswer:
        self.pushed.append(request)
        return PushTaken("ws_CO_1", "1-2-3")

    async def query(self, checkout_id: str) -> PushStatus:
        self.asked.append(checkout_id)
        return self.says


class Names:
    """What pushes are called, in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Push] = {}

    async def taken(self, attempt_id: str, payment_id: PaymentId, push: Push) -> bool:
        self.kept[attempt_id] = push
        return True

    async def adopt(self, attempt_id: str, payment_id: PaymentId, push: Push) -> bool:
        return False

    async def of_attempt(self, attempt_id: str) -> Push | None:
        return self.kept.get(attempt_id)

    async def payment_of(self, checkout_id: str) -> PaymentId | None:
        return None

    async def note(self, payment_id: PaymentId, hint: bytes) -> None:
        raise AssertionError("no callback comes here")


def _phones(safaricom: Safaricom, names: Names, clock: FakeClock) -> PushAcquirer:
    return PushAcquirer(safaricom, names, lambda attempt_id: f"http://us/{attempt_id}", clock, send_within_s=120)


def _charging(store: MemoryStore, safaricom: Safaricom, clock: FakeClock) -> Charging:
    phones = _phones(safaricom, Names(), clock)
    return Charging(
        store, Acquirers({"mpesa": phones}, {"mobile_money": ["mpesa"]}), a_sealer(), _Observer(), clock,
        lease_s=20, recheck_after_s=300,
    )  # fmt: skip


def _accepted(store: MemoryStore) -> Job:
    """The job of a payment that was accepted at the clock's beginning."""
    payment = msgspec.structs.replace(
        a_payment(minor=150_000, currency="KES"), method=Method("mobile_money"), payer="254712345678"
    )
    return store.add(payment, a_sealer().seal(PAYMENT_ID, PhonePrompt(Phone("0712345678"), "A plan")))


@pytest.mark.parametrize(("age_s", "asked"), [(120, True), (121, False)])
async def test_a_phone_is_not_asked_long_after_its_payer_has_gone(age_s: int, asked: bool) -> None:
    """The engine was down: a prompt that nobody expects any more would be paid by mistake or not at all."""
    clock, store, safaricom = FakeClock(minted_ms(PAYMENT_ID)), MemoryStore(), Safaricom()
    clock.advance(age_s * 1000)
    await _charging(store, safaricom, clock).process(_accepted(store))
    assert bool(safaricom.pushed) is asked
    failure = store.now().failure
    assert (None if failure is None else failure.code) == (None if asked else "PUSH_TOO_LATE")
    assert [event.type for event in store.events] == ([] if asked else ["payment_failed"])


async def test_it_is_asked_about_after_half_a_minute_one_two_and_five_minutes_and_then_hourly() -> None:
    clock, store, safaricom = FakeClock(), MemoryStore(), Safaricom()
    charging = _charging(store, safaricom, clock)
    began = clock()
    await charging.process(_accepted(store))
    moments: list[int] = []
    for _ in range(7):
        # After an hour somebody should look at it: it is listed as unknown from then on.
        open_as = AttemptState.UNKNOWN if moments[-1:] > [3600] else AttemptState.WAITING
        assert store.now().attempts[-1].state is open_as
        clock.advance(store.due[PAYMENT_ID] - clock())
        moments.append((clock() - began) // 1000)
        if len(moments) == 7:
            safaricom.says = NotPaid("1037", "DS timeout user cannot be reached")
        await charging.process(store.add_job(PAYMENT_ID))
    assert moments == [30, 60, 120, 300, 3900, 7500, 11_100]
    assert len(safaricom.pushed) == 1
    assert safaricom.asked == ["ws_CO_1"] * 7
    assert store.now().status is Status.FAILED, "and only because Safaricom said so"
    assert [event.type for event in store.events] == ["payment_failed"]


async def test_an_answer_that_need_not_be_the_last_ends_nothing_while_the_prompt_may_be_on_the_phone() -> None:
    """`26` is a busy system, and `17` an error of its own: the payer may enter the PIN a moment later."""
    clock, safaricom, names = FakeClock(), Safaricom(), Names()
    phones = _phones(safaricom, names, clock)
    names.kept["pay-1-a1"] = Push("ws_CO_1", "1-2-3", clock())
    safaricom.says = NotPaid("26", "System busy")
    amount = Money(150_000, "KES")
    clock.advance(599_999)
    assert isinstance(await phones.find(Kind.CHARGE, "pay-1-a1", amount, ""), Waiting)
    clock.advance(1)
    assert await phones.find(Kind.CHARGE, "pay-1-a1", amount, "") == Declined("mpesa_26", "System busy")
    names.kept["pay-1-a1"] = Push("ws_CO_1", "1-2-3", clock())
    safaricom.says = NotPaid("1032", "Cancelled by user")
    assert await phones.find(Kind.CHARGE, "pay-1-a1", amount, "") == Declined("mpesa_1032", "Cancelled by user")


class Books:
    """One payment, and what was asked to be written of it."""

    def __init__(self, payment: Payment) -> None:
        self.payment = payment
        self.changes: list[Change] = []

    async def get(self, payment_id: PaymentId) -> Payment | None:
        return self.payment

    async def put_off(self, payment_id: PaymentId, job: None, *, due_ms: int) -> None:
        raise AssertionError("it has ended")

    async def apply(self, change: Change) -> None:
        self.changes.append(change)


class Found(Names):
    """Every name leads to the one payment."""

    async def payment_of(self, checkout_id: str) -> PaymentId | None:
        return PAYMENT_ID

    async def note(self, payment_id: PaymentId, hint: bytes) -> None: ...


@pytest.mark.parametrize(("code", "looked"), [(0, 1), (1032, 0)])
async def test_a_callback_that_says_paid_of_a_failed_payment_has_it_asked_about_once_more(
    code: int, looked: int
) -> None:
    """If Safaricom agrees, the money becomes a late success with an open item; else nothing has happened."""
    clock = FakeClock()
    payment = msgspec.structs.replace(
        a_payment(minor=150_000, currency="KES"), method=Method("mobile_money"), payer="254712345678"
    )
    operation = payment.operation
    assert operation is not None
    sending = payment.begin(operation, "mpesa", now_ms=clock(), lease_ms=1000)
    books = Books(settled(sending, Declined("mpesa_17", "System error"), now_ms=clock()).payment)
    verdicts: list[str] = []
    report = PushReport(checkout_id="ws_CO_1", merchant_request_id="1-2-3", result_code=code, description="")
    await PushHints(books, Found(), clock, verdicts.append).take(report, "")
    assert verdicts == ["late"]
    assert [(change.payment.recheck_ms, change.due_ms) for change in books.changes] == [(clock(), clock())] * looked


class _Observer:
    """Is told, and says nothing."""

    def attempt(self, payment: object, outcome: str) -> None: ...
    def late_success(self) -> None: ...
    def settled(self, payment: object) -> None: ...


class Slow:
    """Asks until it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def process(self, job: Job) -> None:
        self.asked += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error


async def test_of_many_who_ask_about_one_payment_one_asks_also_when_the_first_goes_away() -> None:
    slow = Slow()
    asking, job = TogetherAsking(slow), Job(PAYMENT_ID, None, "0-0")
    waiting = [asyncio.create_task(asking.process(job)) for _ in range(10)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    slow.go.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError) and results[1:] == [None] * 9
    assert slow.asked == 1
    await asking.process(job)
    assert slow.asked == 2, "who comes afterwards asks anew"


async def test_what_the_question_raised_is_raised_for_all() -> None:
    slow = Slow()
    slow.error = ValueError("no")
    slow.go.set()
    asking = TogetherAsking(slow)
    jobs = [asking.process(Job(PAYMENT_ID, None, "0-0")) for _ in range(3)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3


async def test_a_callback_makes_the_payment_due_only_after_its_pushs_own_answer_is_written() -> None:
    """Whoever sends writes a due time with the answer: one that was set before would be lost."""
    clock, store, names, paused = FakeClock(), MemoryStore(), Names(), list[float]()
    payment = msgspec.structs.replace(a_payment(minor=150_000, currency="KES"), payer="254712345678")
    store.add(payment, a_sealer().seal(PAYMENT_ID, PhonePrompt(Phone("0712345678"))))
    sending = begun(payment, "mpesa")
    store.records[PAYMENT_ID] = msgspec.json.encode(sending)
    store.due[PAYMENT_ID] = written = clock() + 22_000

    async def pause(seconds: float) -> None:
        assert store.due[PAYMENT_ID] == written
        paused.append(seconds)
        if len(paused) == 3:
            waiting = sending.leave_open(AttemptState.WAITING, now_ms=clock())
            store.records[PAYMENT_ID] = msgspec.json.encode(waiting)

    async def named(checkout_id: str) -> PaymentId | None:
        return PAYMENT_ID

    async def note(payment_id: PaymentId, hint: bytes) -> None:
        """Kept."""

    names.payment_of, names.note = named, note  # type: ignore[method-assign]
    hints = PushHints(store, names, clock, lambda verdict: None, pause)
    report = PushReport(checkout_id="ws_CO_1", merchant_request_id="1-2-3", result_code=0, description="")
    assert await hints.take(report, "") == "asked"
    assert (len(paused), store.due[PAYMENT_ID]) == (3, clock())
