"""The ledger: what goes in one place comes out of another."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ledger import Row, Transaction, capture_of, transfer
from engine.money import Money
from tests.engine.making import NOW_MS, begun

ROWS = st.lists(st.builds(Row, st.sampled_from("abc"), st.sampled_from(["USD", "EUR"]), st.integers(-9, 9)), max_size=6)


@given(ROWS)
def test_a_transaction_exists_exactly_when_each_currency_sums_to_zero(rows: list[Row]) -> None:
    balanced = all(sum(row.minor for row in rows if row.currency == code) == 0 for code in ("USD", "EUR"))
    if balanced:
        assert Transaction("t", 1, tuple(rows)).rows == tuple(rows)
    else:
        with pytest.raises(ValueError, match="does not sum to zero"):
            Transaction("t", 1, tuple(rows))


def test_currencies_do_not_balance_each_other() -> None:
    with pytest.raises(ValueError, match="t-1 does not sum to zero"):
        Transaction("t-1", 1, (Row("a", "USD", 5), Row("b", "EUR", -5)))


def test_an_unbalanced_transaction_is_not_read_back_either() -> None:
    with pytest.raises(msgspec.ValidationError, match="does not sum to zero"):
        msgspec.json.decode(b'["t",1,[["a","USD",5],["b","USD",-4]]]', type=Transaction)


@given(st.integers(1, 10**12))
def test_a_transfer_moves_the_amount_from_credit_to_debit(minor: int) -> None:
    moved = transfer("t", Money(minor, "KWD"), debit="to", credit="from", at_ms=7)
    assert moved == Transaction("t", 7, (Row("to", "KWD", minor), Row("from", "KWD", -minor)))
    assert msgspec.json.decode(msgspec.json.encode(moved), type=Transaction) == moved


def test_a_capture_is_owed_by_the_acquirer_and_owed_to_the_merchant() -> None:
    payment = begun().charged("txn-1", now_ms=NOW_MS + 9)
    assert capture_of(payment) == Transaction(
        f"{payment.id}-capture",
        NOW_MS + 9,
        (Row("acquirer:bank", "USD", 7548), Row("merchant:core", "USD", -7548)),
    )
