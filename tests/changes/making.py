"""Payments of the pure domain, and the acquirer's answers to them."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from engine.changes import Change
from engine.events import PaymentEvent
from engine.facts import Kind
from engine.ledger import Transaction
from engine.payment import Payment
from engine.settling import Approved, Declined, settled
from tests.engine.making import NOW_MS, a_payment

APPROVED = Approved("txn-1")
DECLINED = Declined("insufficient_funds", "Insufficient funds")
UNTIL_MS = NOW_MS + 3_600_000
LEASE_MS = 20_000


class Story(NamedTuple):
    """A payment, and everything that its changes have written beside it."""

    payment: Payment
    transactions: tuple[Transaction, ...] = ()
    events: tuple[PaymentEvent, ...] = ()

    def sending(self, at_ms: int, acquirer: str = "bank") -> Story:
        """With the intent to do what is to be done next."""
        operation = self.payment.operation
        assert operation is not None
        return self._replace(payment=self.payment.begin(operation, acquirer, now_ms=at_ms, lease_ms=LEASE_MS))

    def answered(self, answer: Approved | Declined, at_ms: int) -> Story:
        """With a definite answer to the latest attempt."""
        return self.after(settled(self.payment, answer, now_ms=at_ms))

    def after(self, change: Change) -> Story:
        """With what one change has written."""
        return Story(change.payment, self.transactions + change.transactions, self.events + change.events)


def a_story(kind: Kind) -> Story:
    """A payment of 75.48 with an attempt of this kind under way: 50.00 to capture, 20.00 to refund."""
    story = Story(msgspec.structs.replace(a_payment(), manual=kind not in (Kind.CHARGE, Kind.REFUND)))
    story = story.sending(NOW_MS + 10)
    if kind in (Kind.CHARGE, Kind.AUTHORIZE):
        return story
    story = story.answered(Approved("txn-1", UNTIL_MS if kind is not Kind.REFUND else 0), NOW_MS + 20)
    match kind:
        case Kind.CAPTURE:
            asked = story.payment.ask_capture(5000)
        case Kind.VOID:
            asked = story.payment.ask_cancel("out of stock")
        case _:
            asked = story.payment.ask_refund("ref-1", 2000, "broken", now_ms=NOW_MS + 25)
    return story._replace(payment=asked).sending(NOW_MS + 30)
