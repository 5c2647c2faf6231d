"""What the engine has settled is counted by outcome, and its money by currency, in minor units."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from app.observing import PaymentObserver
from app.sampling import SuccessRate
from engine.facts import Failure, Refund, RefundState
from engine.money import Money
from engine.payment import Payment
from engine.waking import Changed
from metrics.instruments import Instruments
from tests.engine.charging_world import Say, Script, World
from tests.engine.making import a_payment


@pytest.fixture
def instruments() -> Instruments:
    return Instruments(CollectorRegistry())


def money(instruments: Instruments) -> dict[tuple[str, str, str], float]:
    """All that moved, or did not: by what, status and currency."""
    return {
        (what, sample.labels["status"], sample.labels["currency"]): sample.value
        for what, counter in (("payment", instruments.payments_money), ("refund", instruments.refunds_money))
        for metric in counter.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


@pytest.mark.parametrize(("says", "status"), [(Say.APPROVE, "completed"), (Say.DECLINE, "failed")])
def test_a_charge_counts_its_money_once_under_its_outcome(instruments: Instruments, says: Say, status: str) -> None:
    world = World(Script((says,)), instruments=instruments)
    world.process()
    world.process()
    amount = world.payment.amount
    assert money(instruments) == {("payment", status, amount.currency): amount.minor}


def _recorded(**changes: object) -> Payment:
    payment = msgspec.structs.replace(a_payment(), amount=Money(1500, "JPY"), rail="outside", ended_ms=5)
    return msgspec.structs.replace(payment, **changes)


def test_what_was_captured_counts_and_of_what_failed_the_amount(instruments: Instruments) -> None:
    observer = PaymentObserver(instruments, SuccessRate(), Changed())
    observer.recorded(_recorded(captured_minor=1200))
    observer.recorded(_recorded(failure=Failure("X", "x", "reason")))
    assert money(instruments) == {("payment", "completed", "JPY"): 1200, ("payment", "failed", "JPY"): 1500}


def test_a_refund_counts_its_own_money(instruments: Instruments) -> None:
    refund = Refund("r-1", 300, "reason", RefundState.COMPLETED, 1)
    PaymentObserver(instruments, SuccessRate(), Changed()).recorded(_recorded(captured_minor=1500, refunds=(refund,)))
    assert money(instruments) == {("refund", "completed", "JPY"): 300}
    assert instruments.registry.get_sample_value("refunds_processed_total", {"status": "completed"}) == 1
