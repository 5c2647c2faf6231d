"""Form bodies and amounts: whatever goes in comes out at the other end, and no amount becomes another."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.stripe_forms import NotRepresentable, confirm_form, encode_form, intent_form, stripe_units
from engine.cards import Card, Cvv, Pan
from engine.facts import Kind
from engine.ids import PaymentId
from engine.money import AMOUNT_MINOR_MAX, DECIMALS, Money

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
MINOR = st.integers(1, AMOUNT_MINOR_MAX)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT.filter(bool), TEXT | st.integers()), max_size=10))
def test_a_form_says_what_was_put_in(fields: list[tuple[str, str | int]]) -> None:
    body = encode_form(fields)
    assert parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(fields)) == [
        (name, str(value)) for name, value in fields
    ]
    assert not any(byte <= 0x20 or byte >= 0x7F for byte in body)


@pytest.mark.parametrize(
    ("minor", "currency", "units"),
    [
        (7548, "USD", 7548), (500, "JPY", 500), (1, "KRW", 1), (1045, "HUF", 1045), (80_045, "TWD", 80_045),
        # No decimals in ISO 4217, hundredths at Stripe.
        (5, "ISK", 500), (5, "UGX", 500),
        # Two decimals in ISO 4217, none at Stripe.
        (500, "MGA", 5),
        (5120, "KWD", 5120), (10, "BHD", 10),
    ],
)  # fmt: skip
def test_amounts_are_counted_as_stripe_counts_them(minor: int, currency: str, units: int) -> None:
    assert stripe_units(Money(minor, currency)) == units


@pytest.mark.parametrize(
    ("minor", "currency"), [(501, "MGA"), (5124, "KWD"), (1, "TND"), (10, "CLF"), (10, "IQD"), (10, "UYI")]
)
def test_what_stripe_has_no_number_for_is_refused_and_not_rounded(minor: int, currency: str) -> None:
    with pytest.raises(NotRepresentable):
        stripe_units(Money(minor, currency))


@settings(deadline=None)
@given(MINOR, st.sampled_from(sorted(DECIMALS)))
def test_no_amount_changes_its_worth(minor: int, currency: str) -> None:
    """Read back by the documented number of decimals, it is the same amount of money."""
    decimals = {"ISK": 2, "UGX": 2, "MGA": 0}.get(currency, DECIMALS[currency])
    try:
        units = stripe_units(Money(minor, currency))
    except NotRepresentable:
        return
    assert units * 10 ** DECIMALS[currency] == minor * 10**decimals
    assert units > 0


@settings(deadline=None)
@given(st.sampled_from([Kind.CHARGE, Kind.AUTHORIZE]), MINOR)
def test_the_form_of_an_intent_can_be_made_again_without_the_card(kind: Kind, minor: int) -> None:
    """Stripe compares it with the first one: a single other byte, and the question is refused."""
    parts = (kind, "pay-1-a1", PaymentId("pay-1"), Money(minor, "EUR"))
    assert intent_form(*parts) == intent_form(*parts)
    assert dict(parse_qsl(intent_form(*parts).decode()))["capture_method"] == (
        "manual" if kind is Kind.AUTHORIZE else "automatic"
    )


@pytest.mark.parametrize("cvv", [None, "973"])
def test_a_card_without_its_code_is_sent_without_it(cvv: str | None) -> None:
    form = dict(parse_qsl(confirm_form(Card(Pan("4242424242424242"), 7, 2031, (cvv and Cvv(cvv)) or None)).decode()))
    assert form.get("payment_method_data[card][cvc]") == cvv
    assert (form["payment_method_data[card][exp_month]"], form["payment_method_data[card][exp_year]"]) == ("7", "2031")
    assert form["error_on_requires_action"] == "true"
