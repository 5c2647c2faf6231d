"""Money: exact, bounded, and of one currency."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import AmountRefused
from engine.money import AMOUNT_MINOR_MAX, DECIMALS, Money, parse_amount

CURRENCIES = st.sampled_from(sorted(DECIMALS))
AMOUNTS_MINOR = st.integers(1, AMOUNT_MINOR_MAX) | st.sampled_from([1, 9, 10, 99, 100, 101, AMOUNT_MINOR_MAX])


def test_amounts_of_every_currency_survive_being_written_and_read() -> None:
    for currency in DECIMALS:
        for minor in (1, 10, 100, 1001, 7548, 10_000, AMOUNT_MINOR_MAX):
            assert parse_amount(Money(minor, currency).text, currency) == Money(minor, currency)


@given(AMOUNTS_MINOR, CURRENCIES)
def test_any_amount_survives_being_written_and_read(minor: int, currency: str) -> None:
    money = Money(minor, currency)
    read = parse_amount(money.text, currency)
    assert read == money and type(read.minor) is int
    assert json.loads(money.text, parse_float=Decimal, parse_int=Decimal) == Decimal(minor).scaleb(-DECIMALS[currency])


@given(
    digits=st.text("0123456789", min_size=1, max_size=18).map(lambda text: text.lstrip("0") or "0"),
    decimals=st.text("0123456789", max_size=12),
    exponent=st.integers(-14, 14) | st.none(),
    currency=CURRENCIES,
)
def test_a_number_is_taken_exactly_or_not_at_all(
    digits: str, decimals: str, exponent: int | None, currency: str
) -> None:
    """Held against fractions, which cannot round."""
    text = digits + (f".{decimals}" if decimals else "") + ("" if exponent is None else f"e{exponent}")
    minor = Fraction(text) * 10 ** DECIMALS[currency]
    if minor.denominator == 1 and 1 <= minor <= AMOUNT_MINOR_MAX and len(text) <= 40:
        assert parse_amount(text, currency) == Money(int(minor), currency)
    else:
        with pytest.raises(AmountRefused):
            parse_amount(text, currency)


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("75.48", "USD", 7548),
        ("75.480", "USD", 7548),
        ("75.4800000000000000000000000000000000000", "USD", 7548),
        ("7.548e1", "USD", 7548),
        ("7548E-2", "USD", 7548),
        ("75480e-3", "USD", 7548),
        ("1e2", "USD", 10_000),
        ("1e+2", "JPY", 100),
        ("100.00", "JPY", 100),
        ("0.001", "KWD", 1),
        ("1.5", "KWD", 1500),
        ("0.0001", "CLF", 1),
        # Through a float this would be 4.35 * 100 = 434.99999999999994.
        ("4.35", "USD", 435),
        ("9999999999.99", "USD", 999_999_999_999),
    ],
)
def test_amounts_are_whole_minor_units_whatever_their_spelling(text: str, currency: str, minor: int) -> None:
    assert parse_amount(text, currency) == Money(minor, currency)


@pytest.mark.parametrize(
    ("text", "currency"),
    [("75.481", "USD"), ("0.001", "USD"), ("1.5", "JPY"), ("1e-1", "JPY"), ("1.2345", "KWD"), ("1.23456", "CLF")],
)
def test_more_decimals_than_the_currency_has_are_refused_and_not_rounded(text: str, currency: str) -> None:
    with pytest.raises(AmountRefused, match="more decimals"):
        parse_amount(text, currency)


@pytest.mark.parametrize(
    "text",
    ["1e400", "1e999999999", "1e99999999999999999999", "1E+21", "9" * 40, "1" + "0" * 39, "0", "0.00", "-0", "-1",
     "-75.48", "-1e999999999", "0e999999999", "1e-400", "1e-999999999", "0." + "0" * 37 + "1"],
)  # fmt: skip
def test_amounts_out_of_all_bounds_are_refused_at_once(text: str) -> None:
    """A number of a billion digits must not be computed first."""
    with pytest.raises(AmountRefused):
        parse_amount(text, "USD")


def test_forty_characters_are_read_and_one_more_is_not() -> None:
    assert parse_amount("75.48" + "0" * 35, "USD") == Money(7548, "USD")
    with pytest.raises(AmountRefused, match="40 characters"):
        parse_amount("75.48" + "0" * 36, "USD")


@pytest.mark.parametrize("currency", ["USD", "JPY", "KWD", "CLF"])
def test_the_largest_amount_is_taken_and_one_more_is_not(currency: str) -> None:
    largest = Money(AMOUNT_MINOR_MAX, currency)
    assert parse_amount(largest.text, currency) == largest
    with pytest.raises(AmountRefused, match="at most"):
        parse_amount(Money(AMOUNT_MINOR_MAX + 1, currency).text, currency)


@pytest.mark.parametrize(
    "text",
    ["", " ", "abc", '"75.48"', "true", "null", "{}", "[1]", "NaN", "-NaN", "-sNaN1", "Infinity", "-Infinity", "+1",
     ".5", "1.", "01", "00.5", "1_000", "1,5", "1 ", " 1", "1\n", "1e", "1e+", "0x10", "--1", "-", "٧٥", "7٥", "１"],
)  # fmt: skip
def test_what_is_no_json_number_is_no_amount(text: str) -> None:
    """Decimal itself would take underscores, blanks, other scripts' digits and NaN."""
    with pytest.raises(AmountRefused):
        parse_amount(text, "USD")


@given(st.text(max_size=45))
def test_no_text_at_all_breaks_the_reading(text: str) -> None:
    try:
        money = parse_amount(text, "USD")
    except AmountRefused:
        return
    assert 1 <= money.minor <= AMOUNT_MINOR_MAX and Decimal(text) == Decimal(money.text)


@pytest.mark.parametrize("currency", ["", "usd", "US", "USDX", "XXX", "BTC", "U$D"])
def test_a_code_that_is_not_iso_4217_is_refused_by_field(currency: str) -> None:
    with pytest.raises(AmountRefused) as read:
        parse_amount("1", currency)
    with pytest.raises(AmountRefused) as made:
        Money(1, currency)
    for refused in (read.value, made.value):
        assert refused.details == {"field": "currency"} and refused.code == "INVALID_AMOUNT"


@pytest.mark.parametrize(
    ("currency", "decimals"), [("JPY", 0), ("KRW", 0), ("USD", 2), ("KES", 2), ("KWD", 3), ("CLF", 4)]
)
def test_currencies_have_the_decimals_of_iso_4217(currency: str, decimals: int) -> None:
    assert DECIMALS[currency] == decimals


@pytest.mark.parametrize("minor", [True, False, 75.48, 7548.0, Decimal(7548), "7548", None])
def test_only_a_whole_number_is_money(minor: Any) -> None:
    with pytest.raises(TypeError):
        Money(minor, "USD")


@pytest.mark.parametrize("text", [b'[75.48,"USD"]', b'[true,"USD"]', b'["7548","USD"]', b"[7548]", b'{"minor":1}'])
def test_a_record_with_other_money_is_not_read(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Money)


def test_money_is_added_and_subtracted_within_its_currency() -> None:
    assert Money(7548, "USD") + Money(2, "USD") == Money(7550, "USD")
    assert Money(1, "USD") - Money(2, "USD") == Money(-1, "USD")


def test_two_currencies_are_never_combined() -> None:
    with pytest.raises(ValueError, match="USD with EUR"):
        Money(1, "USD") + Money(1, "EUR")
    with pytest.raises(ValueError, match="USD with EUR"):
        Money(1, "USD") - Money(1, "EUR")
    assert Money(1, "USD") != Money(1, "EUR")


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(0, "USD", "0.00"), (5, "USD", "0.05"), (-5, "USD", "-0.05"), (-7548, "USD", "-75.48"), (0, "JPY", "0"),
     (-7, "JPY", "-7"), (7, "KWD", "0.007"), (12345, "CLF", "1.2345"), (100, "USD", "1.00")],
)  # fmt: skip
def test_the_text_has_the_decimals_of_the_currency(minor: int, currency: str, text: str) -> None:
    money = Money(minor, currency)
    assert money.text == text and str(money) == f"{text} {currency}"


def test_money_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Money(1, "USD").minor = 2  # type: ignore[misc]
