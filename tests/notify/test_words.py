"""What people are told, by type of event."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.notifications import TYPES, Malformed, told_by

VAULT = {"paymentId": "pay-1", "userId": "user-1", "checkoutId": "checkout-1", "totalPrice": 75.48}
RECORDED = {"paymentId": 1, "userId": 7, "orderId": 3, "status": "success"}
AMOUNT = {"amount": 75.48, "currency": "USD"}
PAYMENT = {"payment_id": "pay-1", "order_id": "order-1", "user_id": "user-1"}
WORDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "payment_authorized": ({**PAYMENT, "data": AMOUNT}, "Payment authorized", "We hold 75.48 USD for order order-1."),
    "payment_completed": ({**PAYMENT, "data": AMOUNT}, "Payment completed", "We received 75.48 USD for order order-1."),
    "payment_failed": (
        {"payment_id": "pay-1", "order_id": "order-1", "data": {"reason": "Insufficient funds"}},
        "Payment failed",
        "Your payment failed for order order-1: Insufficient funds.",
    ),
    "payment_cancelled": (
        {"payment_id": "pay-1", "user_id": "user-1", "data": {"reason": "expired"}},
        "Payment cancelled",
        "Your payment was cancelled: expired.",
    ),
    "payment_refunded": ({**PAYMENT, "data": AMOUNT}, "Payment refunded", "We gave back 75.48 USD for order order-1."),
    "payment_refund_failed": (
        {**PAYMENT, "data": {**AMOUNT, "reason": "closed account"}},
        "Refund failed",
        "We could not give back 75.48 USD for order order-1: closed account.",
    ),
    "payment.created": (
        {"data": {**RECORDED, "amount": 99.9}},
        "Payment recorded",
        "Your payment 1 of 99.9 for order 3 is success.",
    ),
    "payment.status.updated": ({"data": RECORDED}, "Payment updated", "Your payment 1 for order 3 is success."),
    "paymentService-paymentCompleted": (VAULT, "Payment completed", "Your card paid 75.48 for checkout checkout-1."),
    "paymentService-paymentFailed": (
        {**VAULT, "reason": "too little"},
        "Payment failed",
        "Your card did not pay 75.48 for checkout checkout-1: too little.",
    ),
    "paymentService-cardRefunded": (
        {**VAULT, "amount": 15.5},
        "Payment refunded",
        "Your card got back 15.5 for checkout checkout-1.",
    ),
    "user_created": ({"user_id": "user-1", "data": {"username": "ada"}}, "Welcome", "Welcome, ada."),
    "user_verified": ({"user_id": "user-1", "data": {}}, "Account verified", "Your account is verified."),
    "order_created": (
        {"order_id": "order-1", "user_id": "user-1", "data": {"total_amount": 75.48}},
        "Order received",
        "Your order order-1 over 75.48 was received.",
    ),
    "order_confirmed": (
        {"order_id": "order-1", "data": {"payment_id": "pay-1"}},
        "Order confirmed",
        "Your order order-1 is paid and confirmed.",
    ),
    "order_cancelled": (
        {"order_id": "order-1", "user_id": "user-1", "data": {}},
        "Order cancelled",
        "Your order order-1 was cancelled.",
    ),
}


def test_every_type_has_its_words() -> None:
    assert set(WORDS) == set(TYPES)


@pytest.mark.parametrize("event_type", WORDS)
def test_the_words_of_each_type(event_type: str) -> None:
    body, title, text = WORDS[event_type]
    told = told_by(event_type, json.dumps(body).encode())
    assert (told.title, told.text) == (title, text)
    assert told.user_id or told.payment_id, "somebody can be told"


@pytest.mark.parametrize("event_type", WORDS)
@pytest.mark.parametrize(
    "body", [b"{}", b'{"data": null}', b'{"user_id": 7, "order_id": 7, "data": {}}', b"[" * 100_000]
)
def test_a_body_that_is_not_its_types_is_malformed(event_type: str, body: bytes) -> None:
    with pytest.raises(Malformed):
        told_by(event_type, body)


@pytest.mark.parametrize("amount", ["1e999999", "1e-999999", "1e15", "0.0000001", '"NaN"', '"Infinity"', "null", "[]"])
def test_an_amount_that_is_none_is_malformed_and_never_written_out(amount: str) -> None:
    body = b'{"payment_id": "p", "data": {"amount": %s, "currency": "USD"}}' % amount.encode()
    with pytest.raises(Malformed):
        told_by("payment_completed", body)


def test_an_amount_keeps_the_digits_that_it_was_written_with() -> None:
    body = b'{"payment_id": "p", "data": {"amount": 75.40, "currency": "USD"}}'
    assert told_by("payment_completed", body).text == "We received 75.40 USD."


def test_what_a_body_says_stays_on_one_line_in_bounds_and_without_card_numbers() -> None:
    reason = "no\r\nBcc: all@example.com \u202e card 4242 4242 4242 4242 " + "x" * 10_000
    body = {"payment_id": "p", "data": {"reason": reason}}
    told = told_by("payment_failed", json.dumps(body).encode())
    assert told.text.isprintable()
    assert len(told.text) < 300
    assert "0000000000004242" in told.text
    assert "4242 4242" not in told.text
    assert told.title == "Payment failed", "a title is ours alone"
