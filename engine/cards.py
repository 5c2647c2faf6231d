"""Cards: checked on the way in, sealed while an attempt needs them, shown as brand and last four only."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from engine.errors import PaymentMethodRefused
from engine.ids import PaymentId
from engine.phones import PhonePrompt
from engine.secret import Secret

_DIGITS: Final = re.compile(r"[0-9]{12,19}\Z")
_CVV: Final = re.compile(r"[0-9]{3,4}\Z")
_MONTH: Final = re.compile(r"(0?[1-9]|1[0-2])\Z")
_YEAR: Final = re.compile(r"2[0-9]{3}\Z")
_DIGIT: Final = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED: Final = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_NUMBER: Final = re.compile(rb"(?<![0-9A-Za-z])[0-9](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z])")
_BETWEEN: Final = re.compile(rb"[ -]")
_BRANDS: Final = (
    ("visa", re.compile(r"4")),
    ("mastercard", re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720")),
    ("amex", re.compile(r"3[47]")),
    ("discover", re.compile(r"6011|64[4-9]|65")),
    ("diners", re.compile(r"30[0-5]|3[689]")),
    ("jcb", re.compile(r"35(2[89]|[3-8])")),
    ("unionpay", re.compile(r"62")),
)


class Pan(Secret):
    """A primary account number: 12 to 19 digits that pass Luhn's check."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        if not _DIGITS.match(text) or not _luhn(text):
            raise PaymentMethodRefused("cardNumber is not a card number", field="paymentMethod.cardNumber")
        super().__init__(text)
        self._shown = 4

    @property
    def last4(self) -> str:
        """The last four digits."""
        return self._text[-4:]

    @property
    def brand(self) -> str:
        """The card scheme by the number's first digits, `unknown` if none claims them."""
        return next((brand for brand, first in _BRANDS if first.match(self._text)), "unknown")


class Cvv(Secret):
    """A card verification value: three or four digits. Never stored after the first settled attempt."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        if not _CVV.match(text):
            raise PaymentMethodRefused("cvv must be 3 or 4 digits", field="paymentMethod.cvv")
        super().__init__(text)


class WalletToken(Secret):
    """A wallet's payment token: 8 to 512 visible characters."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        if not 8 <= len(text) <= 512 or not text.isascii() or not text.isprintable() or " " in text:
            raise PaymentMethodRefused("token must be 8 to 512 visible characters", field="paymentMethod.token")
        super().__init__(text)


class VaultCard(Secret):
    """A stored card, by its id."""

    __slots__ = ()


class Card(msgspec.Struct, frozen=True):
    """A card to be charged."""

    pan: Pan
    expiry_month: int
    expiry_year: int
    cvv: Cvv | None


Instrument = Card | WalletToken | PhonePrompt | VaultCard
"""What money is taken from."""


class SealedInstrument(msgspec.Struct, frozen=True):
    """An instrument that only the sealing keys can open. The CVV is apart, because it must go earlier."""

    body: bytes
    cvv: bytes | None


class Sealer(Protocol):
    """Seals and opens instruments; a sealed instrument is bound to its payment."""

    def seal(self, payment_id: PaymentId, instrument: Instrument) -> SealedInstrument:
        """Encrypt, bound to the payment id."""
        ...

    def open(self, payment_id: PaymentId, sealed: SealedInstrument) -> Instrument:
        """Decrypt; raises `SealBroken` when the key is gone or the text was changed."""
        ...


class SealBroken(Exception):
    """A sealed instrument cannot be opened: its key is not configured, or it was tampered with."""


def parse_expiry(month: str, year: str) -> tuple[int, int]:
    """Month and year of a card's end."""
    if not _MONTH.match(month):
        raise PaymentMethodRefused("expiryMonth must be 01 to 12", field="paymentMethod.expiryMonth")
    if not _YEAR.match(year):
        raise PaymentMethodRefused("expiryYear must have four digits", field="paymentMethod.expiryYear")
    return int(month), int(year)


def expired(month: int, year: int, *, now_ms: int) -> bool:
    """Whether a card's last month is over. It is good through that month."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    return (year, month) < (now.year, now.month)


def without_numbers(text: bytes) -> bytes:
    """The text with every card number in it masked but for its last four digits, for places that must keep none."""

    def mask(found: re.Match[bytes]) -> bytes:
        digits = _BETWEEN.sub(b"", found.group())
        try:
            return b"0" * (len(digits) - 4) + Pan(digits.decode()).last4.encode()
        except PaymentMethodRefused:
            return found.group()

    return _NUMBER.sub(mask, text)


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1 annex B."""
    text = digits.encode()
    return (sum(text[-1::-2].translate(_DIGIT)) + sum(text[-2::-2].translate(_DOUBLED))) % 10 == 0
