"""Pushes: a phone is asked to pay, and what may be heard about it.

There is no idempotency key at the other end. A push whose answer was lost is `Unknown`, nothing can be asked about
it, and nobody may send it again: the phone would be asked to pay twice.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from engine.charging import NotSent, Unknown
from engine.errors import AmountRefused
from engine.money import DECIMALS, Money
from engine.phones import Phone

CURRENCY: Final = "KES"
_MINOR_PER_SHILLING: Final = int(10 ** DECIMALS[CURRENCY])


def whole_shillings(amount: Money) -> int:
    """The amount as M-Pesa takes it. Raises `AmountRefused` for another currency, for cents, and below one shilling."""
    if amount.currency != CURRENCY:
        raise AmountRefused(f"M-Pesa moves {CURRENCY} only", field="currency")
    shillings, cents = divmod(amount.minor, _MINOR_PER_SHILLING)
    if cents or shillings < 1:
        raise AmountRefused("amount must be whole shillings, at least one")
    return shillings


class PushRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to pay. Raises `AmountRefused` unless the amount is whole shillings.

    `reference` and `description` are shown to the payer as far as they fit: 12 and 13 characters.
    `callback_url` is where the result will be told; its path is a secret.
    """

    amount: Money
    phone: Phone
    reference: str
    description: str
    callback_url: str

    def __post_init__(self) -> None:
        whole_shillings(self.amount)

    def __repr__(self) -> str:
        return f"PushRequest({self.amount}, {self.phone}, {self.reference!r})"


class PushTaken(NamedTuple):
    """The phone will be asked. `checkout_id` is the only name under which the push can be asked about."""

    checkout_id: str
    merchant_request_id: str


class PushRefused(NamedTuple):
    """Certainly nothing was pushed. `code` is the raw one."""

    code: str
    reason: str


PushAnswer = PushTaken | PushRefused | NotSent | Unknown
"""`NotSent` may be sent again, `Unknown` never."""


class Paid(NamedTuple):
    """The payer has paid."""


class NotPaid(NamedTuple):
    """The payer has not paid and will not any more. `code` is the raw one: 1032 is cancelled."""

    code: str
    reason: str


class StillWaiting(NamedTuple):
    """The payer has not decided yet."""


class CannotTell(NamedTuple):
    """The question got no answer about the payer. Ask again, not before `retry_after_s`."""

    why: str
    retry_after_s: float


PushStatus = Paid | NotPaid | StillWaiting | CannotTell


class PushReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a callback claims. Anybody could have sent it: a reason to ask, not a fact."""

    checkout_id: str
    merchant_request_id: str
    result_code: int
    description: str
    amount: Money | None = None
    receipt: str | None = None
    phone: Phone | None = None
