"""Reconciliation: an acquirer's statement held against what we believe that it did."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TextIO

from engine.facts import Attempt, AttemptState, Kind
from engine.ids import from_rfc3339
from engine.payment import Payment, attempt_id

_COLUMNS: Final = ("attempt", "reference", "kind", "amount_minor", "currency", "id", "at")
_MONEY: Final = (Kind.CHARGE, Kind.CAPTURE, Kind.REFUND)
_SUCCESSES: Final = (AttemptState.APPROVED, AttemptState.LATE, AttemptState.REVERSED)


class StatementLine(NamedTuple):
    """One money effect, as the acquirer states it."""

    attempt: str
    reference: str
    kind: str
    amount_minor: int
    currency: str
    id: str
    at_ms: int


class Difference(NamedTuple):
    """Something that one side knows and the other does not, or not so."""

    what: str
    """`missing_here`, `missing_there` or `different`."""
    attempt: str
    payment_id: str
    stated: str
    believed: str
    transaction_id: str = ""
    """The acquirer's; empty when it knows of nothing."""


def read_statement(file: TextIO) -> dict[str, StatementLine]:
    """The lines by attempt. Raises `ValueError` naming the line that cannot be read, or that states one twice."""
    rows = csv.DictReader(file)
    lines: dict[str, StatementLine] = {}
    try:
        if missing := [column for column in _COLUMNS if column not in (rows.fieldnames or ())]:
            raise ValueError(f"the statement has no column {', '.join(missing)}")
        for row in rows:
            line = _line(row, rows.line_num)
            if line.attempt in lines:
                raise ValueError(f"line {rows.line_num} of the statement states {line.attempt} a second time")
            lines[line.attempt] = line
    except csv.Error:
        raise ValueError(f"line {rows.reader.line_num} of the statement cannot be read") from None
    if not lines:
        # It would match everything: a file cut off behind its head must not read as "all is well".
        raise ValueError("the statement states nothing")
    return lines


def _line(row: dict[str, str], number: int) -> StatementLine:
    try:
        return StatementLine(
            row["attempt"], row["reference"], row["kind"], int(row["amount_minor"]), row["currency"], row["id"],
            from_rfc3339(row["at"]),
        )  # fmt: skip
    except (TypeError, ValueError):
        raise ValueError(f"line {number} of the statement cannot be read") from None


class Reconciliation:
    """Feed it every payment; then `rest()` is what the statement has and we have not."""

    def __init__(self, statement: dict[str, StatementLine], acquirer: str) -> None:
        self._statement = statement
        self._open = dict(statement)
        self._acquirer = acquirer
        times = [line.at_ms for line in statement.values()]
        # What happened outside of the statement's time cannot be missing in it.
        self._period = (min(times, default=0), max(times, default=-1))
        self.matched = 0

    def payment(self, payment: Payment) -> Iterator[Difference]:
        """What differs about one payment."""
        for attempt in payment.attempts:
            if attempt.acquirer != self._acquirer or attempt.kind not in _MONEY:
                continue
            identity = attempt_id(payment, attempt)
            line = self._open.pop(identity, None)
            approved = attempt.state in _SUCCESSES
            believed = f"{attempt.kind.value} {attempt.minor or payment.amount.minor} {payment.amount.currency}"
            if line is None:
                if approved and identity not in self._statement and self._within(attempt):
                    yield Difference("missing_there", identity, payment.id, "", believed)
                continue
            stated = f"{line.kind} {line.amount_minor} {line.currency}"
            if not approved:
                believed = f"{believed}, {attempt.state.value}"
                yield Difference("missing_here", identity, payment.id, stated, believed, line.id)
            elif stated != believed:
                yield Difference("different", identity, payment.id, stated, believed, line.id)
            else:
                self.matched += 1

    def _within(self, attempt: Attempt) -> bool:
        """Whether it certainly happened in the statement's time: somewhere between its start and its end."""
        return self._period[0] <= attempt.started_ms and attempt.ended_ms <= self._period[1]

    def rest(self) -> Iterable[Difference]:
        """What no payment of ours has tried."""
        for line in self._open.values():
            stated = f"{line.kind} {line.amount_minor} {line.currency}"
            yield Difference("missing_here", line.attempt, line.reference, stated, "", line.id)
