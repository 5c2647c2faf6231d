"""Daraja's books: every push that was taken, what became of it, and the money. No HTTP here."""

from __future__ import annotations

from collections import Counter

import msgspec

from simulators.daraja_forms import Wish
from simulators.daraja_phones import PAID

CURRENCY = "KES"
MINOR_PER_SHILLING = 100


class Result(msgspec.Struct, frozen=True):
    """What the payer decided; with a receipt if money moved."""

    code: int
    description: str
    at: str
    receipt: str | None = None


class Push(msgspec.Struct, frozen=True):
    """A push that was taken, whatever its sender heard."""

    checkout: str
    merchant_request: str
    wish: Wish
    at: str


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the journal: a push, or the result of an earlier one."""

    checkout: str
    push: Push | None = None
    result: Result | None = None


class Books:
    """Everything Daraja knows; it only ever grows."""

    def __init__(self, entries: list[Entry] | None = None) -> None:
        self._pushes: dict[str, Push] = {}
        self._results: dict[str, Result] = {}
        self._taken: list[str] = []
        for entry in entries or ():
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Take in one entry. A result is the first and the last of its push."""
        if entry.push is not None:
            self._pushes[entry.checkout] = entry.push
        if entry.result is not None:
            self._results[entry.checkout] = entry.result
            if entry.result.code == PAID:
                self._taken.append(entry.checkout)

    def push(self, checkout: str) -> Push | None:
        """The push of this name."""
        return self._pushes.get(checkout)

    def result(self, checkout: str) -> Result | None:
        """What became of a push; None as long as its payer has not decided."""
        return self._results.get(checkout)

    @property
    def open_count(self) -> int:
        """How many payers have not decided."""
        return len(self._pushes) - len(self._results)

    def open(self) -> list[Push]:
        """The pushes whose payers have not decided."""
        return [push for checkout, push in self._pushes.items() if checkout not in self._results]

    def effects(self, after: int) -> list[dict[str, object]]:
        """The money that was taken, numbered from 1 without gaps; those with a number above `after`."""
        found = []
        for seq, checkout in enumerate(self._taken[after:], start=after + 1):
            push, result = self._pushes[checkout], self._results[checkout]
            found.append(
                {
                    "seq": seq,
                    "checkout": checkout,
                    "reference": push.wish.reference,
                    "kind": "charge",
                    "phone": push.wish.phone,
                    "amount_minor": push.wish.amount * MINOR_PER_SHILLING,
                    "currency": CURRENCY,
                    "id": result.receipt,
                    "at": result.at,
                }
            )
        return found

    def pushes(self, after: int) -> list[dict[str, object]]:
        """Every push that was taken, numbered from 1 without gaps; those with a number above `after`."""
        return [
            {
                "seq": seq,
                "checkout": push.checkout,
                "merchant_request": push.merchant_request,
                "reference": push.wish.reference,
                "description": push.wish.description,
                "phone": push.wish.phone,
                "receiver": push.wish.receiver,
                "amount_minor": push.wish.amount * MINOR_PER_SHILLING,
                "currency": CURRENCY,
                "result_code": result.code if result else None,
                "at": push.at,
            }
            for seq, push in enumerate(list(self._pushes.values())[after:], start=after + 1)
            for result in (self._results.get(push.checkout),)
        ]

    def summary(self) -> dict[str, object]:
        """Counts, the sum taken, and who was asked or charged more than once."""
        references = Counter(push.wish.reference for push in self._pushes.values())
        paid = Counter(self._pushes[checkout].wish.reference for checkout in self._taken)
        shillings = sum(self._pushes[checkout].wish.amount for checkout in self._taken)
        return {
            "pushes": len(self._pushes),
            "pushes_open": self.open_count,
            "effects": len(self._taken),
            "amount_minor_by_currency": {CURRENCY: shillings * MINOR_PER_SHILLING} if self._taken else {},
            "result_codes": {str(code): times for code, times in sorted(self._codes().items())},
            "references_with_more_than_one_push": sorted(name for name, times in references.items() if times > 1),
            "references_with_more_than_one_effect": sorted(name for name, times in paid.items() if times > 1),
        }

    def _codes(self) -> Counter[int]:
        return Counter(result.code for result in self._results.values())
