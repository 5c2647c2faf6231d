"""Money: whole minor units of an ISO 4217 currency, never a float."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from engine.errors import AmountRefused

# ISO 4217 active codes by the number of decimals in their minor unit.
_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_FOUR_DECIMALS = "CLF UYW"
_TWO_DECIMALS = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF "
    "CHW CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF "
    "IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK "
    "MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE "
    "SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
)
DECIMALS: Final[dict[str, int]] = {
    code: decimals
    for decimals, codes in ((0, _NO_DECIMALS), (2, _TWO_DECIMALS), (3, _THREE_DECIMALS), (4, _FOUR_DECIMALS))
    for code in codes.split()
}

AMOUNT_MINOR_MAX: Final = 10**12 - 1
"""The largest amount that is taken, in minor units. Ledger balances are 64-bit: nine million of these fit."""

_TEXT_MAX: Final = 40
# RFC 8259 §6. Decimal alone would also read `1_000`, `1.`, blanks, other scripts' digits and NaN.
_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z")
# What nearly every amount looks like: read without Decimal, which costs four times as much.
_PLAIN: Final = [
    re.compile(rf"(0|[1-9][0-9]{{0,12}})(?:\.([0-9]{{1,{decimals}}}))?\Z" if decimals else r"([1-9][0-9]{0,12})()\Z")
    for decimals in range(5)
]
_EXPONENT_MAX: Final = 20


class Money(msgspec.Struct, frozen=True, array_like=True):
    """An amount in minor units (`minor=7548, currency="USD"` is 75.48 dollars). May be zero or negative in a ledger."""

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.minor) is not int:
            raise TypeError(f"minor units are whole numbers, not {type(self.minor).__name__}")
        if self.currency not in DECIMALS:
            raise AmountRefused("currency is not an ISO 4217 code", field="currency")

    def __add__(self, other: Money) -> Money:
        return Money(self.minor + self._same(other), self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.minor - self._same(other), self.currency)

    def __str__(self) -> str:
        return f"{self.text} {self.currency}"

    @property
    def text(self) -> str:
        """The amount as a JSON number with the currency's decimals, for example `75.48`."""
        decimals = DECIMALS[self.currency]
        if not decimals:
            return str(self.minor)
        sign, digits = ("-", str(-self.minor)) if self.minor < 0 else ("", str(self.minor))
        digits = digits.rjust(decimals + 1, "0")
        return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"

    def _same(self, other: Money) -> int:
        if self.currency != other.currency:
            raise ValueError(f"cannot combine {self.currency} with {other.currency}")
        return other.minor


def parse_amount(text: str, currency: str) -> Money:
    """The positive amount that a JSON number's text means in this currency.

    Raises `AmountRefused` for anything that is not a number, has more decimals than the currency,
    is not above zero, or is above `AMOUNT_MINOR_MAX`.
    """
    decimals = DECIMALS.get(currency)
    if decimals is None:
        raise AmountRefused("currency is not an ISO 4217 code", field="currency")
    if plain := _PLAIN[decimals].match(text):
        whole, fraction = plain.groups("")
        amount = Money(int(whole + fraction.ljust(decimals, "0")), currency)
        if 0 < amount.minor <= AMOUNT_MINOR_MAX:
            return amount
    if len(text) > _TEXT_MAX or not _JSON_NUMBER.match(text):
        raise AmountRefused("amount must be a JSON number of at most 40 characters")
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise AmountRefused("amount has an exponent out of all bounds") from None
    # Compared before scaling: an exponent of a million would otherwise become a million digits.
    if value <= 0 or value.adjusted() > _EXPONENT_MAX:
        raise AmountRefused(f"amount must be above 0 and at most {Money(AMOUNT_MINOR_MAX, currency).text}")
    minor = _minor_units(value, decimals)
    if minor is None:
        raise AmountRefused(f"amount has more decimals than {currency} has ({decimals})")
    if minor > AMOUNT_MINOR_MAX:
        raise AmountRefused(f"amount must be above 0 and at most {Money(AMOUNT_MINOR_MAX, currency).text}")
    return Money(minor, currency)


def _minor_units(value: Decimal, decimals: int) -> int | None:
    """The whole number of minor units, exactly; None when there is a rest. Decimal's own arithmetic would round."""
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "NaN and infinity are no JSON numbers"
    whole = int("".join(map(str, digits)))
    shift = exponent + decimals
    if shift >= 0:
        return int(whole * 10**shift)
    minor, rest = divmod(whole, 10 ** min(-shift, _TEXT_MAX + 1))
    return None if rest else minor
