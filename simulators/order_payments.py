"""What the engine's events mean for an order. Anybody may write to a topic, so each is held against the order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from engine.messages import Message
from simulators.order_moves import CANCELLED, CONFIRMED, PENDING, Order, confirmed, paid_too_late
from simulators.order_types import PaymentCompleted, PaymentEvent, PaymentFailed

_ALARMING: Final = ("malformed", "mismatch", "paid_twice")
_event = msgspec.json.Decoder(PaymentEvent)
_completed = msgspec.json.Decoder(PaymentCompleted)
_failed = msgspec.json.Decoder(PaymentFailed)


class Heard(NamedTuple):
    """What an event did, in a word, and the order that it changed, if it did."""

    outcome: str
    order: Order | None = None

    @property
    def alarming(self) -> bool:
        """Whether people should look at it."""
        return self.outcome in _ALARMING


def heard(message: Message, find: Callable[[str], Order | None], at: str) -> Heard:
    """What this event changes; the same event again changes nothing."""
    try:
        match _event.decode(message.value).event_type:
            case "payment_completed":
                return _paid(_completed.decode(message.value), find, at)
            case "payment_failed":
                # The order stays as it is: it may be paid once more.
                _failed.decode(message.value)
                return Heard("failed")
            case _:
                return Heard("ignored")
    except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError):
        # ArithmeticError: an amount of "NaN" is a Decimal, and compares with nothing.
        return Heard("malformed")


def _paid(event: PaymentCompleted, find: Callable[[str], Order | None], at: str) -> Heard:
    order = find(event.order_id) if event.order_id else None
    if order is None:
        return Heard("unknown_order")
    # Less may have been captured than was authorized; more, or in another currency, is not this order's money.
    if (event.user_id, event.data.currency) != (order.user_id, order.currency) or not (
        0 < event.data.amount <= order.total_amount
    ):
        return Heard("mismatch")
    if order.status == PENDING:
        return Heard("confirmed", confirmed(order, event.payment_id, at))
    if order.status == CANCELLED:
        owing = paid_too_late(order, event.payment_id, at)
        return Heard("repeated") if owing is order else Heard("refunding", owing)
    if order.status == CONFIRMED and order.payment_id == event.payment_id:
        return Heard("repeated")
    return Heard("paid_twice")
