"""What a payment is made of: the plain values that its record keeps, and the moves between its statuses."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

import msgspec


class Status(StrEnum):
    """Where a payment stands, as users see it."""

    PENDING = "pending"
    """Made, and not to be charged before somebody asks."""
    PROCESSING = "processing"
    AUTHORIZED = "authorized"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"


MOVES: Final[dict[Status, tuple[Status, ...]]] = {
    Status.PENDING: (Status.PROCESSING, Status.CANCELLED),
    Status.PROCESSING: (Status.COMPLETED, Status.AUTHORIZED, Status.FAILED),
    Status.AUTHORIZED: (Status.COMPLETED, Status.CANCELLED),
    Status.COMPLETED: (Status.PARTIALLY_REFUNDED, Status.REFUNDED),
    Status.PARTIALLY_REFUNDED: (Status.PARTIALLY_REFUNDED, Status.REFUNDED),
    Status.FAILED: (),
    Status.CANCELLED: (),
    Status.REFUNDED: (),
}


REFUNDS_MAX: Final = 100
"""Refunds of one payment, failed ones too: its record is written whole."""


class Kind(StrEnum):
    """What is asked of an acquirer."""

    CHARGE = "charge"
    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"


class AttemptState(StrEnum):
    """What is known of one try at an acquirer."""

    SENDING = "sending"
    """The intent is written; the request may or may not have left."""
    NOT_SENT = "not_sent"
    WAITING = "waiting"
    """The counterparty has it, and waits for the payer; it is asked until the payer has decided."""
    UNKNOWN = "unknown"
    APPROVED = "approved"
    REJECTED = "rejected"
    LATE = "late"
    """It took the money though it had been passed over, or the payment had failed: that goes back."""
    REVERSED = "reversed"
    """As `LATE`, and the money has gone back."""


OPENING: Final = (Kind.CHARGE, Kind.AUTHORIZE)
"""The kinds that a payment begins with; everything else follows one of them."""


class Outcome(StrEnum):
    """What is certain about a payment's or a refund's money."""

    NONE = "none"
    """Nothing was tried, or nothing has moved."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It may have moved; the acquirer is asked until somebody knows."""


class Method(msgspec.Struct, frozen=True, array_like=True):
    """What of a payment method may be shown: its type, and a card's brand and last four digits."""

    type: str
    brand: str = ""
    last4: str = ""


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a payment failed: the API's code, the event's code, and a sentence."""

    code: str
    event_code: str
    reason: str


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One try at one acquirer. Its id is the idempotency key there, for ever."""

    number: int
    acquirer: str
    state: AttemptState
    started_ms: int
    lease_until_ms: int
    """Until then its worker may still be sending; nobody else touches it."""
    ended_ms: int = 0
    asked: int = 0
    """How often the acquirer was asked for, or refused us, an outcome; the pauses grow with it."""
    kind: Kind = Kind.CHARGE
    minor: int = 0
    refund_id: str = ""
    settled_by: str = ""
    """Who settled it by hand, and why."""
    token: str = ""
    """Made anew by whoever begins: two workers that begin in one millisecond must not write the same record."""
    reverses: int = 0
    """The number of the attempt whose money it gives back, when that came too late."""


class LateSuccess(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that took the money too late. What gives it back names the acquirer's own `transaction_id`."""

    number: int
    transaction_id: str
    found_ms: int
    refused: str = ""
    """The acquirer's word with which it refused to give it back: now it is up to people."""


class RefundState(StrEnum):
    """Where a refund stands."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


class Refund(msgspec.Struct, frozen=True, array_like=True):
    """Money on its way back. While it is pending, its amount is reserved."""

    id: str
    minor: int
    reason: str
    state: RefundState
    created_ms: int
    ended_ms: int = 0
    transaction_id: str = ""
    failure: Failure | None = None


class Operation(NamedTuple):
    """The next thing to be done at the acquirer."""

    kind: Kind
    minor: int
    refund_id: str = ""
    reverses: int = 0
    """The number of the attempt whose money goes back, when that came too late."""
