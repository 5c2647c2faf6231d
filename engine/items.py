"""Open items: what an acquirer did and our books do not show, kept until somebody has dealt with it."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

import msgspec

_ITEM_ID: Final = re.compile(r"item-[0-9a-f]{22}\Z")


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One effect at an acquirer that we did not expect. The same effect has the same id, however often it is found."""

    id: str
    acquirer: str
    attempt: str
    payment_id: str
    """As the acquirer names it; it need not be one of ours."""
    stated: str
    """What the acquirer says, for example `charge 7548 USD`."""
    believed: str
    """What our record said when the item was opened."""
    transaction_id: str
    found_by: str
    """`statement` or `question`."""
    opened_ms: int
    closed_ms: int = 0
    closed_by: str = ""
    """Who closed it, and why."""

    @property
    def open(self) -> bool:
        """Whether it still waits for somebody."""
        return not self.closed_ms

    def closed(self, by: str, *, now_ms: int) -> Item:
        """The item, dealt with."""
        return msgspec.structs.replace(self, closed_ms=now_ms, closed_by=by)

    def over(self, found: Item | None) -> Item | None:
        """What to write where `found` stands; None when that says it already. What is closed stays closed."""
        if found is None:
            return self
        if found.open and not self.open:
            return found.closed(self.closed_by, now_ms=self.closed_ms)
        return None


def item_id(acquirer: str, attempt: str, stated: str, *, shard: int) -> str:
    """The id of an item; it ends with its shard, which is that of the payment it is about."""
    digest = blake2b("\n".join((acquirer, attempt, stated)).encode(), digest_size=10).hexdigest()
    return f"item-{digest}{shard:02x}"


def is_item_id(text: str) -> bool:
    """Whether `text` has the form of an item's id."""
    return _ITEM_ID.match(text) is not None


def shard_of_item(item: str) -> int:
    """The shard that the id names."""
    return int(item[-2:], 16)
