"""Webhook endpoints in Redis: a record each, and beside it, in the shard of its owner, the list of the owner's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from engine.errors import Overloaded
from engine.ids import is_endpoint_id, shard_of
from engine.store.batch import Batcher, RedisClient
from engine.store.keys import Keys, ShardKeys
from engine.store.repeating import Repeating
from engine.store.step import Refusal, Step
from engine.webhooks import Endpoint

_CONFLICTS_MAX: Final = 64
_PAGE: Final = 128

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Endpoint).decode
_decode_ids = msgspec.json.Decoder(list[str]).decode


class Listening(NamedTuple):
    """Who is to be told: the endpoints of some owners, and those that are told of everybody's payments."""

    by_owner: dict[str, list[Endpoint]]
    of_all: list[Endpoint]


class RedisEndpoints:
    """The endpoints of one dataset. A step that Redis did not confirm is repeated, and then finds its own trace."""

    def __init__(self, batcher: Batcher, keys: Keys, *, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        self._keys = keys
        repeating = Repeating(batcher, sleep)
        self._run = repeating.step
        self._read = repeating.command

    def shard_of(self, owner: str) -> int:
        """The shard of an owner, where the endpoints belong too."""
        return shard_of(owner, len(self._keys.shards))

    async def create(self, endpoint: Endpoint, *, endpoints_max: int) -> bool:
        """Write a new endpoint. False when its owner has as many as it may have."""
        shard = self._of_owner(endpoint.owner)
        for _ in range(_CONFLICTS_MAX):
            listed, ids = await self._listed(shard, endpoint.owner)
            if endpoint.id in ids:
                return True
            if len(ids) >= endpoints_max:
                return False
            step = Step()
            step.expect_value(shard.hooks(endpoint.owner), listed)
            step.do("SET", shard.hooks(endpoint.owner), _encode([*ids, endpoint.id]))
            step.do("SET", shard.hook(endpoint.id), _encode(endpoint))
            if endpoint.everything:
                step.do("SADD", shard.hooks_of_all, endpoint.id)
            if not isinstance(await self._run(step), Refusal):
                return True
        raise Overloaded("changes of one owner's webhook endpoints")

    async def delete(self, endpoint: Endpoint) -> None:
        """Forget it. Safe to call twice."""
        shard = self._of_owner(endpoint.owner)
        for _ in range(_CONFLICTS_MAX):
            listed, ids = await self._listed(shard, endpoint.owner)
            if endpoint.id not in ids:
                return
            left = [each for each in ids if each != endpoint.id]
            step = Step()
            step.expect_value(shard.hooks(endpoint.owner), listed)
            if left:
                step.do("SET", shard.hooks(endpoint.owner), _encode(left))
            else:
                step.do("DEL", shard.hooks(endpoint.owner))
            step.do("DEL", shard.hook(endpoint.id))
            step.do("SREM", shard.hooks_of_all, endpoint.id)
            if not isinstance(await self._run(step), Refusal):
                return
        raise Overloaded("changes of one owner's webhook endpoints")

    async def get(self, endpoint_id: str) -> Endpoint | None:
        """The endpoint, or None."""
        shard = self._of_id(endpoint_id)
        raw = await self._read("GET", shard.hook(endpoint_id)) if shard else None
        return _decode(raw) if raw else None

    async def change(self, endpoint: Endpoint) -> bool:
        """Write the next version. False when the one before is not the current one."""
        shard = self._of_owner(endpoint.owner)
        record = _encode(endpoint)
        step = Step()
        step.expect_version(shard.hook(endpoint.id), endpoint.version - 1)
        step.do("SET", shard.hook(endpoint.id), record)
        refusal = await self._run(step)
        return not isinstance(refusal, Refusal) or refusal.found == record

    async def of_owner(self, owner: str) -> list[Endpoint]:
        """The owner's endpoints, the latest first."""
        shard = self._of_owner(owner)
        _, ids = await self._listed(shard, owner)
        return (await self._records(shard, ids))[::-1]

    async def listening(self, owners: Collection[str]) -> Listening:
        """Who is to be told of payments of these owners."""
        names = list(owners)
        found = await asyncio.gather(
            *(self._listed(self._of_owner(owner), owner) for owner in names),
            *(self._of_all(shard) for shard in self._keys.shards),
        )
        ids: list[tuple[ShardKeys, list[str]]] = [
            (self._of_owner(owner), listed) for owner, (_, listed) in zip(names, found, strict=False)
        ]
        everywhere = list(zip(self._keys.shards, (listed for _, listed in found[len(names) :]), strict=True))
        pages = await asyncio.gather(*(self._records(shard, some) for shard, some in (*ids, *everywhere)))
        by_owner = {owner: page for owner, page in zip(names, pages, strict=False) if page}
        return Listening(by_owner, [endpoint for page in pages[len(names) :] for endpoint in page])

    async def _of_all(self, shard: ShardKeys) -> tuple[str, list[str]]:
        return "", sorted(raw.decode() for raw in await self._read("SMEMBERS", shard.hooks_of_all))

    async def _listed(self, shard: ShardKeys, owner: str) -> tuple[str, list[str]]:
        """The list of ids as it is written, which a step can be conditional on, and the ids."""
        raw: bytes = await self._read("GET", shard.hooks(owner)) or b""
        return raw.decode(), _decode_ids(raw) if raw else []

    async def _records(self, shard: ShardKeys, ids: Iterable[str]) -> list[Endpoint]:
        names = [shard.hook(endpoint_id) for endpoint_id in ids]
        # One that was deleted between the two reads is no more.
        return [_decode(raw) for raw in await self._read("MGET", *names) if raw] if names else []

    def _of_owner(self, owner: str) -> ShardKeys:
        return self._keys.shards[self.shard_of(owner)]

    def _of_id(self, endpoint_id: str) -> ShardKeys | None:
        number = int(endpoint_id[-2:], 16) if is_endpoint_id(endpoint_id) else len(self._keys.shards)
        return self._keys.shards[number] if number < len(self._keys.shards) else None


class EndpointScan:
    """The endpoints of a dataset as a rotation of keys sees them: none that is there all the time is left out."""

    def __init__(self, client: RedisClient, endpoints: RedisEndpoints) -> None:
        self._client = client
        self.get = endpoints.get
        self.change = endpoints.change

    async def pages(self) -> AsyncIterator[Sequence[str]]:
        """Ids, a page at a time. Redis may show one twice while it resizes."""
        page: list[str] = []
        async for raw in self._client.scan_iter(match="{p*}:hook:we_*", count=_PAGE):
            page.append(raw.decode().rpartition(":")[2])
            if len(page) >= _PAGE:
                yield page
                page = []
        if page:
            yield page
