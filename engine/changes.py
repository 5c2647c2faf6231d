"""What a use case asks the store to write, and what the store answers."""

from __future__ import annotations

from typing import NamedTuple

from engine.events import PaymentEvent
from engine.ids import PaymentId
from engine.ledger import Transaction
from engine.payment import Payment


class Job(NamedTuple):
    """Work on one payment, taken from the job stream. Its delivery is at least once: the record decides."""

    payment_id: PaymentId
    hint: Payment | None
    """The payment as it was when the job was written. Only a compare-and-set tells whether it still is."""
    entry_id: str


class Change(NamedTuple):
    """A payment's next version, with everything that becomes true in the same moment."""

    payment: Payment
    due_ms: int | None
    """When the reconciler looks at it again; None when nothing is left to do."""
    transactions: tuple[Transaction, ...] = ()
    events: tuple[PaymentEvent, ...] = ()
    unknown: bool = False
    """Whether money may have moved without us knowing."""
    forget_instrument: bool = False
    release_order: bool = False
    needs_room: bool = False
    """Whether it may be refused while too many events wait: somebody asks for it. What has happened is always kept."""


class Conflict(NamedTuple):
    """Somebody else wrote first. `current` is what stands there; None when the payment does not exist."""

    current: Payment | None
