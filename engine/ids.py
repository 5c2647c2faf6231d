"""Ids and time. A payment id is a ULID and the shard that holds it, so any of its keys is found from the id."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NewType
from zlib import crc32

PaymentId = NewType("PaymentId", str)
AccountId = NewType("AccountId", str)

Clock = Callable[[], int]
"""Milliseconds since 1970, UTC."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_PAYMENT_ID: Final = re.compile(rf"pay-[{_ALPHABET}]{{26}}[0-9a-f]{{2}}\Z")
_ACCOUNT_ID: Final = re.compile(rf"acc-[{_ALPHABET}]{{26}}[0-9a-f]{{2}}\Z")
_ENDPOINT_ID: Final = re.compile(rf"we_[{_ALPHABET}]{{26}}[0-9a-f]{{2}}\Z")
_CARD_ID: Final = re.compile(rf"card-[{_ALPHABET}]{{26}}[0-9a-f]{{2}}\Z")


def now_ms() -> int:
    """The wall clock, in whole milliseconds."""
    return time.time_ns() // 1_000_000


def _base32(value: int, pairs: int) -> str:
    """`value` in Crockford's base 32, two characters a pair, most significant first."""
    return "".join([_PAIRS[(value >> (10 * place)) & 0x3FF] for place in range(pairs - 1, -1, -1)])


class PaymentIds:
    """Mints payment ids: `pay-`, a 26-character lower-case ULID, two hex digits of the shard.

    Ids sort by the millisecond of their making, which the lists by user rely on.
    """

    def __init__(self, clock: Clock = now_ms, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._random_bytes = random_bytes

    def mint(self, shard: int) -> PaymentId:
        """A new id for a payment that lives in `shard`."""
        return PaymentId(f"pay-{self._ulid()}{shard:02x}")

    def mint_refund(self) -> str:
        """A new id for a refund: `ref-` and a ULID. It lives with its payment."""
        return f"ref-{self._ulid()}"

    def mint_account(self, shard: int) -> AccountId:
        """A new id for an account that lives in `shard`."""
        return AccountId(f"acc-{self._ulid()}{shard:02x}")

    def mint_card(self, shard: int) -> str:
        """A new id for a stored card that lives in `shard`: `card-`, a ULID, two hex digits."""
        return f"card-{self._ulid()}{shard:02x}"

    def mint_endpoint(self, shard: int) -> str:
        """A new id for a webhook endpoint that lives in `shard`: `we_`, a ULID, two hex digits."""
        return f"we_{self._ulid()}{shard:02x}"

    def _ulid(self) -> str:
        return _base32((self._clock() << 80) | int.from_bytes(self._random_bytes(10), "big"), 13)


def qualified(surface: str, name: str) -> str:
    """A user's or an order's name as Redis knows it: every surface has its own, so equal ones do not meet.

    The core surface's names cannot contain `|`.
    """
    return name if surface == "core" else f"{surface}|{name}"


def is_payment_id(text: str) -> bool:
    """Whether `text` has the form of a payment id."""
    return _PAYMENT_ID.match(text) is not None


def is_account_id(text: str) -> bool:
    """Whether `text` has the form of an account id."""
    return _ACCOUNT_ID.match(text) is not None


def is_card_id(text: str) -> bool:
    """Whether `text` has the form of a stored card's id."""
    return _CARD_ID.match(text) is not None


def is_refund_id(text: str) -> bool:
    """Whether `text` names a refund, or another request to change a payment."""
    return text.startswith("ref-")


def is_endpoint_id(text: str) -> bool:
    """Whether `text` has the form of a webhook endpoint's id."""
    return _ENDPOINT_ID.match(text) is not None


def shard_of_card(card_id: str) -> int:
    """The shard that the id names."""
    return int(card_id[-2:], 16)


def hashed_id(prefix: str, digest: bytes) -> str:
    """An id of the length of all others, made from at least 17 bytes of a hash: the same again for the same thing."""
    return prefix + _base32(int.from_bytes(digest[:17], "big") & ((1 << 130) - 1), 13)


def shard_of_payment(payment_id: PaymentId) -> int:
    """The shard that the id names."""
    return int(payment_id[-2:], 16)


def shard_of(text: str, shards: int) -> int:
    """The shard of anything that is found by its own name: an order, an idempotency key."""
    return crc32(text.encode()) % shards


def minted_ms(payment_id: PaymentId) -> int:
    """When the id was made: its first ten characters after the prefix."""
    ms = 0
    for character in payment_id[4:14]:
        ms = ms * 32 + _ALPHABET.index(character)
    return ms


def rfc3339(ms: int) -> str:
    """A time as users see it: UTC, milliseconds, `Z`."""
    seconds, rest = divmod(ms, 1000)
    return f"{_rfc3339_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=64)
def _rfc3339_second(seconds: int) -> str:
    # Most times that are shown are of this very second.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def from_rfc3339(text: str) -> int:
    """Milliseconds of a time with an offset or `Z`. Raises `ValueError`."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset or Z")
    # Not through a float: it would lose the last millisecond now and then.
    since = moment - _EPOCH
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
