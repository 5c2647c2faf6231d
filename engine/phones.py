"""Phone numbers that M-Pesa can ask for money: Kenyan mobile numbers, masked wherever they are shown."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from engine.errors import PaymentMethodRefused
from engine.secret import Secret

# Mobile numbers are 07… and 01… at home; `[0-9]` and not `\d`, which takes the digits of other scripts too.
_FORMS: Final = re.compile(r"(?:\+?254|0)([17][0-9]{8})\Z")


class Phone(Secret):
    """A Kenyan mobile number, however it was written: `+2547…`, `2547…`, `07…`, and the same with 1 for 7.

    `reveal` gives `2547XXXXXXXX` or `2541XXXXXXXX`, as Safaricom wants it. Raises `PaymentMethodRefused`.
    """

    __slots__ = ()

    def __init__(self, text: str) -> None:
        written = _FORMS.match(text)
        if written is None:
            raise PaymentMethodRefused(
                "phoneNumber must be a Kenyan mobile number: +2547XXXXXXXX, 2547XXXXXXXX, 07XXXXXXXX or 01XXXXXXXX",
                field="paymentMethod.phoneNumber",
            )
        super().__init__(f"254{written[1]}")
        self._shown = 4

    @property
    def masked(self) -> str:
        """The number as it may be logged: `2547****5678`."""
        return f"{self._text[:4]}****{self._text[-4:]}"


class PhonePrompt(msgspec.Struct, frozen=True):
    """A phone to be asked for money, and what its owner is told that it is for."""

    phone: Phone
    description: str = ""
    package_id: str = ""
    """What is paid for, where that is sold by packages."""
