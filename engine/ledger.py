"""Double-entry rows. Each transaction sums to zero; a balance is the sum of its rows and nothing else."""

from __future__ import annotations

import msgspec

from engine.money import Money
from engine.payment import Payment, Refund


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One leg: debit is positive, credit negative, in minor units."""

    account: str
    currency: str
    minor: int


class Transaction(msgspec.Struct, frozen=True, array_like=True):
    """Rows that belong together. The id is unique and made from the payment's."""

    id: str
    at_ms: int
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        sums: dict[str, int] = {}
        for row in self.rows:
            sums[row.currency] = sums.get(row.currency, 0) + row.minor
        if any(sums.values()):
            raise ValueError(f"ledger transaction {self.id} does not sum to zero: {sums}")


def transfer(transaction_id: str, amount: Money, *, debit: str, credit: str, at_ms: int) -> Transaction:
    """Move `amount` from the credited to the debited account."""
    rows = (Row(debit, amount.currency, amount.minor), Row(credit, amount.currency, -amount.minor))
    return Transaction(transaction_id, at_ms, rows)


def capture_of(payment: Payment) -> Transaction:
    """The acquirer owes us what it took; we owe it to the merchant of the surface."""
    return transfer(
        f"{payment.id}-capture",
        Money(payment.captured_minor, payment.amount.currency),
        debit=acquirer_account(payment),
        credit=f"merchant:{payment.surface}",
        at_ms=payment.ended_ms,
    )


def refund_of(payment: Payment, refund: Refund) -> Transaction:
    """The capture, backwards, for what went back."""
    return transfer(
        refund.id,
        Money(refund.minor, payment.amount.currency),
        debit=f"merchant:{payment.surface}",
        credit=acquirer_account(payment),
        at_ms=refund.ended_ms,
    )


def acquirer_account(payment: Payment) -> str:
    """The account of the acquirer that made the latest attempt, or of the rail that settles the payment outside."""
    return f"acquirer:{payment.rail or payment.attempts[-1].acquirer}"
