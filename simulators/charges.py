"""What the acquirer decides about one attempt, and what may follow a charge. No HTTP here."""

from __future__ import annotations

import hmac
import secrets
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Final, Literal, assert_never

import msgspec

from simulators.cards import Decline


class Kind(StrEnum):
    """What was asked of the acquirer."""

    CHARGE = "charge"
    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"

    @property
    def path(self) -> str:
        """Where it is asked for, and asked about: `POST /{path}`, `GET /{path}/{attempt}`."""
        return "charges" if self in {Kind.CHARGE, Kind.AUTHORIZE} else f"{self}s"

    @property
    def moves_money(self) -> bool:
        """Whether an approval is an effect on money; a hold and its release are none."""
        return self in {Kind.CHARGE, Kind.CAPTURE, Kind.REFUND}


FollowUpKind = Literal[Kind.CAPTURE, Kind.VOID, Kind.REFUND]
"""What is asked about money that was charged or authorized before."""

UNKNOWN_CHARGE: Final = Decline("unknown_charge", "Unknown charge")
CHARGE_DECLINED: Final = Decline("charge_declined", "The charge was declined")
ALREADY_CAPTURED: Final = Decline("already_captured", "Already captured")
AUTHORIZATION_VOIDED: Final = Decline("authorization_voided", "The authorization was voided")
AUTHORIZATION_EXPIRED: Final = Decline("authorization_expired", "The authorization has expired")
AMOUNT_TOO_LARGE: Final = Decline("amount_too_large", "More than what is left")
AMOUNT_MISMATCH: Final = Decline("amount_mismatch", "A void is for the whole authorized amount")
NOT_CAPTURED: Final = Decline("not_captured", "Nothing was captured")
REFUND_DECLINED: Final = Decline("refund_declined", "Refund declined")

DECLINED_REFUND_ENDING: Final = 13
"""A refund whose amount in minor units ends in these two digits is declined, so that tests can have one."""


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision of the acquirer, as the journal keeps it.

    Of the card it knows the brand and the last four digits; the body is only there as a salted fingerprint.
    The fields from `kind` on are younger than the first journals, so each has a default.
    """

    id: str
    attempt: str
    reference: str
    status: Literal["approved", "declined"]
    amount_minor: int
    currency: str
    brand: str
    last4: str
    salt: str
    fingerprint: str
    at: str
    decline_code: str | None = None
    reason: str | None = None
    retryable: bool = False
    kind: Kind = Kind.CHARGE
    charge: str | None = None
    """The charge that a capture, void or refund was asked for, as the client named it."""
    authorized_until: str | None = None

    @property
    def approved(self) -> bool:
        """Whether what was asked for was done."""
        return self.status == "approved"

    @property
    def is_effect(self) -> bool:
        """Whether money moved."""
        return self.approved and self.kind.moves_money

    @property
    def belongs_to(self) -> str:
        """The id of the charge whose money this is about: its own, or the one that it follows."""
        return self.charge or self.id

    def answers(self, kind: Kind, body: bytes) -> bool:
        """Whether this decision was made for exactly this request."""
        return self.kind is kind and hmac.compare_digest(fingerprint(body, self.salt), self.fingerprint)

    def view(self) -> dict[str, object]:
        """The decision as the engine sees it."""
        if not self.approved:
            return {
                "id": self.id,
                "attempt": self.attempt,
                "status": self.status,
                "decline_code": self.decline_code,
                "reason": self.reason,
                "retryable": self.retryable,
            }
        view: dict[str, object] = {
            "id": self.id,
            "attempt": self.attempt,
            "status": self.status,
            "amount_minor": self.amount_minor,
            "currency": self.currency,
        }
        return view if self.authorized_until is None else {**view, "authorized_until": self.authorized_until}


class Transaction(msgspec.Struct, frozen=True):
    """A charge or an authorization, and what became of its money since; a change returns a new one."""

    opening: Decision
    captured_minor: int = 0
    refunded_minor: int = 0
    voided: bool = False

    def after(self, decision: Decision) -> Transaction:
        """With one more decision about this money; a declined one changes nothing.

        It does not judge: what the journal says has happened, whether or not the rules of today allow it.
        """
        if not decision.approved:
            return self
        match decision.kind:
            case Kind.CHARGE | Kind.CAPTURE:
                return msgspec.structs.replace(self, captured_minor=self.captured_minor + decision.amount_minor)
            case Kind.REFUND:
                return msgspec.structs.replace(self, refunded_minor=self.refunded_minor + decision.amount_minor)
            case Kind.VOID:
                return msgspec.structs.replace(self, voided=True)
            case Kind.AUTHORIZE:
                return self
            case _:
                assert_never(decision.kind)

    def objection(self, kind: FollowUpKind, amount_minor: int, now: datetime) -> Decline | None:
        """Why this may not be done, or None when it may."""
        if not self.opening.approved:
            return CHARGE_DECLINED
        match kind:
            case Kind.CAPTURE:
                return self._objection_to_capture(amount_minor, now)
            case Kind.VOID:
                return self._objection_to_void(amount_minor)
            case Kind.REFUND:
                return self._objection_to_refund(amount_minor)
            case _:
                assert_never(kind)

    def _objection_to_capture(self, amount_minor: int, now: datetime) -> Decline | None:
        until = self.opening.authorized_until
        if self.captured_minor:
            return ALREADY_CAPTURED
        if self.voided:
            return AUTHORIZATION_VOIDED
        if until is not None and now >= datetime.fromisoformat(until):
            return AUTHORIZATION_EXPIRED
        return AMOUNT_TOO_LARGE if amount_minor > self.opening.amount_minor else None

    def _objection_to_void(self, amount_minor: int) -> Decline | None:
        # An expired authorization may be voided: its hold is gone already, and a client may well want to be sure.
        if self.captured_minor:
            return ALREADY_CAPTURED
        if self.voided:
            return AUTHORIZATION_VOIDED
        return AMOUNT_MISMATCH if amount_minor != self.opening.amount_minor else None

    def _objection_to_refund(self, amount_minor: int) -> Decline | None:
        if not self.captured_minor:
            return NOT_CAPTURED
        if self.refunded_minor + amount_minor > self.captured_minor:
            return AMOUNT_TOO_LARGE
        return REFUND_DECLINED if amount_minor % 100 == DECLINED_REFUND_ENDING else None


def new_salt() -> str:
    """Fresh salt for one fingerprint."""
    return secrets.token_hex(16)


def fingerprint(body: bytes, salt: str) -> str:
    """Tells equal bodies from others without keeping them."""
    return blake2b(body, key=salt.encode(), digest_size=16).hexdigest()
