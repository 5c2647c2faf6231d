"""Payments, cards and time for the domain tests."""

from __future__ import annotations

from engine.cards import Card, Cvv, Pan
from engine.facts import Failure, Method, Operation
from engine.ids import PaymentId
from engine.money import Money
from engine.payment import Payment
from engine.sealing import AesGcmSealer

NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
PAYMENT_ID = PaymentId("pay-01kdvnqg0000000000000000000a")
PAN = "4242424242424242"
CVV = "737"
DECLINED = Failure("PAY_002", "INSUFFICIENT_FUNDS", "Insufficient funds")


class FakeClock:
    """Milliseconds that pass only when told."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, ms: int) -> None:
        self.now_ms += ms


def a_card(pan: str = PAN, cvv: str | None = CVV, *, month: int = 12, year: int = 2030) -> Card:
    """A good card."""
    return Card(Pan(pan), month, year, None if cvv is None else Cvv(cvv))


def a_payment(payment_id: PaymentId = PAYMENT_ID, minor: int = 7548, currency: str = "USD") -> Payment:
    """A payment as it is when it was just accepted."""
    return Payment(
        version=1,
        id=payment_id,
        surface="core",
        order_id="order-123",
        user_id="550e8400-e29b-41d4-a716-446655440001",
        amount=Money(minor, currency),
        method=Method("credit_card", "visa", "4242"),
        created_ms=NOW_MS,
        request_id="req-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


def next_operation(payment: Payment) -> Operation:
    """What is to be done next; there must be something."""
    operation = payment.operation
    assert operation is not None
    return operation


def begun(
    payment: Payment | None = None,
    acquirer: str = "bank",
    *,
    now_ms: int = NOW_MS,
    lease_ms: int = 20_000,
    token: str = "",
) -> Payment:
    """A payment with the intent to do what is to be done next."""
    payment = payment or a_payment()
    return payment.begin(next_operation(payment), acquirer, now_ms=now_ms, lease_ms=lease_ms, token=token)


def a_sealer() -> AesGcmSealer:
    """A sealer with one key."""
    return AesGcmSealer({"t1": b"k" * 32})
