"""What pushes to phones are called at the other end, and what callbacks have claimed about them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from engine.ids import PaymentId, is_payment_id, shard_of, shard_of_payment
from engine.pushing import Push
from engine.store.batch import Batcher
from engine.store.keys import Keys, ShardKeys
from engine.store.repeating import Repeating
from engine.store.step import Refusal, Step

_HINTS_MAX: Final = 20
"""Kept of each payment, the latest: anybody who knows the callback's address could send more."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Push).decode


class RedisPushes:
    """A push lies with its payment; its name leads there from a shard of its own."""

    def __init__(self, batcher: Batcher, keys: Keys, *, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        self._batcher = batcher
        self._keys = keys
        # The name of a push is told once: one lost answer of ours must not lose it. All but `note` may run twice.
        repeating = Repeating(batcher, sleep)
        self._run = repeating.step
        self._read = repeating.command

    async def taken(self, attempt_id: str, payment_id: PaymentId, push: Push) -> bool:
        """Remember what the push itself was answered. False when that name is another payment's already."""
        # The name first: if we die now it leads to a payment without a push, which is what there was before.
        if not await self._claim(push.checkout_id, payment_id):
            return False
        # Whatever a callback has said before: only this is from Safaricom for certain.
        await self._read("SET", self._keys.of(payment_id).push(attempt_id), _encode(push))
        return True

    async def adopt(self, attempt_id: str, payment_id: PaymentId, push: Push) -> bool:
        """Remember what a callback says. False when the name is another payment's, or the attempt's own is known."""
        place = self._keys.of(payment_id).push(attempt_id)
        found: bytes = await self._read("GET", place) or b""
        if found and not (known := _decode(found)).adopted:
            # The push's own answer has come meanwhile. If it says the same, the callback is as good as any other.
            return known.checkout_id == push.checkout_id
        if not await self._claim(push.checkout_id, payment_id):
            return False
        # A later callback takes the place of an earlier one: the first may have been a lie.
        step = Step()
        step.expect_value(place, found.decode())
        step.do("SET", place, _encode(push))
        refusal = await self._run(step)
        return not isinstance(refusal, Refusal) or _decode(refusal.found).checkout_id == push.checkout_id

    async def of_attempt(self, attempt_id: str) -> Push | None:
        """The attempt's push, if one is known to have been taken."""
        shard = self._shard_of_attempt(attempt_id)
        raw = await self._read("GET", shard.push(attempt_id)) if shard else None
        return _decode(raw) if raw else None

    async def payment_of(self, checkout_id: str) -> PaymentId | None:
        """The payment of the push of this name."""
        raw = await self._read("GET", self._checkout(checkout_id))
        return PaymentId(raw.decode()) if raw else None

    async def note(self, payment_id: PaymentId, hint: bytes) -> None:
        """Keep what a callback claimed; the latest few of each payment."""
        name = self._keys.of(payment_id).hints(payment_id)
        step = Step()
        step.do("RPUSH", name, hint)
        step.do("LTRIM", name, -_HINTS_MAX, -1)
        await self._batcher.step(step)

    async def _claim(self, checkout_id: str, payment_id: PaymentId) -> bool:
        """Whether the name is this payment's now, or was."""
        name = self._checkout(checkout_id)
        step = Step()
        step.expect_value(name, "")
        step.do("SET", name, payment_id)
        refusal = await self._run(step)
        return not isinstance(refusal, Refusal) or refusal.found == payment_id.encode()

    def _checkout(self, checkout_id: str) -> str:
        return self._keys.shards[shard_of(checkout_id, len(self._keys.shards))].push_name(checkout_id)

    def _shard_of_attempt(self, attempt_id: str) -> ShardKeys | None:
        payment_id = PaymentId(attempt_id.rpartition("-a")[0])
        if not is_payment_id(payment_id) or shard_of_payment(payment_id) >= len(self._keys.shards):
            return None
        return self._keys.of(payment_id)
