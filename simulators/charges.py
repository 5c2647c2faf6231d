"""The acquirer's books: what became of every attempt, and every effect on money. No HTTP here."""

from __future__ import annotations

import hmac
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Literal

import msgspec


class Charge(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision of the acquirer, as the journal keeps it.

    Of the card it knows the brand and the last four digits; the body is only there as a salted fingerprint.
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

    @property
    def approved(self) -> bool:
        """Whether money moved."""
        return self.status == "approved"

    def answers(self, body: bytes) -> bool:
        """Whether this charge was made for exactly this body."""
        return hmac.compare_digest(fingerprint(body, self.salt), self.fingerprint)

    def view(self) -> dict[str, object]:
        """The charge as the engine sees it."""
        if self.approved:
            return {
                "id": self.id,
                "attempt": self.attempt,
                "status": self.status,
                "amount_minor": self.amount_minor,
                "currency": self.currency,
            }
        return {
            "id": self.id,
            "attempt": self.attempt,
            "status": self.status,
            "decline_code": self.decline_code,
            "reason": self.reason,
            "retryable": self.retryable,
        }


def new_salt() -> str:
    """Fresh salt for one fingerprint."""
    return secrets.token_hex(16)


def fingerprint(body: bytes, salt: str) -> str:
    """Tells equal bodies from others without keeping them."""
    return blake2b(body, key=salt.encode(), digest_size=16).hexdigest()


class Books:
    """Everything the acquirer knows; it only ever grows, and never merges two effects into one."""

    def __init__(self, charges: Sequence[Charge] = ()) -> None:
        self._by_attempt: dict[str, Charge] = {}
        self._effects: list[Charge] = []
        for charge in charges:
            self.add(charge)

    def add(self, charge: Charge) -> None:
        """Take in one decision; an approved one is one more effect, even for an attempt that had one."""
        self._by_attempt[charge.attempt] = charge
        if charge.approved:
            self._effects.append(charge)

    def find(self, attempt: str) -> Charge | None:
        """The newest decision about an attempt."""
        return self._by_attempt.get(attempt)

    def effects(self, after: int) -> list[dict[str, object]]:
        """Every effect on money with a number above `after`; numbers start at 1 and have no gaps."""
        return [
            {
                "seq": seq,
                "attempt": charge.attempt,
                "reference": charge.reference,
                "kind": "charge",
                "amount_minor": charge.amount_minor,
                "currency": charge.currency,
                "id": charge.id,
                "at": charge.at,
            }
            for seq, charge in enumerate(self._effects[after:], start=after + 1)
        ]

    def summary(self) -> dict[str, object]:
        """Counts, sums by currency, and who was charged more than once."""
        sums: Counter[str] = Counter()
        for charge in self._effects:
            sums[charge.currency] += charge.amount_minor
        approved = sum(charge.approved for charge in self._by_attempt.values())
        return {
            "effects": len(self._effects),
            "amount_minor_by_currency": dict(sums),
            "attempts_seen": len(self._by_attempt),
            "attempts_approved": approved,
            "attempts_declined": len(self._by_attempt) - approved,
            "attempts_with_more_than_one_effect": _repeated(charge.attempt for charge in self._effects),
            "references_with_more_than_one_effect": _repeated(charge.reference for charge in self._effects),
        }


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, times in Counter(names).items() if times > 1)
