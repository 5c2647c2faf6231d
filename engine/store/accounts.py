"""Accounts in Redis: a record each, and beside it in the same shard the claim on its e-mail address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from engine.accounts import Account
from engine.ids import AccountId, is_account_id, shard_of
from engine.store.batch import Batcher
from engine.store.keys import Keys, ShardKeys
from engine.store.repeating import Repeating
from engine.store.step import Refusal, Step

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Account).decode


class RedisAccounts:
    """The accounts of one dataset. A step that Redis did not confirm is repeated, and then finds its own trace."""

    def __init__(self, batcher: Batcher, keys: Keys, *, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        self._keys = keys
        repeating = Repeating(batcher, sleep)
        self._run = repeating.step
        self._read = repeating.command

    def shard_of(self, name: str) -> int:
        """The shard of an e-mail digest, where its account belongs too."""
        return shard_of(name, len(self._keys.shards))

    async def create(self, account: Account, email_digest: str) -> AccountId:
        """Write a new account with its claim on the address. Returns the id of the account that has the address.

        When that is another's, nothing was written.
        """
        shard = self._keys.shards[self.shard_of(email_digest)]
        assert self._shard(account.id) is shard, "the account lies beside its claim"
        step = Step()
        step.expect_value(shard.email(email_digest), "")
        step.do("SET", shard.email(email_digest), account.id)
        step.do("SET", shard.account(account.id), _encode(account))
        refusal = await self._run(step)
        return AccountId(refusal.found.decode()) if isinstance(refusal, Refusal) else account.id

    async def holder(self, email_digest: str) -> AccountId | None:
        """The id of the account that has the address."""
        raw = await self._read("GET", self._keys.shards[self.shard_of(email_digest)].email(email_digest))
        return AccountId(raw.decode()) if raw else None

    async def get(self, account_id: AccountId) -> Account | None:
        """The account, or None."""
        shard = self._shard(account_id)
        if shard is None:
            return None
        raw = await self._read("GET", shard.account(account_id))
        return _decode(raw) if raw else None

    async def replace(self, account: Account) -> None:
        """Write the next version, unless somebody else has written one."""
        shard = self._shard(account.id)
        assert shard is not None, "it was read from there"
        step = Step()
        step.expect_version(shard.account(account.id), account.version - 1)
        step.do("SET", shard.account(account.id), _encode(account))
        await self._run(step)

    def _shard(self, account_id: AccountId) -> ShardKeys | None:
        number = int(account_id[-2:], 16) if is_account_id(account_id) else len(self._keys.shards)
        return self._keys.shards[number] if number < len(self._keys.shards) else None
