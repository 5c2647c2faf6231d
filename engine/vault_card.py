"""Stored cards: what is kept of one, how its number is known again, and what may be done with its balance.

Pure rules. The number is only ever there sealed; the CVV is checked for its form on the way in and never kept.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from engine.cards import Pan, parse_expiry
from engine.errors import PaymentMethodRefused
from engine.ledger import Transaction, transfer
from engine.money import Money

ACQUIRER: Final = "vault"
"""Who charges stored cards for other surfaces; its account is a clearing account, and 0 when all is at rest."""

_FUNDING: Final = "funding:vault"
_DIGITS: Final = re.compile(r"[0-9]{13,19}\Z")
_CVV: Final = re.compile(r"[0-9]{3}\Z")
_EXPIRY: Final = re.compile(r"([0-9]{2})/([0-9]{2})\Z|([0-9]{2})/(2[0-9]{3})\Z|([0-9]{2})([0-9]{2})\Z")
_EXPIRY_ISO: Final = re.compile(r"(2[0-9]{3})-([0-9]{2})\Z")


class StoredCard(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={
        "version": "v",
        "user_id": "user",
        "balance_minor": "minor",
        "expiry_month": "month",
        "expiry_year": "year",
        "created_ms": "created",
        "deleted_ms": "deleted",
    },
):
    """The record of one card. `version` stands first: the store's compare-and-set reads it there.

    A deleted card keeps its id, owner and balance, so that the ledger stays whole and a late refund has a place;
    its number, its holder's name and its claim on the number are gone.
    """

    version: int
    id: str
    user_id: str
    balance_minor: int
    currency: str
    brand: str
    last4: str
    expiry_month: int
    expiry_year: int
    created_ms: int
    holder: str = ""
    sealed: bytes = b""
    """The number."""
    mark: str = ""
    """The number's keyed fingerprint, under which it is claimed."""
    open: tuple[str, ...] = ()
    """Payments of other surfaces that may still be charged to it."""
    deleted_ms: int = 0

    @property
    def balance(self) -> Money:
        """What may be spent."""
        return Money(self.balance_minor, self.currency)

    @property
    def masked(self) -> str:
        """The number as anybody may see it."""
        return masked(self.last4)

    @property
    def expiry(self) -> str:
        """The end as it stands on the card."""
        return expiry_text(self.expiry_month, self.expiry_year)

    def expired(self, today: tuple[int, int]) -> bool:
        """Whether its last month is over; `today` is (year, month)."""
        return (self.expiry_year, self.expiry_month) < today

    def moved(self, minor: int) -> StoredCard:
        """With so much more, or less, on it."""
        balance_minor = self.balance_minor + minor
        assert balance_minor >= 0, "a debit is only made when the balance covers it"
        return self._next(balance_minor=balance_minor)

    def opened(self, payment_id: str) -> StoredCard:
        """With a payment that is to be charged to it."""
        return self._next(open=(*self.open, payment_id))

    def closed(self, *payment_ids: str) -> StoredCard:
        """Without payments of which nothing more is to come."""
        return self._next(open=tuple(each for each in self.open if each not in payment_ids))

    def resealed(self, sealed: bytes) -> StoredCard:
        """With its number under another key."""
        return self._next(sealed=sealed)

    def deleted(self, *, now_ms: int) -> StoredCard:
        """What is left of a card that its owner has deleted."""
        return self._next(holder="", sealed=b"", mark="", open=(), deleted_ms=now_ms)

    def _next(self, **changes: object) -> StoredCard:
        return msgspec.structs.replace(self, version=self.version + 1, **changes)


class CardMarks:
    """Fingerprints of card numbers under one secret, which must stay the same as long as cards are stored."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(self, pan: Pan) -> str:
        """Equal for equal numbers, and telling nothing of the number without the secret."""
        digest = hashlib.blake2b(pan.reveal().encode(), digest_size=16, key=self._secret, person=b"stored card")
        return digest.hexdigest()


def masked(last4: str) -> str:
    """A number of which only its end is known."""
    return f"************{last4}"


def expiry_text(month: int, year: int) -> str:
    """`12/27`."""
    return f"{month:02d}/{year % 100:02d}"


def account_of(card_id: str) -> str:
    """The card's account in the ledger: what we owe its holder, so a balance of 5 is -5 there."""
    return f"acquirer:{card_id}"


def funding_of(card: StoredCard) -> Transaction | None:
    """The rows of the money that a card is added with."""
    if not card.balance_minor:
        return None
    return transfer(
        f"{card.id}-funding", card.balance, debit=_FUNDING, credit=account_of(card.id), at_ms=card.created_ms
    )


def movement(move_id: str, card: StoredCard, minor: int, *, at_ms: int) -> Transaction | None:
    """The rows of money that another surface's payment takes from a card, or (below 0) gives back to it."""
    if not minor:
        return None
    card_account, clearing = account_of(card.id), f"acquirer:{ACQUIRER}"
    debit, credit = (card_account, clearing) if minor > 0 else (clearing, card_account)
    return transfer(move_id, Money(abs(minor), card.currency), debit=debit, credit=credit, at_ms=at_ms)


def parse_number(text: str) -> Pan:
    """A card number: 13 to 19 digits that pass Luhn's check. Raises `PaymentMethodRefused` without quoting it."""
    if not _DIGITS.match(text):
        raise PaymentMethodRefused("cardNumber must be 13 to 19 digits", field="cardNumber")
    try:
        return Pan(text)
    except PaymentMethodRefused:
        raise PaymentMethodRefused("cardNumber is not a card number", field="cardNumber") from None


def check_cvv(text: str) -> None:
    """Raises `PaymentMethodRefused` unless it is three digits. It is looked at here and nowhere else."""
    if not _CVV.match(text):
        raise PaymentMethodRefused("cvv must be exactly 3 digits", field="cvv")


def parse_expire_date(text: str, *, today: tuple[int, int]) -> tuple[int, int]:
    """Month and year of `12/27`, `12/2027`, `1227` or `2027-12`. Raises `PaymentMethodRefused`."""
    if iso := _EXPIRY_ISO.match(text):
        year, month = iso.groups()
    elif plain := _EXPIRY.match(text):
        month, year = (group for group in plain.groups() if group is not None)
        year = year if len(year) == 4 else f"20{year}"
    else:
        raise PaymentMethodRefused("expireDate must be like 12/27, 12/2027, 1227 or 2027-12", field="expireDate")
    try:
        last_month, last_year = parse_expiry(month, year)
    except PaymentMethodRefused:
        raise PaymentMethodRefused("expireDate names no month of a year", field="expireDate") from None
    if (last_year, last_month) < today:
        raise PaymentMethodRefused("the card has expired", field="expireDate")
    return last_month, last_year
