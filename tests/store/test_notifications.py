"""Notifications and waiting mails, the same over every implementation of the store."""

from __future__ import annotations

import asyncio

from engine.notifications import Notification
from engine.store.mails import RedisMails
from engine.store.notifications import RedisNotifications, Taken
from tests.store.datasets import Dataset
from tests.store.making import NOW

KEPT_S = 7 * 86_400


def a_notification(name: str, *channels: str) -> Notification:
    return Notification(name, "user-1", "payment_completed", "pay-1", "2026-01-01T00:00:00.000Z", "t", "x", channels)


def notifications(store: Dataset) -> RedisNotifications:
    return RedisNotifications(store.batcher, store.keys, kept_s=KEPT_S)


async def test_a_notification_is_written_once_and_stays_as_it_was(store: Dataset) -> None:
    kept = notifications(store)
    first = a_notification("pay-1-1", "log")
    assert await kept.take([first]) == [Taken(True, first, ("log",))]
    assert await kept.take([a_notification("pay-1-1", "log", "mail")]) == [Taken(False, first, ("log",))]
    assert await kept.get("pay-1-1") == (first, {})
    assert await kept.get("pay-1-2") is None


async def test_of_many_that_write_at_once_one_has_written(store: Dataset) -> None:
    kept = notifications(store)
    taken = await asyncio.gather(*(kept.take([a_notification("pay-1-1", "log")]) for _ in range(8)))
    assert sum(each.new for [each] in taken) == 1


async def test_a_channels_first_state_stays_and_its_end_replaces_it(store: Dataset) -> None:
    kept = notifications(store)
    mailed = a_notification("pay-1-1", "log", "mail")
    await kept.take([mailed])
    await kept.note_first("mail", {"pay-1-1": "waiting"})
    assert (await kept.take([mailed]))[0].left == ("log",)
    await kept.note("pay-1-1", "mail", "sent")
    await kept.note_first("mail", {"pay-1-1": "waiting"})
    assert await kept.get("pay-1-1") == (mailed, {"mail": "sent"})


async def test_whatever_is_written_has_an_end(store: Dataset) -> None:
    """Also a state that comes when its notification has just gone."""
    kept = notifications(store)
    await kept.take([a_notification("pay-1-1", "log")])
    await kept.note("pay-2-1", "mail", "sent")
    for shard in store.keys.shards:
        for name in ("pay-1-1", "pay-2-1"):
            if await store.client.exists(shard.notification(name)):
                assert 0 < await store.client.ttl(shard.notification(name)) <= KEPT_S
    assert await kept.get("pay-2-1") is None


async def test_a_mail_waits_is_leased_tried_again_and_ends(store: Dataset) -> None:
    mails = RedisMails(store.batcher, store.keys, lease_s=60)
    assert await mails.add([("pay-1-1", "user|1"), ("pay-1-2", "user|1")], now_ms=NOW) == [True, True]
    assert await mails.add([("pay-1-1", "user|1")], now_ms=NOW) == [True]
    assert (await mails.depth()).waiting == 2
    [first, second] = sorted(await mails.due(NOW, 1000))
    assert (first.notification_id, first.user_id, first.tries) == ("pay-1-1", "user|1", 0)
    assert await mails.due(NOW, 1000) == []
    await mails.again(first._replace(tries=1), due_ms=NOW + 5000)
    await mails.done(second, now_ms=NOW)
    assert await mails.due(NOW + 4999, 1000) == []
    [again] = await mails.due(NOW + 5000, 1000)
    assert (again.notification_id, again.tries) == ("pay-1-1", 1)
    [back] = await mails.due(again.till_ms + 1, 1000)
    await mails.done(again, now_ms=NOW)
    assert (await mails.depth()).waiting == 1, "whose lease is over changes nothing"
    await mails.done(back, now_ms=NOW)
    assert (await mails.depth()).waiting == 0
