"""The acquirer's test cards.

| number | constant | what the acquirer does |
|---|---|---|
| 4242424242424242 | `APPROVED` | approves, as any other Luhn-valid number does |
| 4111111111111111 | `APPROVED_VISA` | approves |
| 5555555555554444 | `APPROVED_MASTERCARD` | approves |
| 4000000000000002 | `DECLINED` | declines: `card_declined` |
| 4000000000009995 | `INSUFFICIENT_FUNDS` | declines: `insufficient_funds` |
| 4000000000009987 | `LOST` | declines: `lost_card` |
| 4000000000000069 | `EXPIRED` | declines: `expired_card` |
| 4009730000000104 | `SILENT_BUT_CHARGES` | charges, never answers; a query by attempt tells the truth |
| 4009730000000203 | `LATE` | charges, answers late (15 s unless told otherwise) |
| 4009730000000302 | `ERROR_AFTER_CHARGE` | charges, answers 500 |
| 4009730000000401 | `ERROR_BEFORE_CHARGE` | answers 500 and does nothing; a query by attempt finds nothing |
| 4009730000000500 | `DECLINED_TRY_AGAIN` | declines: `try_again_later`, the only one that is retryable |

The first seven are the field's own, the 400973 ones exist only here. A card keeps its manners when the same
attempt is sent again: the silent one stays silent, and still charges only once.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

APPROVED = "4242424242424242"
APPROVED_VISA = "4111111111111111"
APPROVED_MASTERCARD = "5555555555554444"
DECLINED = "4000000000000002"
INSUFFICIENT_FUNDS = "4000000000009995"
LOST = "4000000000009987"
EXPIRED = "4000000000000069"
SILENT_BUT_CHARGES = "4009730000000104"
LATE = "4009730000000203"
ERROR_AFTER_CHARGE = "4009730000000302"
ERROR_BEFORE_CHARGE = "4009730000000401"
DECLINED_TRY_AGAIN = "4009730000000500"

# The ones whose answer is not simply the outcome.
ODD_ANSWERS = frozenset({SILENT_BUT_CHARGES, LATE, ERROR_AFTER_CHARGE})


class Decline(NamedTuple):
    """Why a card is declined, and whether trying it again makes sense."""

    code: str
    reason: str
    retryable: bool = False


DECLINES: Mapping[str, Decline] = MappingProxyType(
    {
        DECLINED: Decline("card_declined", "Card declined"),
        INSUFFICIENT_FUNDS: Decline("insufficient_funds", "Insufficient funds"),
        LOST: Decline("lost_card", "Lost card"),
        EXPIRED: Decline("expired_card", "Expired card"),
        DECLINED_TRY_AGAIN: Decline("try_again_later", "Try again later", retryable=True),
    }
)

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn_valid(number: str) -> bool:
    """Whether the check digit fits; the number must be digits only."""
    digits = [int(digit) for digit in reversed(number)]
    return (sum(digits[0::2]) + sum(_DOUBLED[digit] for digit in digits[1::2])) % 10 == 0


def brand_of(number: str) -> str:
    """The scheme that the first digits belong to."""
    if number[0] == "4":
        return "visa"
    if 51 <= int(number[:2]) <= 55 or 2221 <= int(number[:4]) <= 2720:
        return "mastercard"
    return "amex" if number[:2] in {"34", "37"} else "other"
