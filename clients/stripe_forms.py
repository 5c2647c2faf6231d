"""What is sent to Stripe: form bodies, and amounts in the units that Stripe counts in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, urlencode

from engine.cards import Card
from engine.facts import Kind
from engine.ids import PaymentId
from engine.money import DECIMALS, Money

Fields = Iterable[tuple[str, str | int]]

# https://docs.stripe.com/currencies, as far as it differs from ISO 4217.
_ZERO_DECIMALS: Final = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF".split()  # noqa: SIM905
"""Counted in whole units. Of these only the ariary (MGA) has decimals in ISO 4217, and so here."""
_POWERS: Final = (1, 10, 100, 1000, 10_000)
_WHOLE_IN_HUNDREDTHS: Final = frozenset({"ISK", "UGX"})
"""No decimals in ISO 4217, yet Stripe counts hundredths, which must be whole units. Its list of zero-decimal
currencies names UGX too, but what it does is this: 5 UGX are 500.
"""
_THREE_DECIMALS: Final = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
"""Counted in thousandths of which the last digit must be 0."""


class NotRepresentable(Exception):
    """Stripe has no number for this amount. It is not rounded: that would be another amount."""


def stripe_units(amount: Money) -> int:
    """The amount as Stripe counts it. Raises `NotRepresentable`."""
    currency, decimals = amount.currency, DECIMALS[amount.currency]
    if currency in _WHOLE_IN_HUNDREDTHS:
        return amount.minor * 100
    if currency in _ZERO_DECIMALS:
        units, rest = divmod(amount.minor, _POWERS[decimals])
    elif currency in _THREE_DECIMALS:
        units, rest = amount.minor, amount.minor % 10
    elif decimals == 2:
        units, rest = amount.minor, 0
    else:
        raise NotRepresentable(f"Stripe does not say how it counts {currency}")
    if rest:
        raise NotRepresentable(f"Stripe cannot take {amount}")
    return units


def encode_form(fields: Fields) -> bytes:
    """`application/x-www-form-urlencoded`, pure ASCII."""
    return urlencode([(name, str(value)) for name, value in fields], quote_via=quote, safe="").encode("ascii")


def intent_form(kind: Kind, attempt_id: str, payment_id: PaymentId, amount: Money) -> bytes:
    """A new intent. Nothing of the card is in it, so that the very same form can be sent again to ask.

    Do not change it lightly: while an attempt is open, another form under its key is refused.
    """
    return encode_form(
        (
            ("amount", stripe_units(amount)),
            ("currency", amount.currency.lower()),
            ("payment_method_types[]", "card"),
            ("capture_method", "manual" if kind is Kind.AUTHORIZE else "automatic"),
            ("metadata[attempt_id]", attempt_id),
            ("metadata[payment_id]", payment_id),
        )
    )


def confirm_form(card: Card) -> bytes:
    """Charge this card. What would need its owner before a browser fails, instead of waiting for one."""
    fields: list[tuple[str, str | int]] = [
        ("payment_method_data[type]", "card"),
        ("payment_method_data[card][number]", card.pan.reveal()),
        ("payment_method_data[card][exp_month]", card.expiry_month),
        ("payment_method_data[card][exp_year]", card.expiry_year),
    ]
    if card.cvv is not None:
        fields.append(("payment_method_data[card][cvc]", card.cvv.reveal()))
    return encode_form([*fields, ("error_on_requires_action", "true"), ("expand[]", "latest_charge")])


def capture_form(amount: Money) -> bytes:
    """Take so much of what is authorized; Stripe releases the rest."""
    return encode_form((("amount_to_capture", stripe_units(amount)),))


def refund_form(intent_id: str, attempt_id: str, payment_id: PaymentId, amount: Money) -> bytes:
    """Give so much back."""
    return encode_form(
        (
            ("payment_intent", intent_id),
            ("amount", stripe_units(amount)),
            ("metadata[attempt_id]", attempt_id),
            ("metadata[payment_id]", payment_id),
        )
    )
