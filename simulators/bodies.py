"""What the acquirer is asked: the bodies of its POSTs, checked as they are read."""

from __future__ import annotations

from typing import Annotated

import msgspec

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
AmountMinor = Annotated[int, msgspec.Meta(ge=1, le=10**15)]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{12,19}\Z")]
Cvv = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{3,4}\Z")]
Month = Annotated[int, msgspec.Meta(ge=1, le=12)]
Year = Annotated[int, msgspec.Meta(ge=2000, le=2999)]

_encode = msgspec.json.Encoder().encode


class Card(msgspec.Struct, frozen=True):
    """The card of a charge."""

    number: Number
    expiry_month: Month
    expiry_year: Year
    cvv: Cvv | None = None

    def __repr__(self) -> str:
        return f"Card(****{self.number[-4:]})"


class NewCharge(msgspec.Struct, frozen=True):
    """The body of `POST /charges`: either a card or a wallet token; without `capture` it is an authorization."""

    amount_minor: AmountMinor
    currency: Currency
    reference: Text
    card: Card | None = None
    wallet_token: Text | None = None
    capture: bool = True

    def __repr__(self) -> str:
        return f"NewCharge({self.reference})"

    def canonical(self) -> bytes:
        """The same bytes for the same wish, however it was written.

        `capture` is not among them, a decision's kind says it: the fingerprints in journals that are older than
        authorizations must go on fitting.
        """
        fields = msgspec.structs.asdict(self)
        del fields["capture"]
        return _encode(fields)


class FollowUp(msgspec.Struct, frozen=True):
    """The body of `POST /captures`, `/voids` and `/refunds`: `charge` is the id of what it follows."""

    charge: Text
    amount_minor: AmountMinor
    currency: Currency
    reference: Text

    def canonical(self) -> bytes:
        """The same bytes for the same wish, however it was written."""
        return _encode(self)
