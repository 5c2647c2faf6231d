"""The acquirer against localstripe: what it moves there, and what it says of it, whatever breaks on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from clients.http import open_session
from clients.stripe import StripeAcquirer
from clients.stripe_line import ApiKey, StripeLine
from clients.wire import Wire
from engine.cards import Card, Cvv, Pan, WalletToken
from engine.charging import AcquirerRequest, NeverSeen, NotSent, Unknown
from engine.facts import Kind
from engine.ids import PaymentIds, now_ms
from engine.money import Money
from engine.settling import Approved, Declined
from simulators.server import serve
from tests.clients.test_counterparties import Line
from tests.stripe.door import DECLINES, OWNER_NEEDED, Door, Fault, hours_ago_ms
from tests.stripe.local import localstripe
from tests.support import free_port

KEY = "sk_test_canary9731"
AMOUNT = Money(7548, "USD")
GOOD = "4242424242424242"


class Bench:
    """The acquirer, its door, and a new payment."""

    def __init__(self, door: Door, wire: Wire, url: str) -> None:
        self.door, self._wire, self._url = door, wire, url
        self.acquirer = self.with_(timeout_s=20.0)
        self.impatient = self.with_(timeout_s=2.0)
        self.payment = PaymentIds().mint(0)

    def with_(self, *, timeout_s: float, url: str = "", clock: Any = now_ms, **guard: Any) -> StripeAcquirer:
        """An acquirer with other patience, another clock or another address."""
        counterparty = Line(self._wire, "stripe", timeout_s=timeout_s, **guard).counterparty
        return StripeAcquirer(StripeLine(counterparty, url or self._url, ApiKey(KEY)), clock, patience_s=2 * timeout_s)

    @property
    def attempt(self) -> str:
        return f"{self.payment}-a1"

    def charge(self, number: str = GOOD, kind: Kind = Kind.CHARGE, amount: Money = AMOUNT) -> AcquirerRequest:
        card = Card(Pan(number), 12, 2030, Cvv("973"))
        return AcquirerRequest(self.attempt, self.payment, kind, amount, card, "")

    def follow(self, kind: Kind, transaction: str, minor: int, number: int = 2) -> AcquirerRequest:
        return AcquirerRequest(f"{self.payment}-a{number}", self.payment, kind, Money(minor, "USD"), None, transaction)

    async def find(self, kind: Kind = Kind.CHARGE, amount: Money = AMOUNT) -> Any:
        return await self.acquirer.find(kind, self.attempt, amount, "")

    async def charged(self) -> list[int]:
        """What localstripe has really charged for this payment."""
        ours = [i["id"] for i in await self.door.all("payment_intents") if i["metadata"]["payment_id"] == self.payment]
        return [c["amount"] for c in await self.door.all("charges") if c["payment_intent"] in ours and c["paid"]]

    async def paid(self, kind: Kind = Kind.CHARGE) -> str:
        answer = await self.acquirer.send(self.charge(kind=kind))
        assert isinstance(answer, Approved)
        return answer.transaction_id


@pytest.fixture(scope="module")
def local() -> Iterator[str]:
    with localstripe() as url:
        yield url


@pytest.fixture
async def bench(local: str) -> AsyncIterator[Bench]:
    door = Door(local)
    async with serve(door) as url, open_session(client_id="tests") as wire:
        yield Bench(door, wire, url)


async def test_a_card_is_charged_once_however_often_it_is_sent(bench: Bench) -> None:
    answers = [await bench.acquirer.send(bench.charge()) for _ in range(3)]
    assert isinstance(answers[0], Approved) and answers[0].transaction_id.startswith("pi_")
    assert answers == [answers[0]] * 3 == [await bench.find()] * 3
    assert await bench.charged() == [7548]


async def test_every_request_carries_the_key_the_version_and_the_attempt(bench: Bench) -> None:
    await bench.acquirer.send(bench.charge())
    make, confirm = bench.door.posts("")
    assert {seen.headers["Authorization"] for seen in (make, confirm)} == {f"Bearer {KEY}"}
    assert {seen.headers["Stripe-Version"] for seen in (make, confirm)} == {"2025-03-31.basil"}
    assert [seen.headers["Idempotency-Key"] for seen in (make, confirm)] == [bench.attempt, f"{bench.attempt}-confirm"]
    assert make.form == {
        "amount": "7548", "currency": "usd", "capture_method": "automatic", "payment_method_types[]": "card",
        "metadata[attempt_id]": bench.attempt, "metadata[payment_id]": bench.payment,
    }  # fmt: skip
    assert confirm.form["payment_method_data[card][number]"] == GOOD and "amount" not in confirm.form


@pytest.mark.parametrize("number", DECLINES)
async def test_a_declined_card_is_declined_in_stripes_words_and_found_so(bench: Bench, number: str) -> None:
    code, decline_code = DECLINES[number]
    answer = Declined(decline_code or code, "Your card was declined.", retryable=code == "processing_error")
    assert await bench.acquirer.send(bench.charge(number)) == answer == await bench.find()
    assert await bench.charged() == []


@pytest.mark.parametrize("fails_at_once", [True, False])
async def test_a_card_that_wants_its_owner_is_declined_and_can_never_be_paid(bench: Bench, fails_at_once: bool) -> None:
    bench.door.fails_when_owner_needed = fails_at_once
    for answer in (await bench.acquirer.send(bench.charge(OWNER_NEEDED)), await bench.find()):
        assert isinstance(answer, Declined) and (answer.code, answer.retryable) == ("authentication_required", False)
    (intent,) = [i for i in await bench.door.all("payment_intents") if i["metadata"]["payment_id"] == bench.payment]
    assert intent["status"] == ("requires_payment_method" if fails_at_once else "canceled")
    assert await bench.charged() == []


async def test_a_lost_cancellation_is_unknown_until_it_is_sure(bench: Bench) -> None:
    """Declined too early, the owner could still confirm, and somebody would have paid for a failed payment."""
    bench.door.fails_when_owner_needed = False
    bench.door.faults += [Fault("POST .*/cancel", acts=False, status=500)]
    assert isinstance(await bench.acquirer.send(bench.charge(OWNER_NEEDED)), Unknown)
    bench.door.faults += [Fault("POST .*/cancel", acts=True, status=0)]
    assert isinstance(await bench.impatient.find(Kind.CHARGE, bench.attempt, AMOUNT, ""), Unknown)
    assert isinstance(await bench.find(), Declined)


@pytest.mark.parametrize("status", [0, -1, 500, 503, 429])
async def test_a_charge_whose_answer_is_lost_is_unknown_and_then_found(bench: Bench, status: int) -> None:
    bench.door.faults.append(Fault("/confirm", acts=True, status=status))
    assert isinstance(await bench.impatient.send(bench.charge()), Unknown)
    found = await bench.find()
    assert isinstance(found, Approved) and await bench.charged() == [7548]
    assert await bench.acquirer.send(bench.charge()) == found and await bench.charged() == [7548]


@pytest.mark.parametrize("status", [0, -1, 500, 429])
async def test_a_charge_that_did_not_arrive_was_never_seen_and_is_sent_again(bench: Bench, status: int) -> None:
    bench.door.faults.append(Fault("/confirm", acts=False, status=status))
    assert isinstance(await bench.impatient.send(bench.charge()), Unknown)
    assert await bench.find() == NeverSeen()
    assert isinstance(await bench.acquirer.send(bench.charge()), Approved) and await bench.charged() == [7548]


@pytest.mark.parametrize("acts", [True, False])
@pytest.mark.parametrize("status", [0, -1, 500, 429])
async def test_trouble_before_the_card_is_sent_leaves_the_way_to_another_acquirer(
    bench: Bench, acts: bool, status: int
) -> None:
    """An intent that nobody has confirmed moves no money, whether or not it was made."""
    bench.door.faults += [Fault(r"payment_intents\Z", acts=acts, status=status)]
    assert isinstance(await bench.with_(timeout_s=0.6).send(bench.charge()), NotSent)
    assert bench.door.posts("/confirm") == [] and await bench.charged() == []


async def test_nobody_at_the_port_is_not_sent(bench: Bench) -> None:
    nobody = bench.with_(timeout_s=1.0, url=f"http://127.0.0.1:{free_port()}")
    assert isinstance(await nobody.send(bench.charge()), NotSent)
    for kind in Kind:
        assert isinstance(await nobody.find(kind, bench.attempt, AMOUNT, "pi_1"), NotSent)


async def test_an_attempt_that_was_never_sent_was_never_seen(bench: Bench) -> None:
    assert await bench.find() == NeverSeen() and await bench.charged() == []


async def test_a_wallet_and_an_amount_without_a_number_are_refused_before_anything_is_sent(bench: Bench) -> None:
    wallet = bench.charge()._replace(instrument=WalletToken("tok_visa_4242"))
    for request in (wallet, bench.charge(amount=Money(1234, "KWD"))):
        answer = await bench.acquirer.send(request)
        assert isinstance(answer, Declined) and answer.retryable
    assert isinstance(await bench.find(amount=Money(1234, "KWD")), Declined)
    assert bench.door.seen == []


async def test_whole_units_are_charged_as_stripe_counts_them(bench: Bench) -> None:
    assert isinstance(await bench.acquirer.send(bench.charge(amount=Money(500, "ISK"))), Approved)
    assert await bench.charged() == [50_000]


# Older than the key.


async def test_an_old_attempt_is_searched_for(bench: Bench) -> None:
    bench.payment = PaymentIds(lambda: hours_ago_ms(30)).mint(0)
    paid = await bench.paid()
    bench.door.forget()
    assert await bench.find() == Approved(paid) and len(bench.door.posts("payment_intents")) == 1


async def test_an_old_attempt_that_the_search_does_not_know_is_in_the_list(bench: Bench) -> None:
    bench.payment = PaymentIds(lambda: hours_ago_ms(30)).mint(0)
    paid = await bench.paid()
    bench.door.forget()
    bench.door.search_is_behind = True
    mine = bench.payment
    for _ in range(55):
        bench.payment = PaymentIds().mint(0)
        await bench.find()
    bench.payment = mine
    assert await bench.find() == Approved(paid)
    assert len([seen for seen in bench.door.seen if seen.path == "/v1/payment_intents" and seen.method == "GET"]) == 2


async def test_an_old_attempt_that_is_in_no_whole_list_was_never_seen(bench: Bench) -> None:
    bench.payment = PaymentIds(lambda: hours_ago_ms(30)).mint(0)
    assert await bench.find() == NeverSeen() and bench.door.posts("") == [], "asking made nothing"


async def test_an_old_attempt_is_not_given_up_because_a_list_was_not_read_to_its_end(bench: Bench) -> None:
    bench.payment = PaymentIds(lambda: hours_ago_ms(30)).mint(0)
    endless = {"data": [{"id": "pi_1", "status": "succeeded", "amount": 1, "currency": "usd"}], "has_more": True}
    bench.door.faults += [Fault(r"GET /v1/payment_intents\Z", acts=False, status=200, body=endless)] * 25
    assert isinstance(await bench.find(), Unknown) and len(bench.door.seen) == 21


async def test_an_intent_that_nobody_confirmed_for_an_hour_is_cancelled_and_then_declined(bench: Bench) -> None:
    """Stripe may keep a 500 for a day: without an end the payment would be processing for as long."""
    bench.door.faults.append(Fault("/confirm", acts=False, status=500))
    assert isinstance(await bench.acquirer.send(bench.charge()), Unknown)
    later = bench.with_(timeout_s=20.0, clock=lambda: now_ms() + 2 * 3_600_000)
    answer = await later.find(Kind.CHARGE, bench.attempt, AMOUNT, "")
    assert isinstance(answer, Declined) and (answer.code, answer.retryable) == ("not_processed", True)
    assert not isinstance(await bench.acquirer.send(bench.charge()), Approved) and await bench.charged() == []


async def test_an_attempt_that_is_known_as_something_else_is_unknown(bench: Bench) -> None:
    await bench.acquirer.find(Kind.CHARGE, bench.attempt, Money(1, "USD"), "")
    assert isinstance(await bench.acquirer.send(bench.charge()), Unknown)
    assert isinstance(await bench.find(), Unknown) and await bench.charged() == []


# What follows.


async def test_an_authorization_is_captured_in_part_once(bench: Bench) -> None:
    answer = await bench.acquirer.send(bench.charge(kind=Kind.AUTHORIZE))
    assert isinstance(answer, Approved) and 4 * 86_400_000 < answer.until_ms - now_ms() < 6 * 86_400_000
    assert await bench.find(Kind.AUTHORIZE) == answer
    pi = answer.transaction_id
    capture = bench.follow(Kind.CAPTURE, pi, 5000)
    asked = (Kind.CAPTURE, capture.attempt_id, capture.amount, pi)
    assert await bench.acquirer.find(*asked) == NeverSeen()
    bench.door.faults.append(Fault("/capture", acts=True, status=0))
    assert isinstance(await bench.impatient.send(capture), Unknown)
    assert await bench.acquirer.find(*asked) == Approved(pi) == await bench.acquirer.send(capture)
    assert isinstance(await bench.acquirer.send(capture._replace(attempt_id=f"{bench.payment}-a3")), Approved)
    void = bench.follow(Kind.VOID, pi, 7548, 4)
    assert isinstance(await bench.acquirer.send(void), Declined), "what was captured is not released"


async def test_an_authorization_is_released(bench: Bench) -> None:
    pi = await bench.paid(Kind.AUTHORIZE)
    void = bench.follow(Kind.VOID, pi, 7548)
    asked = (Kind.VOID, void.attempt_id, void.amount, pi)
    assert await bench.acquirer.find(*asked) == NeverSeen()
    bench.door.faults.append(Fault("/cancel", acts=True, status=-1))
    assert isinstance(await bench.acquirer.send(void), Unknown)
    assert await bench.acquirer.find(*asked) == Approved(pi)
    assert await bench.acquirer.send(bench.follow(Kind.VOID, pi, 7548, 3)) == Approved(pi), "twice is once"
    capture = bench.follow(Kind.CAPTURE, pi, 7548, 4)
    assert isinstance(await bench.acquirer.send(capture), Declined)
    assert isinstance(await bench.acquirer.find(Kind.CAPTURE, capture.attempt_id, capture.amount, pi), Declined)


async def test_refunds_are_each_made_once_and_found_by_their_attempt(bench: Bench) -> None:
    pi = await bench.paid()
    for number, minor in ((2, 1000), (3, 1000)):
        refund = bench.follow(Kind.REFUND, pi, minor, number)
        asked = (Kind.REFUND, refund.attempt_id, refund.amount, pi)
        assert await bench.acquirer.find(*asked) == NeverSeen()
        bench.door.faults.append(Fault("/refunds", acts=True, status=500))
        assert isinstance(await bench.acquirer.send(refund), Unknown)
        found = await bench.acquirer.find(*asked)
        assert isinstance(found, Approved) and found.transaction_id.startswith("re_")
        assert await bench.acquirer.send(refund) == found
    assert [r["amount"] for r in await bench.door.all("refunds") if r["payment_intent"] == pi] == [1000, 1000]


def test_the_key_hides_itself() -> None:
    assert "canary" not in repr(ApiKey(KEY)) + str(ApiKey(KEY))
