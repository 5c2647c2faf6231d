"""The acquirer's books: what became of every attempt and every charge, and each effect on money. No HTTP here."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from simulators.charges import Decision, Kind, Transaction

STATEMENT_COLUMNS = ("attempt", "reference", "kind", "amount_minor", "currency", "id", "at")


class Books:
    """Everything the acquirer knows; it only ever grows, and never merges two effects into one."""

    def __init__(self, decisions: Sequence[Decision] = ()) -> None:
        self._by_attempt: dict[str, Decision] = {}
        self._by_path: dict[tuple[str, str], Decision] = {}
        self._transactions: dict[str, Transaction] = {}
        self._effects: list[Decision] = []
        for decision in decisions:
            self.add(decision)

    def add(self, decision: Decision) -> None:
        """Take in one decision; an effect is one more effect, even for an attempt that had one."""
        self._by_attempt[decision.attempt] = decision
        self._by_path[decision.kind.path, decision.attempt] = decision
        opened = Transaction(decision) if decision.charge is None else self._transactions.get(decision.charge)
        # None when somebody asked for a charge that does not exist: kept as an answer, but about no money.
        if opened is not None:
            self._transactions[decision.belongs_to] = opened.after(decision)
        if decision.is_effect:
            self._effects.append(decision)

    def find(self, attempt: str) -> Decision | None:
        """The newest decision about an attempt, whatever was asked."""
        return self._by_attempt.get(attempt)

    def find_at(self, path: str, attempt: str) -> Decision | None:
        """The newest decision about an attempt that was asked for at this path."""
        return self._by_path.get((path, attempt))

    def transaction(self, charge: str) -> Transaction | None:
        """A charge or authorization by its id; the ids of captures, voids and refunds are not among them."""
        return self._transactions.get(charge)

    def effects(self, after: int) -> list[dict[str, object]]:
        """Every effect on money with a number above `after`; numbers start at 1 and have no gaps."""
        return [
            {
                "seq": seq,
                "attempt": effect.attempt,
                "reference": effect.reference,
                "kind": effect.kind,
                "charge": effect.belongs_to,
                "amount_minor": effect.amount_minor,
                "currency": effect.currency,
                "id": effect.id,
                "at": effect.at,
            }
            for seq, effect in enumerate(self._effects[after:], start=after + 1)
        ]

    def statement(self, since: datetime | None, until: datetime | None) -> str:
        """The effects as CSV, in the order in which they happened: from `since` on, and before `until`."""
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(STATEMENT_COLUMNS)
        for effect in self._effects:
            at = datetime.fromisoformat(effect.at)
            if (since is None or since <= at) and (until is None or at < until):
                writer.writerow(getattr(effect, column) for column in STATEMENT_COLUMNS)
        return written.getvalue()

    def summary(self) -> dict[str, object]:
        """Counts, sums by currency (refunds taken off), and who was charged more than once."""
        sums: Counter[str] = Counter()
        for effect in self._effects:
            sums[effect.currency] += -effect.amount_minor if effect.kind is Kind.REFUND else effect.amount_minor
        approved = sum(decision.approved for decision in self._by_attempt.values())
        return {
            "effects": len(self._effects),
            "amount_minor_by_currency": dict(sums),
            "attempts_seen": len(self._by_attempt),
            "attempts_approved": approved,
            "attempts_declined": len(self._by_attempt) - approved,
            "attempts_with_more_than_one_effect": _repeated(effect.attempt for effect in self._effects),
            # A payment may well be refunded in parts; paid it is once.
            "references_with_more_than_one_effect": _repeated(
                effect.reference for effect in self._effects if effect.kind is not Kind.REFUND
            ),
        }


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, times in Counter(names).items() if times > 1)
