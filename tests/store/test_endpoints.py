"""Webhook endpoints in Redis: one list an owner, and who is told of everything."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from engine.ids import PaymentIds
from engine.store.endpoints import RedisEndpoints
from engine.webhooks import Endpoint
from tests.store.datasets import Dataset
from tests.store.making import NOW

IDS = PaymentIds()


def endpoints(store: Dataset) -> RedisEndpoints:
    return RedisEndpoints(store.batcher, store.keys, sleep=_no_pause)


async def _no_pause(_: float) -> None:
    await asyncio.sleep(0)


def endpoint(store: Dataset, owner: str = "ada", **fields: Any) -> Endpoint:
    """A new one."""
    given = {
        "version": 1, "id": IDS.mint_endpoint(endpoints(store).shard_of(owner)), "owner": owner, "everything": False,
        "url": "https://shop.example.com/", "event_types": (), "description": "", "created_ms": NOW,
        "secret": b"\x00sealed\xff", **fields,
    }  # fmt: skip
    return Endpoint(**given)


async def test_an_endpoint_is_found_by_its_id_and_by_its_owner_until_it_is_deleted(store: Dataset) -> None:
    known = endpoints(store)
    first, second = endpoint(store), endpoint(store)
    for each in (first, second, first):
        assert await known.create(each, endpoints_max=2)
    assert await known.get(first.id) == first
    assert await known.of_owner("ada") == [second, first]
    for _ in range(2):
        await known.delete(first)
    assert await known.get(first.id) is None
    assert await known.of_owner("ada") == [second]
    await known.delete(second)
    assert await store.names() == set()


async def test_of_many_that_are_made_at_once_as_many_are_as_may_be(store: Dataset) -> None:
    known = endpoints(store)
    made = await asyncio.gather(*(known.create(endpoint(store), endpoints_max=5) for _ in range(12)))
    assert made.count(True) == 5
    assert len(await known.of_owner("ada")) == 5
    assert len([name for name in await store.names() if ":hook:" in name]) == 5


async def test_a_change_is_made_on_the_version_that_it_was_made_of(store: Dataset) -> None:
    known, first = endpoints(store), endpoint(store)
    await known.create(first, endpoints_max=1)
    newer = msgspec.structs.replace(first, version=2, disabled="gone")
    assert await known.change(newer)
    assert await known.change(newer), "its own second try finds its trace"
    assert not await known.change(msgspec.structs.replace(first, version=2, disabled="failing"))
    assert await known.get(first.id) == newer
    await known.delete(newer)
    assert not await known.change(msgspec.structs.replace(newer, version=3))
    assert await store.names() == set()


async def test_who_listens_is_those_owners_and_those_who_are_told_of_everything(store: Dataset) -> None:
    known = endpoints(store)
    owners = [f"user-{number}" for number in range(30)]
    every = {owner: endpoint(store, owner, everything=owner in owners[:3]) for owner in owners}
    for each in every.values():
        await known.create(each, endpoints_max=1)
    found = await known.listening([owners[1], owners[9], "nobody"])
    assert found.by_owner == {owner: [every[owner]] for owner in (owners[1], owners[9])}
    assert sorted(each.id for each in found.of_all) == sorted(every[owner].id for owner in owners[:3])
    await known.delete(every[owners[0]])
    assert len((await known.listening([])).of_all) == 2


async def test_an_id_that_nobody_made_is_unknown(store: Dataset) -> None:
    for name in ("", "we_", "pay-1", "we_" + "0" * 26 + "ff", "we_" + "0" * 26 + "00", "x" * 400):
        assert await endpoints(store).get(name) is None
