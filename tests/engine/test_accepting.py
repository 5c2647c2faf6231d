"""Accepting: every rule, in order, and nothing is written when anything refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from engine import errors
from engine.accepting import Caller
from engine.cards import WalletToken
from engine.checking import User
from engine.facts import Method, Status
from engine.ids import shard_of, shard_of_payment
from engine.money import Money
from engine.payment import Payment
from tests.engine.accepting_world import ORDER, OWNER, REDRIVE_AFTER_S, SERVICE, SHARDS, USER, Desk, a_wish
from tests.engine.making import CVV, NOW_MS, PAN, a_card

STRANGER = Caller("somebody else", privileged=False)


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("key", [None, "key-1"])
async def test_a_payment_that_nothing_speaks_against_is_made(desk: Desk, key: str | None) -> None:
    accepted = await desk.accept(key=key)
    payment = accepted.payment
    assert payment == Payment(
        version=1,
        id=payment.id,
        surface="core",
        order_id=ORDER,
        user_id=USER,
        amount=Money(7548, "USD"),
        method=Method("credit_card", "visa", "4242"),
        created_ms=NOW_MS,
        request_id="req-1",
        traceparent=a_wish().traceparent,
    )
    assert not accepted.replayed and payment.status is Status.PROCESSING
    assert desk.store.created == [payment]
    assert desk.store.due == {payment.id: NOW_MS + int(REDRIVE_AFTER_S * 1000)}
    assert desk.store.awaits == (2 if key is None else 6)


async def test_a_payment_lives_in_the_shard_of_its_order(desk: Desk) -> None:
    assert shard_of_payment((await desk.accept()).payment.id) == shard_of(ORDER, SHARDS)


async def test_the_card_is_kept_sealed_to_its_payment_and_shown_as_brand_and_last_four(desk: Desk) -> None:
    payment = (await desk.accept()).payment
    sealed = desk.store.sealed[payment.id]
    assert desk.sealer.open(payment.id, sealed) == a_card()
    kept = msgspec.json.encode(payment) + msgspec.json.encode(list(desk.store.keys.values())) + sealed.body
    assert PAN.encode() not in kept and f'"{CVV}"'.encode() not in kept


async def test_a_wallet_token_is_kept_sealed_and_not_shown_at_all(desk: Desk) -> None:
    payment = (await desk.accept(a_wish(WalletToken("tok_visa_4242"), "wallet"))).payment
    assert payment.method == Method("wallet")
    assert desk.sealer.open(payment.id, desk.store.sealed[payment.id]) == WalletToken("tok_visa_4242")
    assert b"tok_visa" not in msgspec.json.encode(payment)


REFUSALS: dict[str, tuple[Callable[[Desk], None], type[errors.EngineError], dict[str, object]]] = {
    "unknown user": (lambda desk: desk.users.users.clear(), errors.UserNotFound, {"userId": USER}),
    "inactive user": (
        lambda desk: desk.users.users.update({USER: User(USER, active=False)}), errors.UserInactive, {"userId": USER},
    ),
    "unknown order": (lambda desk: desk.orders.orders.clear(), errors.OrderNotFound, {"orderId": ORDER}),
    "another user's order": (lambda desk: desk.change_order(user_id="other"), errors.OrderNotFound, {"orderId": ORDER}),
    "cancelled order": (
        lambda desk: desk.change_order(status="cancelled"), errors.AlreadyProcessed,
        {"orderId": ORDER, "orderStatus": "cancelled"},
    ),
    "order of a status that nobody knows": (
        lambda desk: desk.change_order(status="PENDING"), errors.AlreadyProcessed,
        {"orderId": ORDER, "orderStatus": "PENDING"},
    ),
    "order that has a payment": (
        lambda desk: desk.change_order(payment_id="pay-456"), errors.AlreadyProcessed,
        {"orderId": ORDER, "orderStatus": "pending"},
    ),
    "other currency": (lambda desk: desk.change_order(currency="EUR"), errors.OrderMismatch, {"field": "currency"}),
    "smaller total": (lambda desk: desk.change_order(total="75.47"), errors.OrderMismatch, {"field": "amount"}),
    "larger total": (lambda desk: desk.change_order(total="75.49"), errors.OrderMismatch, {"field": "amount"}),
    "total with too many decimals": (
        lambda desk: desk.change_order(total="75.480000000000004"), errors.OrderMismatch, {"field": "amount"},
    ),
    "total as a string": (lambda desk: desk.change_order(total='"75.48"'), errors.OrderMismatch, {"field": "amount"}),
    "total of null": (lambda desk: desk.change_order(total="null"), errors.OrderMismatch, {"field": "amount"}),
    "order held by another payment": (
        lambda desk: desk.store.orders.update({ORDER: "pay-other"}), errors.AlreadyProcessed, {"orderId": ORDER},  # type: ignore[dict-item]
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", [None, "key-1"])
@pytest.mark.parametrize(("spoil", "refusal", "details"), REFUSALS.values(), ids=REFUSALS)
async def test_each_rule_refuses_and_no_payment_is_made(
    desk: Desk,
    spoil: Callable[[Desk], None],
    refusal: type[errors.EngineError],
    details: dict[str, object],
    key: str | None,
) -> None:
    spoil(desk)
    orders_before = dict(desk.store.orders)
    with pytest.raises(refusal) as refused:
        await desk.accept(key=key)
    assert type(refused.value) is refusal and refused.value.details == details
    assert not (desk.store.payments or desk.store.sealed or desk.store.due) and desk.store.orders == orders_before
    # Only who came as far as the store holds its key: the retry must then name the same payment.
    assert bool(desk.store.keys) is (key is not None and bool(orders_before))


@pytest.mark.parametrize("total", ["75.48", "75.480", "7548e-2"])
async def test_totals_are_compared_as_amounts_and_not_as_texts(desk: Desk, total: str) -> None:
    desk.change_order(total=total)
    assert (await desk.accept()).payment.amount == Money(7548, "USD")


async def test_an_order_without_a_currency_takes_the_payments(desk: Desk) -> None:
    desk.change_order(currency=None)
    assert (await desk.accept()).payment.amount.currency == "USD"


async def test_the_rules_are_checked_from_the_gate_inwards(desk: Desk) -> None:
    """Everything is wrong at first; each refusal is mended, and the next one shows."""
    desk.refusal = errors.StoreUnavailable("not fit")
    desk.users.users.clear()
    desk.orders.orders.clear()
    found: list[str] = []
    mends: list[Callable[[], object]] = [
        lambda: setattr(desk, "refusal", None),
        lambda: desk.users.users.update({USER: User(USER, active=False)}),
        lambda: desk.users.users.update({USER: User(USER, active=True)}),
        lambda: desk.change_order(user_id="other", status="paid", currency="EUR", total="1"),
        lambda: desk.change_order(status="paid", currency="EUR", total="1"),
        lambda: desk.change_order(currency="EUR", total="1"),
        lambda: desk.change_order(total="1"),
        desk.change_order,
    ]
    for mend in mends:
        with pytest.raises(errors.EngineError) as refused:
            await desk.accept()
        found.append(refused.value.code)
        mend()
    assert found == [
        "STORE_UNAVAILABLE", "USER_004", "USER_INACTIVE", "ORDER_003", "ORDER_003", "PAY_003", "ORDER_MISMATCH",
        "ORDER_MISMATCH",
    ]  # fmt: skip
    assert desk.store.empty
    assert (await desk.accept()).payment in desk.store.created


async def test_a_stranger_is_refused_before_anybody_is_asked(desk: Desk) -> None:
    with pytest.raises(errors.NotYourUser):
        await desk.accept(caller=STRANGER)
    assert desk.users.asked == [] and desk.orders.asked == [] and desk.store.awaits == 0


async def test_a_privileged_caller_pays_for_any_user(desk: Desk) -> None:
    assert (await desk.accept(caller=SERVICE)).payment.user_id == USER


async def test_a_closed_gate_refuses_before_anybody_is_asked_even_for_a_payment_that_is_there(desk: Desk) -> None:
    await desk.accept()
    awaits, desk.refusal = desk.store.awaits, errors.StoreUnavailable("not fit")
    with pytest.raises(errors.StoreUnavailable):
        await desk.accept()
    assert desk.store.awaits == awaits and len(desk.users.asked) == 1


async def test_both_services_are_asked_at_once(desk: Desk) -> None:
    """Each answers only after the other has been asked."""
    desk.users.hold, desk.orders.hold = desk.orders.reached, desk.users.reached
    async with asyncio.timeout(30):
        await desk.accept()
    assert (desk.users.asked, desk.orders.asked) == ([USER], [ORDER])


async def test_a_user_who_was_just_asked_for_is_not_asked_for_again(desk: Desk) -> None:
    desk.users.cache[USER] = User(USER, active=True)
    await desk.accept()
    assert (desk.users.asked, desk.orders.asked) == ([], [ORDER])


async def test_an_order_is_asked_for_every_time(desk: Desk) -> None:
    desk.users.cache[USER] = User(USER, active=True)
    desk.change_order(total="1")
    for _ in range(2):
        with pytest.raises(errors.OrderMismatch):
            await desk.accept(key=None)
    assert desk.orders.asked == [ORDER, ORDER]


async def test_a_payment_is_shown_only_to_who_may_see_it(desk: Desk) -> None:
    payment = (await desk.accept()).payment
    assert await desk.accepting.find(payment.id, OWNER) == payment
    assert await desk.accepting.find(payment.id, SERVICE) == payment
    for payment_id, caller in ((payment.id, STRANGER), ("pay-unknown", OWNER), ("", SERVICE)):
        with pytest.raises(errors.PaymentNotFound) as refused:
            await desk.accepting.find(payment_id, caller)
        assert str(refused.value) == "payment not found", "nobody learns what others have"
