"""Idempotency keys while accepting: the same again, something else, two at once, and a crash in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from engine import errors
from engine.accepting import FIELDS, Accepted, AcceptPayment, Caller, _values
from engine.cards import VaultCard, WalletToken
from engine.idempotency import Fingerprints, KeyRecord
from engine.money import Money
from engine.payment import Payment
from engine.phones import Phone, PhonePrompt
from tests.engine.accepting_world import ORDER, OWNER, SERVICE, USER, Desk, Died, a_wish
from tests.engine.making import DECLINED, NOW_MS, PAN, PAYMENT_ID, a_card, begun

WALLET = a_wish(WalletToken("tok_visa_4242"), "wallet")
PHONE = a_wish(PhonePrompt(Phone("0712345678"), "a plan", "p1"), "mobile_money")


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_the_same_key_and_request_is_the_same_payment(desk: Desk) -> None:
    first = await desk.accept()
    again = await desk.accept()
    assert again == Accepted(first.payment, replayed=True)
    assert desk.store.created == [first.payment]
    assert len(desk.users.asked) == len(desk.orders.asked) == 1, "a repetition asks nobody"


async def test_a_repetition_shows_the_payment_as_it_is_now(desk: Desk) -> None:
    """Even when the order could no longer be paid, as after the payment itself."""
    payment = (await desk.accept()).payment
    done = begun(payment).fail(DECLINED, now_ms=NOW_MS)
    desk.store.payments[payment.id] = done
    desk.store.orders.clear()
    desk.change_order(status="cancelled")
    assert await desk.accept() == Accepted(done, replayed=True)


async def test_a_key_of_the_version_before_manual_capture_still_stands_for_its_request(desk: Desk) -> None:
    """0.1.0 kept ten hashes: a request that is repeated across the upgrade is the same one."""
    await desk.accept()
    (record,) = desk.store.keys.values()
    values = ("core", ORDER, USER, "7548", "USD", "credit_card", PAN, "12", "2030", "")
    assert record.fingerprint == Fingerprints(b"s" * 32).of(values)


DIFFERENT: dict[str, tuple[AcceptPayment, AcceptPayment]] = {
    "route": (a_wish(), a_wish(surface="vault")),
    "orderId": (a_wish(), a_wish(order_id="order-124")),
    "userId": (a_wish(), a_wish(user_id="somebody else")),
    "amount": (a_wish(), a_wish(amount=Money(7549, "USD"))),
    "currency": (a_wish(), a_wish(amount=Money(7548, "EUR"))),
    "paymentMethod.type": (a_wish(), a_wish(method_type="debit_card")),
    "paymentMethod.cardNumber": (a_wish(), a_wish(a_card("5555555555554444"))),
    "paymentMethod.expiryMonth": (a_wish(), a_wish(a_card(month=11))),
    "paymentMethod.expiryYear": (a_wish(), a_wish(a_card(year=2031))),
    "paymentMethod.token": (WALLET, a_wish(WalletToken("tok_visa_4243"), "wallet")),
    "capture": (a_wish(), a_wish(manual=True)),
    "phone_number": (PHONE, a_wish(PhonePrompt(Phone("0712345679"), "a plan", "p1"), "mobile_money")),
    "description": (PHONE, a_wish(PhonePrompt(Phone("0712345678"), "another", "p1"), "mobile_money")),
    "package_id": (PHONE, a_wish(PhonePrompt(Phone("0712345678"), "a plan", "p2"), "mobile_money")),
}


def test_every_field_is_tried() -> None:
    assert tuple(DIFFERENT) == FIELDS


@pytest.mark.parametrize(
    ("field", "first", "other"), [(name, *wishes) for name, wishes in DIFFERENT.items()], ids=DIFFERENT
)
async def test_the_same_key_with_another_request_is_refused_by_the_field_that_differs(
    desk: Desk, field: str, first: AcceptPayment, other: AcceptPayment
) -> None:
    await desk.accept(first, caller=SERVICE)
    with pytest.raises(errors.KeyReused) as refused:
        await desk.accept(other, caller=SERVICE)
    assert refused.value.details == {"field": field} and refused.value.retry == "new_key"
    assert len(desk.store.created) == 1 and len(desk.orders.asked) == 1


@pytest.mark.parametrize(
    ("first", "other", "field"),
    [
        (a_wish(VaultCard("card-1"), "vault_card"), a_wish(VaultCard("card-2"), "vault_card"), "paymentMethod.cardId"),
        (
            a_wish(PhonePrompt(Phone("0712345678")), "mobile_money"),
            a_wish(PhonePrompt(Phone("0712345679")), "mobile_money"),
            "paymentMethod.phoneNumber",
        ),
    ],
)
async def test_what_differs_is_called_as_it_was_sent(
    desk: Desk, first: AcceptPayment, other: AcceptPayment, field: str
) -> None:
    record = KeyRecord(PAYMENT_ID, Fingerprints(b"s" * 32).of(_values(first)), NOW_MS)
    desk.store.keys[Fingerprints(b"s" * 32).key_digest(OWNER.subject, "k")] = record
    with pytest.raises(errors.KeyReused) as refused:
        await desk.accept(other, key="k")
    assert refused.value.details == {"field": field}


async def test_a_repetition_is_answered_also_when_the_card_has_expired_since(desk: Desk) -> None:
    first = await desk.accept(a_wish(a_card(month=1, year=2026)))
    desk.clock.advance(32 * 24 * 3_600_000)
    assert await desk.accept(a_wish(a_card(month=1, year=2026))) == Accepted(first.payment, replayed=True)
    with pytest.raises(errors.PaymentMethodRefused, match="expired"):
        await desk.accept(a_wish(a_card(month=1, year=2026), order_id="order-124"), key="another")
    assert "order-124" not in desk.orders.asked, "nobody is asked for a card that is over"


async def test_the_first_field_that_differs_is_the_one_that_is_named(desk: Desk) -> None:
    await desk.accept()
    with pytest.raises(errors.KeyReused) as refused:
        await desk.accept(a_wish(a_card("5555555555554444", year=2031), amount=Money(1, "USD")))
    assert refused.value.details == {"field": "amount"}


@pytest.mark.parametrize("cvv", ["999", "1234", None])
async def test_the_cvv_is_not_part_of_the_request_that_is_remembered(desk: Desk, cvv: str | None) -> None:
    """It must not outlive its use, not even as a hash: a thousand guesses would find it."""
    first = await desk.accept()
    assert (await desk.accept(a_wish(a_card(cvv=cvv)))).payment == first.payment


async def test_a_key_belongs_to_its_caller(desk: Desk) -> None:
    ours = await desk.accept(key="k")
    desk.store.orders.clear()
    theirs = await desk.accept(key="k", caller=SERVICE)
    assert ours.payment.id != theirs.payment.id and not theirs.replayed


async def test_callers_whose_name_and_key_join_to_the_same_text_do_not_meet(desk: Desk) -> None:
    one = await desk.accept(key="bc", caller=Caller("a", privileged=True))
    desk.store.orders.clear()
    other = await desk.accept(key="c", caller=Caller("ab", privileged=True))
    assert one.payment.id != other.payment.id


async def test_without_a_key_nothing_is_remembered_and_the_order_still_is_paid_once(desk: Desk) -> None:
    await desk.accept(key=None)
    with pytest.raises(errors.AlreadyProcessed):
        await desk.accept(key=None)
    assert desk.store.keys == {} and len(desk.store.created) == 1


async def test_a_refused_request_leaves_its_key_free(desk: Desk) -> None:
    desk.change_order(total="1")
    with pytest.raises(errors.OrderMismatch):
        await desk.accept()
    desk.change_order(total="1", currency=None)
    assert (await desk.accept(a_wish(amount=Money(100, "USD")))).payment.amount == Money(100, "USD")


async def test_a_key_whose_order_is_held_by_another_payment_stays_refused(desk: Desk) -> None:
    await desk.accept(key="one")
    for _ in range(2):
        with pytest.raises(errors.AlreadyProcessed):
            await desk.accept(key="other")
    assert len(desk.store.created) == 1


@pytest.mark.parametrize("death", [Died, asyncio.CancelledError, lambda: errors.StoreUnavailable("away")])
async def test_a_crash_at_any_await_of_the_store_is_healed_by_the_same_request(
    death: Callable[[], BaseException],
) -> None:
    """Above all between the claim of the key and the creation: the retry makes the very payment that was claimed."""
    claimed_alone = 0
    for place in range(6):
        desk = Desk()
        desk.store.dies_at, desk.store.death = place, death
        with pytest.raises(type(death())):
            await desk.accept()
        claimed = [record.payment_id for record in desk.store.keys.values()]
        claimed_alone += bool(claimed) and not desk.store.payments
        desk.clock.advance(5)
        healed = await desk.accept()
        assert claimed in ([], [healed.payment.id])
        assert [payment.id for payment in desk.store.created] == [healed.payment.id]
        assert (await desk.accept()).payment.id == healed.payment.id
    assert claimed_alone == 2, "before and behind the claim's answer"


async def test_a_claimed_key_still_refuses_another_request(desk: Desk) -> None:
    desk.store.dies_at = 4
    with pytest.raises(Died):
        await desk.accept()
    assert desk.store.keys and not desk.store.payments
    with pytest.raises(errors.KeyReused):
        await desk.accept(a_wish(amount=Money(1, "USD")))


async def test_a_claimed_key_is_checked_against_the_rules_again(desk: Desk) -> None:
    desk.store.dies_at = 4
    with pytest.raises(Died):
        await desk.accept()
    desk.change_order(status="cancelled")
    with pytest.raises(errors.AlreadyProcessed):
        await desk.accept()
    assert desk.store.payments == {}


@pytest.mark.parametrize("requests", [2, 3, 10])
async def test_requests_with_one_key_at_once_make_one_payment(desk: Desk, requests: int) -> None:
    wishes = [a_wish(request_id=f"req-{number}") for number in range(requests)]
    answers = await asyncio.gather(*(desk.accept(wish) for wish in wishes))
    [made] = desk.store.created
    assert [accepted.payment for accepted in answers] == [made] * requests
    assert [wish.request_id for wish, accepted in zip(wishes, answers, strict=True) if not accepted.replayed] == [
        made.request_id
    ]


@pytest.mark.parametrize("delay", range(10))
async def test_whoever_comes_a_little_later_with_the_key_gets_the_same_payment(desk: Desk, delay: int) -> None:
    first = asyncio.create_task(desk.accept())
    for _ in range(delay):
        await asyncio.sleep(0)
    assert (await desk.accept()).payment.id == (await first).payment.id
    assert len(desk.store.created) == 1


@pytest.mark.parametrize("delay", range(10))
async def test_another_request_with_the_key_at_the_same_time_is_refused(desk: Desk, delay: int) -> None:
    desk.change_order(currency=None)
    first = asyncio.create_task(desk.accept())
    for _ in range(delay):
        await asyncio.sleep(0)
    other = desk.accept(a_wish(a_card("5555555555554444")))
    answers = await asyncio.gather(first, other, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["Accepted", "KeyReused"]
    assert len(desk.store.created) == 1


async def test_what_became_of_a_key_is_told_to_its_caller_alone(desk: Desk) -> None:
    with pytest.raises(errors.KeyNotFound):
        await desk.accepting.key_state(OWNER, "key-1")
    payment = (await desk.accept()).payment
    state = await desk.accepting.key_state(OWNER, "key-1")
    assert state == (payment.id, NOW_MS, payment)
    with pytest.raises(errors.KeyNotFound):
        await desk.accepting.key_state(SERVICE, "key-1")


async def test_a_key_whose_request_was_cut_short_is_told_to_be_claimed(desk: Desk) -> None:
    desk.store.dies_at = 4
    with pytest.raises(Died):
        await desk.accept()
    state = await desk.accepting.key_state(OWNER, "key-1")
    assert state.payment is None
    assert (await desk.accept()).payment.id == state.payment_id


async def test_a_payment_of_the_key_is_shown_whatever_its_status(desk: Desk) -> None:
    payment = (await desk.accept()).payment
    done = begun(payment).charged("txn-1", now_ms=NOW_MS)
    desk.store.payments[payment.id] = done
    found: Payment | None = (await desk.accepting.key_state(OWNER, "key-1")).payment
    assert found == done and done.order_id == ORDER and done.user_id == USER
