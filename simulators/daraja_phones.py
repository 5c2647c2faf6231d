"""How a simulated payer behaves, by the last four digits of the phone number. Any other number pays at once.

The first eight are the result codes themselves.

| last digits | what the payer, or the network, does |
|---|---|
| 0001 | has too little on the account: result 1 |
| 1001 | is in the middle of something else: result 1001 |
| 1019 | lets it expire: result 1019 |
| 1025 | is never asked, the push went wrong: result 1025 |
| 1032 | cancels: result 1032 |
| 1037 | cannot be reached: result 1037 |
| 2001 | types a wrong PIN: result 2001 |
| 9999 | is never asked, the push went wrong: result 9999 |
| 7001 | pays after a moment (`moment_s`); until then "being processed" |
| 7002 | decides nothing until `POST /_decide` |
| 7003 | pays, but the push is never answered |
| 7004 | pays, but the push is answered with 500 |
| 7005 | pays; there is no callback |
| 7006 | pays; the callback comes twice |
| 7007 | pays; the callback comes late (`late_s`) |
| 7008 | pays; the callback comes before the push's own answer |
| 7009 | pays; before the true callback comes one with another amount |
| 7010 | pays; before the true callback comes one with another phone |
| 7011 | pays; before the true callback comes one about an unknown checkout |
| 7012 | cancels; before the true callback comes one that says paid |
| 7101 | nothing is pushed: 400.002.02, a bad phone number |
| 7102 | nothing is pushed: 500.001.1001, the subscriber is locked |
| 7103 | nothing is pushed: 500.003.02, too many requests |
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

DEFAULT = "254712345678"
"""Pays at once."""

PAID = 0
CANCELLED = 1032

RESULTS: Mapping[int, str] = MappingProxyType(
    {
        PAID: "The service request is processed successfully.",
        1: "The balance is insufficient for the transaction.",
        1001: "Unable to lock subscriber, a transaction is already in process for the current subscriber",
        1019: "Transaction expired. No MO has been received",
        1025: "An error occurred while sending a push request",
        CANCELLED: "Request cancelled by user",
        1037: "DS timeout user cannot be reached",
        2001: "The initiator information is invalid.",
        9999: "An error occurred while sending a push request",
    }
)


class Decides(Enum):
    """When the payer decides."""

    AT_ONCE = "at once"
    IN_A_MOMENT = "in a moment"
    WHEN_TOLD = "when told"


class Answers(Enum):
    """How the push itself is answered."""

    WELL = "well"
    NEVER = "never"
    WITH_500 = "with 500"
    AFTER_THE_CALLBACK = "after the callback"


class Telling(Enum):
    """One callback."""

    TRUE = "true"
    LATE = "late"
    OTHER_AMOUNT = "other amount"
    OTHER_PHONE = "other phone"
    OTHER_CHECKOUT = "other checkout"
    PAID = "paid"


class Refused(NamedTuple):
    """The error that a push is turned away with."""

    status: int
    code: str
    message: str


class Manners(NamedTuple):
    """What happens to a push to one phone."""

    result: int = PAID
    decides: Decides = Decides.AT_ONCE
    answers: Answers = Answers.WELL
    tells: tuple[Telling, ...] = (Telling.TRUE,)
    refused: Refused | None = None


_MANNERS: Mapping[str, Manners] = MappingProxyType(
    {f"{code:04}": Manners(code) for code in RESULTS if code != PAID}
    | {
        "7001": Manners(decides=Decides.IN_A_MOMENT),
        "7002": Manners(decides=Decides.WHEN_TOLD),
        "7003": Manners(answers=Answers.NEVER),
        "7004": Manners(answers=Answers.WITH_500),
        "7005": Manners(tells=()),
        "7006": Manners(tells=(Telling.TRUE, Telling.TRUE)),
        "7007": Manners(tells=(Telling.LATE,)),
        "7008": Manners(answers=Answers.AFTER_THE_CALLBACK),
        "7009": Manners(tells=(Telling.OTHER_AMOUNT, Telling.TRUE)),
        "7010": Manners(tells=(Telling.OTHER_PHONE, Telling.TRUE)),
        "7011": Manners(tells=(Telling.OTHER_CHECKOUT, Telling.TRUE)),
        "7012": Manners(CANCELLED, tells=(Telling.PAID, Telling.TRUE)),
        "7101": Manners(refused=Refused(400, "400.002.02", "Bad Request - Invalid PhoneNumber")),
        "7102": Manners(refused=Refused(500, "500.001.1001", RESULTS[1001])),
        "7103": Manners(refused=Refused(500, "500.003.02", "Error Occurred: Spike Arrest Violation")),
    }
)


def manners_of(phone: str) -> Manners:
    """How a push to this phone goes."""
    return _MANNERS.get(phone[-4:], Manners())
