"""What pushes to phones are called at the other end, and what callbacks have claimed about them."""

from __future__ import annotations

from typing import Final

import msgspec

from engine.ids import PaymentId, is_payment_id, shard_of, shard_of_payment
from engine.pushing import Push
from engine.store.batch import Batcher
from engine.store.keys import Keys, ShardKeys
from engine.store.step import Refusal, Step

_HINTS_MAX: Final = 20
"""Kept of each payment, the latest: anybody who knows the callback's address could send more."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Push).decode


class RedisPushes:
    """A push lies with its payment; its name leads there from a shard of its own."""

    def __init__(self, batcher: Batcher, keys: Keys) -> None:
        self._batcher = batcher
        self._keys = keys

    async def taken(self, attempt_id: str, payment_id: PaymentId, push: Push) -> bool:
        """Remember it. False when that name is another payment's already, or the attempt has another push."""
        name = self._checkout(push.checkout_id)
        # The name first: if we die now it leads to a payment without a push, which is what there was before.
        if not await self._claim(name, payment_id, payment_id):
            return False
        shard = self._keys.of(payment_id)
        return await self._claim(shard.push(attempt_id), _encode(push), push.checkout_id)

    async def of_attempt(self, attempt_id: str) -> Push | None:
        """The attempt's push, if one is known to have been taken."""
        shard = self._shard_of_attempt(attempt_id)
        raw = await self._batcher.command("GET", shard.push(attempt_id)) if shard else None
        return _decode(raw) if raw else None

    async def payment_of(self, checkout_id: str) -> PaymentId | None:
        """The payment of the push of this name."""
        raw = await self._batcher.command("GET", self._checkout(checkout_id))
        return PaymentId(raw.decode()) if raw else None

    async def note(self, payment_id: PaymentId, hint: bytes) -> None:
        """Keep what a callback claimed; the latest few of each payment."""
        name = self._keys.of(payment_id).hints(payment_id)
        step = Step()
        step.do("RPUSH", name, hint)
        step.do("LTRIM", name, -_HINTS_MAX, -1)
        await self._batcher.step(step)

    async def _claim(self, name: str, value: bytes | str, mark: str) -> bool:
        """Whether the key is ours now, or was: what is there then has our mark in it."""
        step = Step()
        step.expect_value(name, "")
        step.do("SET", name, value)
        refusal = await self._batcher.step(step)
        return not isinstance(refusal, Refusal) or mark.encode() in refusal.found

    def _checkout(self, checkout_id: str) -> str:
        return self._keys.shards[shard_of(checkout_id, len(self._keys.shards))].push_name(checkout_id)

    def _shard_of_attempt(self, attempt_id: str) -> ShardKeys | None:
        payment_id = PaymentId(attempt_id.rpartition("-a")[0])
        if not is_payment_id(payment_id) or shard_of_payment(payment_id) >= len(self._keys.shards):
            return None
        return self._keys.of(payment_id)
